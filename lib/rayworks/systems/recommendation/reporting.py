"""The report of a run, its tables, and the card of what is exported."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from rayworks.core.registry import SystemSpec
from rayworks.core.report import Cell, Report, Table
from rayworks.systems.recommendation import figures
from rayworks.systems.recommendation.config import Config
from rayworks.systems.recommendation.evaluation import MODEL, ORACLE, TOP_RULE
from rayworks.systems.recommendation.logs.events import EventLog
from rayworks.systems.recommendation.measures.audits import Audit
from rayworks.systems.recommendation.models.fitting import MAIN
from rayworks.systems.recommendation.sources import Facts
from rayworks.systems.recommendation.values.bandit import CrossCheck
from rayworks.systems.recommendation.values.policies import mixture_name

Values = Mapping[str, Any]


def audit_results(found: Audit, facts: Facts) -> dict[str, Any]:
    """The audit as JSON values."""
    return {
        "warnings": found.warnings,
        "findings": [asdict(finding) for finding in found.findings],
        "baselines": {name: asdict(baseline) for name, baseline in found.baselines.items()},
        "facts": asdict(facts),
    }


def bandit_results(check: CrossCheck, log: str) -> dict[str, Any]:
    """One policy's value from another's log, as JSON values."""
    diagnostics = check.evaluation.diagnostics
    return {
        "log": log,
        "truth": asdict(check.truth),
        "estimates": {name: asdict(estimate) for name, estimate in check.evaluation.estimates.items()},
        "relative_errors": check.relative_errors,
        "effective_share": diagnostics.effective_share,
        "warnings": list(diagnostics.warnings),
    }


def headline(config: Config, results: Values) -> dict[str, Cell]:
    """The numbers that runs are compared by; None where the run or its log does not have them."""
    models = results["acceptance"]["models"]
    value_error = effect_error = None
    if config.simulated and "policies" in results:
        logged = results["policies"][mixture_name(config.simulator.exploration)]
        value_error = float(abs(np.mean(logged["imagined"]) - np.mean(logged["true"])))
    treatment = results.get("effects", {}).get("treatment")
    if treatment and treatment["true"] is not None:
        effect_error = float(np.abs(np.array(treatment["effect"]) - treatment["true"]).mean())
    return {
        "auc": models[MODEL]["auc"],
        "auc_topk_rule": models.get(TOP_RULE, {}).get("auc"),
        "auc_oracle": models.get(ORACLE, {}).get("auc"),
        "ece": models[MODEL]["ece"],
        "policy_value_error": value_error,
        "effect_error": effect_error,
        "sequences_per_second": results["train"][MAIN]["labels_per_second"],
        "audit_warnings": results["audit"]["warnings"] if "audit" in results else None,
    }


def build_report(config: Config, results: Values, spec: SystemSpec) -> Report:
    """Build the report from the results of the run's stages."""
    acceptance = results["acceptance"]
    tables, notes = (
        [_acceptance_table(results), _held_out_table(acceptance["held_out"])],
        _rivals(results["acceptance"]["models"]),
    )
    drawn = {"calibration.png": (figures.calibration(results["acceptance"]), "Chances given and what came of them.")}
    if "audit" in results:
        tables.append(_audit_table(results["audit"]))
        notes += results["audit"]["facts"]["notes"]
    if "policies" in results:
        tables.append(_policy_table(results["policies"]))
        caption = "Other recommenders: true, imagined by the model, estimated from logged propensities."
        drawn["policies.png"] = (figures.policies(results["policies"]), caption)
    if "effects" in results:
        _add_effects(results["effects"], tables, drawn)
    if "bandit" in results:
        tables.append(_bandit_table(results["bandit"]))
    if results.get("ranking") or "ranking" in results["acceptance"]:
        tables.append(_ranking_table(config, results))
    tables.append(_training_table(results["train"]))
    measured = headline(config, results)
    return Report(spec.name, config.run.name, spec.title, measured, tables, drawn, notes, dict(results))


def _rivals(models: Mapping[str, Values]) -> list[str]:
    """A sentence where something simpler ranks decisions better than the model."""
    own = models[MODEL]["auc"]
    better = [
        f"{name} ({one['auc']:.3f})"
        for name, one in models.items()
        if name not in (MODEL, ORACLE) and own is not None and one["auc"] is not None and one["auc"] > own
    ]
    if not better:
        return []
    told = f"Ranks decisions better than the model ({own:.3f}): {', '.join(better)}."
    return [f"{told} Read causes and values with care."]


def _acceptance_table(results: Values) -> Table:
    found = results["acceptance"]
    rows: list[list[Cell]] = [
        [name, one["auc"], one["bce"], one["accuracy"], None, found["decisions"]]
        for name, one in results.get("audit", {}).get("baselines", {}).items()
    ]
    keys = ("auc", "bce", "accuracy", "ece", "decisions")
    rows += [[name, *(one[key] for key in keys)] for name, one in found["models"].items()]
    note = f"{found['decisions']:,} decisions, each from all before it; accuracy at the threshold of the validation window."
    if "auc_interval" in found:
        note += f" AUC of the model: 95 % interval {_range(found['auc_interval'])} over users."
    if "advantage" in found:
        note += f" Advantage in AUC over the top 20 % rule: {_range(found['advantage'])}."
    columns = ("predictor", "AUC", "cross-entropy", "accuracy", "ECE", "decisions")
    return Table("Acceptance on the test window", columns, rows, note)


def _held_out_table(found: Values) -> Table:
    """Bands of chances and what came of them; the last is of the items that the model would have chosen."""
    named = [("any" if found["any_item"] else "as shown", band) for band in found["all"]]
    named += [(f"the model's best {found['choices']}", band) for band in found["chosen"]]
    rows: list[list[Cell]] = []
    for name, band in named:
        low, high = (min(max(band["said"] + band[end], 0.0), 1.0) for end in ("low", "high"))
        came = f"{band['said'] + band['offset']:.3f} [{low:.3f}, {high:.3f}]"
        rows.append([name, band["highest"], band["said"], came, band["decisions"], band["effective"]])
    note = "95 % intervals of the mean over decisions of users; of no single user's chance."
    if not found["any_item"]:
        note += " The log's recommender chose the items: chances of others are likely to be lower."
    columns = ("items", "chances up to", "said on average", "accepted", "decisions", "worth")
    return Table("What held-out decisions came to", columns, rows, note)


def _audit_table(found: Values) -> Table:
    rows = [list(one.values()) for one in found["findings"]]
    facts = found["facts"]
    note = (
        f"{facts['rows']:,} events of {facts['users']:,} users on {facts['items']:,} items: {facts['natural']:,} natural, "
        f"{facts['recommended']:,} recommended."
    )
    return Table("Audit of the log", ("check", "severity", "value", "what it means"), rows, note)


def _policy_table(found: Values) -> Table:
    rows: list[list[Cell]] = []
    for name, one in found.items():
        true = None if one["true"] is None else float(np.mean(one["true"]))
        imagined = float(np.mean(one["imagined"]))
        estimates = [_with_range(one["estimates"].get(key)) for key in ("wpdis", "wdr")]
        error = None if true is None else imagined - true
        ends = None if one["range"] is None else "[{:.3f}, {:.3f}]".format(*one["range"])
        share = one.get("effective_share")
        rows.append([name, true, imagined, ends, error, *estimates, share, "; ".join(one["warnings"])])
    columns = (
        "policy",
        "true",
        "imagined",
        "adjusted",
        "error",
        "log, per decision",
        "log and model",
        "effective share",
    )
    note = (
        "Acceptance per recommendation. Adjusted: the imagined value moved by how far chances were off on held-out decisions "
        "as the policy would make them (for the most acceptable, on items among the model's own choices); that is one step "
        "at the log's end, and no 95 % interval of many. Effective share: of the trajectories, after weighting; near 0 the "
        "log is silent."
    )
    if all(one["true"] is None for one in found.values()):
        note += " Imagined: the recommendations to come. From the log: those that it holds."
    return Table("Value of recommenders", (*columns, "warnings"), rows, note)


def _add_effects(found: Values, tables: list[Table], drawn: dict[str, tuple[bytes, str]]) -> None:
    treatment, alone, causes = found["treatment"], found["by_themselves"], found["attribution"]
    if treatment:
        contrast = "P(D_t | do(S_1..t), L) - P(D_t | S_t, L, no recommender)"
        drawn["effects.png"] = (
            figures.effects(treatment),
            f"{contrast}, averaged over users; band: 95 %, {_of_effects(treatment)}.",
        )
        true = None if treatment["true"] is None else float(np.mean(treatment["true"]))
        rows: list[list[Cell]] = [["mean effect over steps", float(np.mean(treatment["effect"])), true]]
        if alone:
            rows.append(["acceptance of what users take by themselves", alone["by_themselves"], alone["true"]])
        note = (
            f"{treatment['users']:,} users. The effect is that of earlier recommendations on the chance of the same item; "
            f"its interval is {_of_effects(treatment)}."
        )
        tables.append(Table("Effect of the recommender", ("what", "the model's", "true"), rows, note))
    if causes:
        caption = "Do-contrasts of the last recommendation of some users; bars: 95 % over members. They do not add up."
        drawn["attribution.png"] = figures.attribution(causes), caption
        names = {cause: figures.CAUSE_NAMES[cause].replace("\n", " ") for cause in causes["causes"]}
        rows = [[name, causes["mean_size"][cause], causes["mean"][cause]] for cause, name in names.items()]
        note = f"Over {causes['users']:,} users' last recommendations."
        tables.append(Table("Causes of acceptance", ("contrast", "mean size", "mean"), rows, note))


def _of_effects(treatment: Values) -> str:
    if treatment["biased"]:
        return "from models of decisions drawn anew, bias and spread"
    return "the spread over models of resampled users, which knows no bias and covers too little on small logs"


def _bandit_table(found: Values) -> Table:
    names = ("ips", "snips", "dm", "dr", "dr_os")
    rows: list[list[Cell]] = []
    for policy, one in found.items():
        estimates = [_with_range(one["estimates"][name], scale=1000) for name in names]
        truth = _with_range(one["truth"], scale=1000)
        rows.append([policy, one["log"], truth, *estimates, one["effective_share"], "; ".join(one["warnings"])])
    columns = ("value of", "from the log of", "its own log", "IPS", "SNIPS", "DM", "DR", "DR shrunk")
    note = (
        "Clicks per 1,000 impressions, 95 % intervals. Shrunk: with weights cut as far as lowers the estimated mean squared "
        "error, whose bias is in the interval."
    )
    return Table("Off-policy evaluation on Open Bandit", (*columns, "effective share", "warnings"), rows, note)


def _ranking_table(config: Config, results: Values) -> Table:
    own = results["acceptance"].get("ranking")
    found: dict[str, Values] = {} if own is None else {"natural preference, this log": own}
    found |= {f"{name}, {config.ranking.source}": one for name, one in results.get("ranking", {}).items()}
    columns = tuple(next(iter(found.values())))
    rows = [[name, *one.values()] for name, one in found.items()]
    note = "The last natural item of each user among all items; seen items compete."
    return Table("Next-item ranking", ("model", *columns), rows, note)


def _training_table(found: Values) -> Table:
    keys = ("epoch", "best_epoch", "best")
    rows: list[list[Cell]] = []
    for name, one in found.items():
        calibration = one.get("calibration") or [None] * 4
        rows.append([name, *(one[key] for key in keys), *calibration, one["labels_per_second"]])
    columns = (
        "model",
        "epochs",
        "best",
        "validation loss",
        "scale",
        "shift",
        "item rate",
        "user rate",
        "sequences per second",
    )
    note = (
        "A sequence is a labelled prefix: one pass over a user's events learns from all of them. Calibrated log-odds are "
        "scale x (network + item rate x that of the item + user rate x that of the user) + shift: where the network has "
        "little to say, its scale falls and the rates take over."
    )
    return Table("Training", columns, rows, note)


def model_card(config: Config, log: EventLog, results: Values) -> str:
    """What the exported models are, for whoever finds the folder."""
    scores = results["acceptance"]["models"][MODEL]
    warnings = [one["sentence"] for one in results.get("audit", {}).get("findings", []) if one["severity"] == "warning"]
    return "\n".join(
        [
            f"# Acceptance models of the run {config.run.name}",
            "",
            f"Learned from {config.data.source}: {len(log.users):,} users, {len(log.items):,} items, "
            f"{int(log.recommended.sum()):,} recommendations. Backbone {config.model.backbone}, history "
            f"{config.model.history}, {config.uncertainty.members} members; the first one counts, the others say how sure.",
            "",
            f"Test window: AUC {scores['auc'] or float('nan'):.3f}, cross-entropy {scores['bce']:.3f}, "
            f"ECE {scores['ece']:.3f}. "
            "Chances hold for recommendations like the logged ones; for others see the report's table of recommenders.",
            "",
            *(["Warnings of the audit:", "", *(f"- {sentence}" for sentence in warnings)] if warnings else []),
            "`model.json`: shape and items; `member-N.safetensors`: weights; `reference.safetensors`: users to compare with.",
            "",
        ]
    )


def _range(estimate: Values) -> str:
    if estimate["low"] is None or estimate["high"] is None:
        return "not to be had, for decisions are alike"
    return f"[{estimate['low']:.3f}, {estimate['high']:.3f}]"


def _with_range(estimate: Values | None, scale: float = 1.0) -> Cell:
    if estimate is None:
        return None
    value, low, high = (scale * estimate[name] for name in ("value", "low", "high"))
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
