"""The report of a run, its tables, and the card of what is exported."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rayworks.core.report import Cell, Report, Table
from rayworks.systems.regulation import figures
from rayworks.systems.regulation.config import Config
from rayworks.systems.regulation.design import Design, value_distribution
from rayworks.systems.regulation.price_curve import PriceCurve, published_curve
from rayworks.systems.regulation.price_points import gap_trend, points_from_gaps

Values = Mapping[str, Any]
OFTEN = 0.1
"""Chance to have no group above which the report warns."""
LISTED = 9
"""Prices of the curves that the table shows."""


def headline(config: Config, design: Values) -> dict[str, Cell]:
    """The numbers that runs are compared by, all of the one design; more of them for a run of the design alone."""
    played, certificate = design["round"], design["certificates"]["entrants"]
    names = ("participation_auction", "participation_reserve", "mean_bid_auction", "compliance_gain")
    more = ("participation_compliance", "premium_paid", "compliance_auction") if config.design_alone else ()
    spend = played["participation_auction"] * played["mean_bid_auction"]
    return {
        **{name: played[name] for name in names},
        "exploitability": certificate["max_gain"],
        "certificate_grid": certificate["grid"],
        **{name: played[name] for name in more},
        **({"compliance_spend": spend} if more else {}),
    }


def design_report(config: Config, design: Values, title: str) -> Report:
    """One point of a sweep: numbers only."""
    measured, tables = headline(config, design), _design_tables(design)
    return Report("regulation", config.run.name, f"{title}: one design", measured, tables)


def build_report(config: Config, design: Design, results: Values, title: str) -> Report:
    """All that the run's stages found."""
    measured = results["design"]
    tables = _design_tables(measured)
    notes: list[str] = []
    distributions = {name: value_distribution(name) for name in config.distributions}
    drawn = {"bids.png": (figures.bids(design, distributions), "What each type spends on compliance.")}
    if results["curves"]:
        for distribution, curves in results["curves"].items():
            tables += _curve_tables(distribution, curves)
        drawn["participation.png"] = (
            figures.participation(results["curves"]),
            "Both mechanisms against the price of the threshold; lines by quadrature, dots by drawing builders.",
        )
    grid = config.certificate
    drawn["regret.png"] = (
        figures.regret(design.auction, grid.types, grid.deviations),
        f"Gains from leaving the bid: on average, and type by type ({grid.types} types x {grid.deviations} bids).",
    )
    if results["price"]:
        picture, more, said = _price_of_safety(config, results["price"])
        drawn["price_of_safety.png"], tables, notes = picture, [*tables, *more], [*notes, *said]
    learners = [*results.get("learning", []), *([results["policy gradient"]] if "policy gradient" in results else [])]
    if learners:
        tables.append(_learning_table(learners, f"{config.learning.types} types x {config.learning.bids} bids."))
        drawn["learning.png"] = (figures.learning(learners), "Builders who learn to bid against each other.")
    noise = results.get("noise", [])
    if noise:
        section = config.noise
        certified = f"{NOISE_NOTE} on {section.values} x {section.shares} types x {section.bids} bids and staying out."
        tables.append(_rows("Readings with noise, answered by the builders", noise, certified))
    if "stress" in results:
        found = dict(zip(("rings", "sybils", "test data", "values"), results["stress"], strict=True))
        tables += _stress_tables(found)
        drawn["stress.png"] = (figures.stress(found, noise), "What happens when the assumptions fail.")
    if measured["left_over"] > OFTEN:
        notes.append(
            f"Groups rarely fill: of {measured['builders']} builders so few enter that one has no group of "
            f"{design.auction.group_size} with chance {measured['left_over']:.0%}, and wins at a group's rate whatever it "
            "bids; smaller groups pay for more safety."
        )
    if design.curve.warning:
        notes.append(f"Price curve in use: {design.curve.warning}.")
    if measured["round"]["beyond_curve"]:
        share = measured["round"]["beyond_curve"]
        notes.append(f"{share:.1%} of cleared models spend beyond the price curve and count with its best compliance.")
    return Report(
        "regulation", config.run.name, title, headline(config, measured), tables, drawn, notes, dict(measured)
    )


ENTRANTS_NOTE = "Means over those who enter; participation is of all builders."
NOISE_NOTE = (
    "naive_gain: what the type that gains most by knowing of the noise gains over the bid for exact readings; max_gain and "
    "mean_gain certify the learned play"
)


def _design_tables(design: Values) -> list[Table]:
    played = design["round"]
    rows: list[list[Cell]] = [
        ["participation, exact", design["participation"], None],
        ["participation, drawn", played["participation_auction"], played["participation_reserve"]],
        ["mean bid, exact", design["mean_bid"], design["price"]],
        ["mean bid, drawn", played["mean_bid_auction"], design["price"]],
        ["mean compliance of cleared models", played["compliance_auction"], played["compliance_reserve"]],
        ["compliance relative to the threshold's, minus 1", played["compliance_gain"], 0.0],
        ["mean utility per builder of the population", played["utility_auction"], played["utility_reserve"]],
        ["worth of all premiums per builder of the population", played["premium_paid"], 0.0],
    ]
    note = (
        f"Price {design['price']:.4g}, threshold {design['threshold']:.4g}, premium scale {design['premium_scale']:.4g}, "
        f"{played['builders']:,} builders drawn. {_who_competes(design)}"
    )
    certificates = [
        [kind, entry["max_gain"], entry["mean_gain"], entry["worst_type"], entry["entry_gain"], entry["grid"]]
        for kind, entry in design["certificates"].items()
    ]
    columns = ("rivals", "largest gain", "mean gain", "type that gains most", "gain from entry or exit", "grid")
    return [
        Table("The design", ("", "auction", "bare threshold"), rows, note),
        Table("Certificates of exploitability", columns, certificates, f"{CERTIFICATE_NOTE} {_who_competes(design)}"),
    ]


def _who_competes(design: Values) -> str:
    if design["builders"] is None:
        return "For ever so many builders: every group fills (auction.builders: null)."
    return (
        f"For {design['builders']} builders: one who enters has no group with chance {design['left_over']:.2%}, and "
        f"finds that there is not a single whole one with chance {design['no_group']:.2%}."
    )


CERTIFICATE_NOTE = (
    "premise: rivals are all with V >= price, as the paper supposes. entrants: those who enter under these very bids, which "
    "is the headline's."
)


def _curve_tables(distribution: str, found: Values) -> list[Table]:
    exact, drawn = found["exact"], found["simulated"]
    count = len(exact["price"])
    positions = np.unique(np.linspace(0, count - 1, LISTED + 2).round().astype(int)[1:-1])
    after = (exact[name] for name in ("participation_reserve", "mean_bid", "compliance", "compliance_reserve"))
    shown = [exact["price"], exact["participation"], drawn["participation"], *after]
    rows = [[column[at] for column in shown] for at in positions]
    columns = ("price", "auction", "auction, drawn", "bare threshold", "mean bid", "compliance", "threshold")
    most, title = ("mechanism", "at price", "participation x bid"), "Most spent on compliance per builder"
    return [
        Table(f"Participation: {distribution}", columns, rows),
        Table(f"{title}: {distribution}", most, _best_prices(exact)),
    ]


def _best_prices(exact: Values) -> list[list[Cell]]:
    names = ("price", "participation", "mean_bid", "participation_reserve")
    price, entering, bid, reserve = (np.array(exact[name], dtype=float) for name in names)
    spent = {"auction": np.nan_to_num(entering * bid), "bare threshold": reserve * price}
    return [[name, float(price[np.argmax(spend)]), float(spend.max())] for name, spend in spent.items()]


def _price_of_safety(config: Config, runs: Sequence[Values]) -> tuple[tuple[bytes, str], list[Table], list[str]]:
    section, seed = config.price, config.run.seed
    share, gap, accuracy = (np.array([run[name] for run in runs]) for name in ("share", "gap", "accuracy"))
    points = points_from_gaps(share, gap, resamples=section.resamples, seed=seed)
    curves = [PriceCurve.fit(points, "quadratic"), PriceCurve.fit(points, "isotonic")]
    published = published_curve(resamples=section.resamples, seed=seed)
    trend = gap_trend(share, gap, resamples=section.resamples, seed=seed)
    rows: list[list[Cell]] = []
    for at, one in enumerate(np.unique(share)):
        inside = share == one
        spread = float(gap[inside].std(ddof=1)) if inside.sum() > 1 else None
        safety = float(points.safety[at])
        rows.append([float(one), float(gap[inside].mean()), spread, float(accuracy[inside].mean()), safety])
    columns = ("minority share", "equalised-odds gap (points)", "sd over seeds", "test accuracy", "safety")
    says = "falls with the share" if trend.falls else "does not clearly fall with the share"
    note = (
        f"{section.source}: {section.label} by {section.group}, {section.seeds} models per share. The gap {says}: rank "
        f"correlation {trend.correlation:.2f} [{trend.low:.2f}, {trend.high:.2f}]."
    )
    notes = [f"Measured {curve.kind} curve: {curve.warning}." for curve in curves if curve.warning]
    caption = "The price of safety, measured here beside the published one."
    picture = figures.price_of_safety(share, gap, curves, published)
    return (picture, caption), [Table("Measured price of safety", columns, rows, note)], notes


def _learning_table(learners: Sequence[Values], note: str) -> Table:
    rows = [
        [found["learner"], found["rounds"][-1], found["distance"][-1], found.get("max_gain"), found.get("mean_gain")]
        for found in learners
    ]
    columns = ("learner", "rounds", "sup-norm distance to the bid", "largest gain left", "mean gain left")
    return Table("Builders who learn", columns, rows, note)


def _stress_tables(found: Mapping[str, Values]) -> list[Table]:
    break_even = found["rings"]["break_even"]
    pays = "never pays" if break_even is None else f"pays from a share of {break_even:.2f}"
    sybils = [[name.replace("_", " "), value] for name, value in found["sybils"].items()]
    note = (
        "A rebuilt second model pays where its rent exceeds the price; a copy always does, so copies must be refused. "
        "Counted as in a large population: of few builders a second model also fills groups, and may meet the first."
    )
    return [
        _rows("Rings that bid the bare price", found["rings"]["points"], f"The ring {pays}."),
        Table("A second identity", ("", "value"), sybils, note),
        _rows("Other test data than the builder's, unforeseen", found["test data"]["points"], ENTRANTS_NOTE),
        _rows("Values that builders only guess", found["values"]["points"], ENTRANTS_NOTE),
    ]


def _rows(title: str, points: Sequence[Values], note: str = "") -> Table:
    columns = tuple(name.replace("_", " ") for name in points[0])
    return Table(title, columns, [list(point.values()) for point in points], note)


def design_card(config: Config, design: Design, measured: Values) -> str:
    """README of the exported design."""
    auction, certificate = design.auction, measured["certificates"]["entrants"]
    return f"""# A regulator's design

- value distribution {auction.distribution.name}
- premium shares up to {auction.largest_share:g}, premium scale {auction.premium_scale:.4g}
- price {auction.price:.6g} for threshold {design.rules.threshold:.6g} on the {config.price.curve} price curve
- groups of {auction.group_size}, {auction.prizes} prize(s), tie rule {auction.tie}, byes by {design.rules.bye}
- builders: {"ever so many, so that groups fill" if auction.builders is None else auction.builders}
- bids: mode {config.auction.mode}; against those who enter, any type gains at most {certificate["max_gain"]:.3g} by another
  bid ({certificate["grid"]}) and {certificate["entry_gain"]:.3g} by entering or staying out
- expected participation {measured["participation"]:.2%}, mean bid {measured["mean_bid"]:.4g}

`design.json` is what Serve quotes from. Seed {config.run.seed}.
"""
