"""From results to the report and the model card: headline, tables, figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rayworks.core.proportions import WILSON
from rayworks.core.report import Cell, Report, Table
from rayworks.systems.difficulty import figures
from rayworks.systems.difficulty.config import Config, set_name

Found = Mapping[str, Any]
Results = Mapping[str, Found]
SHOWN = 12
"""Items of either end in the table of the first set."""
TEXT = 110
LOOSE = 3.0
"""Standard error in logits from which on a difficulty says nothing."""


def build_report(config: Config, results: Results, title: str) -> Report:
    """The report of a finished run; the first response set makes the headline."""
    calibrated, new = results["calibrate"], results.get("new subjects", {})
    first = calibrated[set_name(config.data.responses[0])]
    bootstrap = results.get("bootstrap", {}).get(first["name"])
    profiles = new.get(first["name"], {}).get("profiles", [])
    evaluated, rated = list(results.get("evaluate", {}).values()), list(results.get("rate", {}).values())
    tables = [
        _hard_items(first, bootstrap),
        _sets(calibrated, results.get("bootstrap", {})),
        _fits(calibrated),
        *_profiles(profiles, first["name"]),
        *_evaluations(evaluated),
        *_adaptive_tests(new, calibrated),
        *_ratings(rated),
        *_functioning(calibrated),
    ]
    errors = {name: values["errors"] for name, values in new.items()}
    return Report(
        system="difficulty",
        run=config.run.name,
        title=title,
        headline=headline(first),
        tables=tables,
        figures=_figures(first, bootstrap, profiles, evaluated, errors, rated),
        notes=[*_notes(first, new), *_remarks(calibrated)],
        details={
            "labels": {name: result["labels"] for name, result in calibrated.items()},
            "diagnostics": {
                name: {
                    key: result[key]
                    for key in ("infit", "outfit", "flipped_key_p", "score_fit", "dependence", "functioning")
                }
                for name, result in calibrated.items()
            },
        },
    )


def _figures(
    first: Found,
    bootstrap: Found | None,
    profiles: Sequence[Found],
    evaluated: Sequence[Found],
    errors: Found,
    rated: Sequence[Found],
) -> dict[str, tuple[bytes, str]]:
    """File name to picture and caption; what there is nothing to draw of is left out."""
    name = first["name"]
    found = {
        "difficulties.png": (figures.difficulties(first, bootstrap), f"Difficulty of the items of {name}"),
        "item_curves.png": (figures.item_curves(first), f"Some items of {name}, and the information of all"),
        "wright_map.png": (figures.wright_map(first), f"Subjects and items of {name} on one scale"),
    }
    if profiles or evaluated:
        caption = "Accuracy against difficulty, with 95 % intervals of the bins and of the curve"
        found["accuracy_by_difficulty.png"] = (figures.accuracy_by_difficulty(profiles, evaluated), caption)
    if any(errors.values()):
        caption = "How well a few items foretell the score on all of them"
        found["subsets.png"] = (figures.adaptive_tests(errors), caption)
    if rated:
        found["rating_history.png"] = (figures.rating_history(rated), "Ratings over the periods, with 95 % bands")
    return found


def headline(first: Found) -> dict[str, Cell]:
    """The numbers a reader compares between runs, of the first response set."""
    return {
        "items": len(first["items"]),
        "subjects": first["subjects"],
        "log_likelihood": first["log_likelihood"],
        "split_half_correlation": first["split_half"]["mean"],
        "difficulty_se_median": float(np.median(first["errors"]["difficulty"])),
        "reliability": first["reliability"],
        "fit_seconds": first["seconds"],
    }


def label_card(config: Config, results: Results) -> str:
    """A card for people beside the exported labels."""
    rows = "\n".join(
        f"| {name} | {found['subjects']} | {len(found['items'])} | {found['label_provenance']['method']} "
        f"| {found['provenance']} |"
        for name, found in results["calibrate"].items()
    )
    return (
        f"# Difficulty labels of run {config.run.name}\n\n"
        "Higher is harder. `rating` compares items of one set only; `unnorm_rating` is in logits, with its standard "
        "deviation. `bin_probability` says how far to trust the bin.\n\n"
        f"| set | subjects | items | method | evidence |\n|---|---|---|---|---|\n{rows}\n\n"
        f"Seed {config.run.seed}. Intervals take subjects (or the families given) as independent. "
        "`SET/labels.parquet` holds the labels, `SET/calibration.json` what `/v1/difficulty/score` reads.\n"
    )


def _hard_items(result: Found, bootstrap: Found | None) -> Table:
    """The hardest and the easiest items with intervals."""
    b, error = np.array(result["parameters"]["difficulty"]), np.array(result["errors"]["difficulty"])
    order = np.argsort(-b, kind="stable")
    shown = order if len(order) <= 2 * SHOWN else np.concatenate([order[:SHOWN], order[-SHOWN:]])
    by_item = {item: position for position, item in enumerate(result["labels"]["item"])}
    labels, rows = result["labels"], list[list[Cell]]()
    for index in shown:
        item, position = result["items"][index], by_item[result["items"][index]]
        reach, tier = WILSON * error[index], labels["bin"][position] + 1
        interval = f"{b[index] - reach:.2f} to {b[index] + reach:.2f}"
        sd = None if bootstrap is None or index in result["unbounded"] else bootstrap["difficulty"][index]
        chance = f"{tier} ({labels['bin_probability'][position]:.0%})"
        flags, text = _flags(result, int(index)), result["texts"][index][:TEXT]
        solved, rating = result["solve_rates"][index], labels["rating"][position]
        rows.append([item, float(b[index]), interval, sd, solved, rating, chance, flags, text])
    return Table(
        f"Hardest and easiest items of {result['name']}",
        ("item", "difficulty", "95 % interval", "bootstrap sd", "solved", "rating", "tier (chance)", "flags", "text"),
        rows,
        note=f"Difficulty in logits, {result['label_provenance']['method']}; tier 1 is the easiest. An item that nobody "
        "or everybody solved has a value by convention and a wide interval, and touches no other item.",
    )


def _flags(result: Found, index: int) -> str:
    loose = np.flatnonzero(np.array(result["errors"]["difficulty"]) > LOOSE)
    flags = {"prior": result["unbounded"], "loose": loose, "misfit": result["misfitting"], "key?": result["suspects"]}
    return ", ".join(flag for flag, items in flags.items() if index in items)


def _sets(calibrated: Found, bootstrap: Found) -> Table:
    columns = ("set", "subjects", "items", "cells", "reliability", "split-half r", "median se", "bootstrap sd")
    rows: list[list[Cell]] = [
        [
            name,
            found["subjects"],
            len(found["items"]),
            found["cells"],
            found["reliability"],
            f"{found['split_half']['mean']:.3f} +- {found['split_half']['sd']:.3f}",
            float(np.median(found["errors"]["difficulty"])),
            float(np.median(bootstrap[name]["difficulty"])) if name in bootstrap else None,
            len(found["unbounded"]),
            found["convergence"],
            found["seconds"],
        ]
        for name, found in calibrated.items()
    ]
    silent = {name: found["subjects_without_response"] for name, found in calibrated.items()}
    told = "; ".join(f"{count} subjects of {name} answered nothing" for name, count in silent.items() if count)
    note = f"The bootstrap resamples families where given. {told}"
    return Table("Sets", (*columns, "no own estimate", "convergence", "seconds"), rows, note)


def _fits(calibrated: Found) -> Table:
    rows: list[list[Cell]] = []
    for name, found in calibrated.items():
        masked, scores, dependence = found["held_out"], found["score_fit"], found["dependence"]
        for criterion in found["criteria"]:
            own = criterion["model"] == found["parameters"]["model"]
            test = found["ratio_tests"].get(criterion["model"])
            misfit = None
            if own and scores is not None:
                misfit = sum(p is not None and p < 0.05 for p in scores["p_adjusted"])
            rows.append(
                [
                    name,
                    *(criterion[key] for key in ("model", "log_likelihood", "aic", "bic")),
                    f"{test['statistic']:.1f} over {test['against']}, p {test['p_value']:.2g}" if test else None,
                    f"{masked['log_loss']:.3f} ({masked['log_loss_item_means']:.3f})" if own and masked else None,
                    masked["auc"] if own and masked else None,
                    misfit,
                    dependence["largest"] if own and dependence else None,
                    found["aberrant_subjects"] if own else None,
                ]
            )
    columns = ("set", "model", "log-likelihood", "AIC", "BIC", "ratio test", "held-out log-loss", "held-out AUC")
    return Table(
        "How well the models fit",
        (*columns, "S-X2 misfits", "max |Q3 - mean|", "aberrant subjects"),
        rows,
        note="Held-out log-loss beside that of the item means alone. S-X2: items with p < .05, adjusted over items. "
        "Ratio tests only where no prior holds an item. Aberrant subjects: share with l_z below the 5 % point of a normal.",
    )


def _profiles(profiles: Any, name: str) -> list[Table]:
    rows = [[p["group"], p["subjects"], p["half_point"], _interval(p), p["slope"], p["trend_p"]] for p in profiles]
    honest = all(p["held_out"] for p in profiles)
    source = "the other groups' answers only" if honest else "everybody's answers, the group's own among them"
    columns = ("group", "subjects", "50 % point", "95 % interval", "slope", "trend p")
    note = f"Difficulties from {source}."
    return [Table(f"Groups of {name} against difficulty", columns, rows, note)] if rows else []


def _evaluations(evaluated: Any) -> list[Table]:
    rows: list[list[Cell]] = [
        [
            *(found[key] for key in ("model", "items", "unanswered", "accuracy")),
            *(
                None if tier["accuracy"] is None else f"{tier['accuracy']:.2f} [{tier['low']:.2f}, {tier['high']:.2f}]"
                for tier in found["tiers"]
            ),
            found["profile"]["half_point"],
            found["profile"]["trend_p"],
        ]
        for found in evaluated
    ]
    if not rows:
        return []
    tiers = [f"tier {tier['tier'] + 1}" for tier in evaluated[0]["tiers"]]
    columns = ("model", "items", "unanswered", "accuracy", *tiers, "50 % point", "trend p")
    note = "Tier 1 is the easiest; Wilson 95 % intervals. Unanswered: the prompt was too long for the model; wrong."
    return [Table("Evaluated models by tier of difficulty", columns, rows, note)]


def _adaptive_tests(new: Found, calibrated: Found) -> list[Table]:
    rows = [
        [name, *(entry[key] for key in ("size", "chosen", "random", "plain", "expected", "coverage"))]
        for name, values in new.items()
        for entry in values["errors"]
    ]
    chosen = []
    for name, values in new.items():
        if values["subsets"]:
            size = min(values["subsets"], key=int)
            names = [calibrated[name]["items"][position] for position in values["subsets"][size]]
            chosen.append([name, size, ", ".join(names)])
    columns = ("set", "items asked", "chosen", "random, same estimator", "mean of random", "expected rms", "coverage")
    note = "Mean absolute error of new subjects' score on all items; coverage of the chosen items' 95 % intervals."
    told = "The smallest subset of each set, best item first; all sizes are in export/SET/subsets.json."
    return [
        *([Table("Scores from few items", columns, rows, note)] if rows else []),
        *([Table("Items to ask a new subject", ("set", "size", "items"), chosen, told)] if chosen else []),
    ]


def _ratings(rated: Any) -> list[Table]:
    tables = []
    for found in rated:
        table = found["table"]
        columns = ("player", "rating", "deviation", "volatility", "games")
        rows = [[table[column][n] for column in columns] for n in range(min(SHOWN, len(table["player"])))]
        losses = [f"{system} {loss:.4f}" for system, loss in found["foretold"].items() if loss is not None]
        told = ", ".join(losses) or "one period only"
        caps = ", ".join(f"{kind} {count}" for kind, count in found["capped"].items() if count) or "none"
        note = (
            f"{found['games']:,} games in {found['elapsed']}; {found['mode']}{_settled(found)}; "
            f"capped updates: {caps}. "
            f"Log-loss of the next period's results: {told} (0.693 is a coin)."
        )
        tables.append(Table(f"Ratings of {found['name']}", columns, rows, note))
    return tables


def _settled(found: Found) -> str:
    if found["mode"] != "converged":
        return ""
    moving, unanimous = len(found["moving"]), len(found["unanimous"])
    told = f" in {found['passes']} passes" + (f", {moving} players still moving" if moving else "")
    return told + (f", {unanimous} who only won or only lost kept finite by half a draw" if unanimous else "")


def _functioning(calibrated: Found) -> list[Table]:
    tables = []
    for name, found in calibrated.items():
        result = found["functioning"]
        if result is None:
            continue
        columns = ("log_odds", "mantel_haenszel_p", "shift", "likelihood_ratio_p", "likelihood_ratio_adjusted")
        rows = [[item, *(result[column][n] for column in columns)] for n, item in enumerate(found["items"])]
        note = f"Focal group: {result['focal']}. A positive shift is harder for the focal group at equal ability."
        names = tuple(column.replace("_", " ") for column in columns)
        tables.append(Table(f"Differential functioning in {name}", ("item", *names), rows, note))
    return tables


def _remarks(calibrated: Results) -> list[str]:
    """What the numbers of each set rest on beside its responses."""
    return [f"{name}: {remark}." for name, found in calibrated.items() for remark in found["remarks"]]


def _interval(profile: Found) -> str | None:
    low, high = profile["half_point_low"], profile["half_point_high"]
    return None if low is None or high is None else f"{low:.2f} to {high:.2f}"


def _notes(first: Found, new: Found) -> list[str]:
    notes = [
        "rating compares items within a set only. Across sets use a common scale through shared solvers.",
        "flags: prior, no finite estimate from the responses alone (solved by none or all, separating solvers from failures, "
        f"or solved less by the abler); loose, a standard error above {LOOSE:g}: use the 1PL or estimator map; misfit, infit "
        "or outfit beyond chance (standardised, adjusted over items, p < .05); key?, solved less by the abler (a wrong key, "
        "or an ambiguous text; flipped_key_p in report.json is its p, adjusted over items).",
    ]
    told = ", ".join(name for name, values in new.items() if not values["errors"])
    if told:
        needed = "two subjects per fold who answered every item, and a smaller size"
        notes.append(f"No subset errors of {told}: they need {needed}.")
    if first["families"] < first["subjects"]:
        notes.append(
            f"The {first['subjects']} subjects come from {first['families']} families. The plain intervals take them as "
            "independent, which they are not; the bootstrap resamples whole families and is the honest width."
        )
    return notes
