"""Value other recommenders: by the model's roll-outs, by the log's estimates, and in the simulator."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayworks.core import seeds
from rayworks.systems.recommendation.config import Config
from rayworks.systems.recommendation.logs.events import ACCEPTED, NATURAL, REJECTED, EventLog
from rayworks.systems.recommendation.logs.sequences import sequences
from rayworks.systems.recommendation.logs.simulator import Simulator
from rayworks.systems.recommendation.measures.bands import Bands
from rayworks.systems.recommendation.models.acceptance import AcceptanceModel, at_positions
from rayworks.systems.recommendation.models.fitting import Validation, validation
from rayworks.systems.recommendation.models.held_out import held_out, of_policy
from rayworks.systems.recommendation.models.histories import Histories, equally_long, histories_of
from rayworks.systems.recommendation.models.next_item import NaturalPreference
from rayworks.systems.recommendation.models.training import bootstrap_weights
from rayworks.systems.recommendation.values.roll_out import (
    ImaginedRollout,
    Policy,
    greedy_policy,
    roll_out,
    table_policy,
)
from rayworks.systems.recommendation.values.sequence_off_policy import Trajectories, evaluate_sequences

BATCH = 128
FAR = "it recommends what the log seldom shows; trust it less the further its value is from the logged one"
UNLOGGED = "the log has no propensities: nothing holds this value but the model"
CELLS = 2_000_000
"""Places x items that are scored at a time."""
GREEDY, UNIFORM, NATURAL_PREFERENCE = "most acceptable", "uniform", "natural preference"


def mixture_name(exploration: float) -> str:
    """What reports call a mixture with the uniform policy."""
    return f"logged kind, exploration {exploration:g}"


def simulated_policies(
    config: Config, models: Sequence[AcceptanceModel], log: EventLog, simulator: Simulator
) -> dict[str, Any]:
    """Each mixture of the logging kind: true value, the model's, and estimates from the log; and the model's own policy.

    Returns:
        by policy: ``true`` and ``imagined`` (steps,), ``members`` (members, steps), ``estimates``, ``warnings``.
    """
    options = simulator.options
    explorations = sorted({*config.policies.explorations, options.exploration})
    users = np.arange(min(config.policies.users, len(log.users)))
    past = histories_of(log, users, before_recommendations=True)
    steps, seed = options.steps, config.run.seed
    seen = _seen(config, models, log)
    found: dict[str, Any] = {}
    for exploration in explorations:
        table = simulator.mixed_policy(exploration)(simulator.start())
        policy = table_policy(table[: len(users)].float())
        weight = _weights(log, np.arange(len(log.users)), table)
        asked = [_calibrated(model, one, weight) for model, one in zip(models, seen, strict=True)]
        members = [imagine(model, past, policy, steps, seed).value().tolist() for model in asked]
        found[mixture_name(exploration)] = {
            "exploration": exploration,
            "true": simulator.value(simulator.mixed_policy(exploration), "value").tolist(),
            "imagined": members[0],
            "members": members,
            "range": _range(members[0], of_policy(config, log, asked[0], weight)),
            **_from_log(config, log, np.arange(len(log.users)), table, models),
        }
    greedy = models[0].of_any_item()
    imagined = imagine(greedy, past, greedy_policy, steps, seed).value().tolist()
    deployed = deploy(simulator, greedy, histories_of(log, np.arange(len(log.users)), before_recommendations=True))
    found[GREEDY] = {"exploration": None, "true": deployed.tolist(), "imagined": imagined, "members": [imagined]}
    found[GREEDY] |= {"range": _range(imagined, held_out(config, log, models[0]).chosen)}
    found[GREEDY] |= {"estimates": {}, "warnings": [FAR]}
    return found


def logged_policies(
    config: Config, models: Sequence[AcceptanceModel], log: EventLog, natural: NaturalPreference | None
) -> dict[str, Any]:
    """The same for a log whose truth is not known: the uniform policy, the model's own, and natural preference.

    Imagined are the recommendations after the log's end; the estimates from the log are of those that it holds.
    """
    users = np.flatnonzero(log.steps > 0)[: config.policies.users]
    steps, seed = config.policies.steps, config.run.seed
    past = histories_of(log, users, last=config.model.length - 1 - steps)
    even = torch.full((1, len(log.items)), 1.0 / len(log.items), dtype=torch.float64)
    tables = {UNIFORM: even.expand(len(users), -1)}
    if natural is not None:
        before = histories_of(log, users, last=natural.length, before_recommendations=True)
        tables[NATURAL_PREFERENCE] = _natural_table(natural, before, len(log.items))
    policies: dict[str, Policy] = {name: table_policy(table.float()) for name, table in tables.items()}
    seen = _seen(config, models, log)
    found: dict[str, Any] = {}
    for name, policy in {**policies, GREEDY: greedy_policy}.items():
        if name == GREEDY:
            asked = [model.of_any_item() for model in models]
            band = held_out(config, log, models[0]).chosen
        else:
            weight = _weights(log, users, tables[name])
            asked = [_calibrated(model, one, weight) for model, one in zip(models, seen, strict=True)]
            known = np.isfinite(weight[log.recommended]).all()
            band = of_policy(config, log, asked[0], weight) if known else Bands(())
        members = [imagine(model, past, policy, steps, seed).value().tolist() for model in asked]
        found[name] = {"exploration": None, "true": None, "imagined": members[0], "members": members}
        found[name] |= {"range": _range(members[0], band)}
        found[name] |= {"estimates": {}, "warnings": [FAR] if name == GREEDY else []}
        if np.isnan(log.propensity[log.recommended]).any():
            found[name]["warnings"].insert(0, UNLOGGED)
        elif name in tables:
            found[name] |= _from_log(config, log, users, tables[name], models)
            found[name]["warnings"] += _contradiction(float(np.mean(members[0])), found[name]["estimates"]["wpdis"])
    return found


def _weights(log: EventLog, users: np.ndarray, table: Tensor) -> np.ndarray:
    """(N,): chance of the item at each event by the policy ``table`` (B, I) of ``users``, over its propensity; 0 for others'
    events, NaN where no propensity is logged.
    """
    row = np.clip(np.searchsorted(users, log.user), 0, len(users) - 1)
    chance = table[torch.from_numpy(row), torch.from_numpy(log.item.astype(np.int64))].double().numpy()
    return np.asarray(np.where(users[row] == log.user, chance, 0.0) / log.propensity)


def _seen(config: Config, models: Sequence[AcceptanceModel], log: EventLog) -> list[Validation | None]:
    """What each model says of the validation window; None where chances are not to be calibrated."""
    if config.training.calibration == "none":
        return [None] * len(models)
    return [validation(model, config, log) for model in models]


def _calibrated(model: AcceptanceModel, seen: Validation | None, weight: np.ndarray) -> AcceptanceModel:
    """The model for what a policy chooses; for any item, or as it is, where the log says too little of the policy."""
    found = None if seen is None else seen.calibration(weight)
    return model.of_any_item() if found is None else model.calibrated(found)


def _range(imagined: Sequence[float], found: Bands) -> tuple[float, float] | None:
    """A mean imagined value moved by how far the chances of single decisions were off at the log's end: no 95 % interval."""
    if not found.bands:
        return None
    low, high = (
        float(np.clip(np.mean(imagined) + offset, 0, 1)) for offset in (found.bands[0].low, found.bands[0].high)
    )
    return low, high


def _contradiction(imagined: float, estimate: Mapping[str, float]) -> list[str]:
    if estimate["low"] <= imagined <= estimate["high"]:
        return []
    return [f"the model imagines {imagined:.3f}, outside the interval of the log; roll-outs shrink to the log's mean"]


def imagine(model: AcceptanceModel, past: Histories, policy: Policy, steps: int, seed: int) -> ImaginedRollout:
    """:func:`~.roll_out.roll_out` for users with any number of events, who are taken by that number.

    ``policy`` meets users of one number at a time where it is a function of acceptance; a table is cut to them.
    """
    parts: list[tuple[Tensor, ImaginedRollout]] = []
    for rows, same in equally_long(past.last(model.options.length - 1 - steps)):
        memory = model.read(same.item, same.kind)
        cut = policy if len(rows) == len(past) else _for_rows(policy, rows, len(past))
        own = seeds.derive_small(seed, "imagined", same.item.shape[1])
        parts.append((rows, roll_out(model, memory, cut, steps, own)))
    if len(parts) == 1:
        return parts[0][1]
    order = torch.argsort(torch.cat([rows for rows, _ in parts]))
    columns = ("items", "accepted", "probability", "expected")
    joined = {name: torch.cat([getattr(one, name) for _, one in parts])[order] for name in columns}
    return ImaginedRollout(**joined)


def deploy(simulator: Simulator, model: AcceptanceModel, past: Histories) -> np.ndarray:
    """True acceptance (steps,) when the simulated users are recommended what the model thinks most acceptable."""
    steps = simulator.options.steps
    uniform = torch.from_numpy(seeds.stream(simulator.seed, "deployed").random((steps, simulator.options.users)))
    past = past.last(model.options.length - 1 - steps)
    memory, state, values = model.read(past.item, past.kind), simulator.start(), []
    with torch.no_grad():
        for draw in uniform:
            item = model.score(memory.state).argmax(1)
            state, accepted, probability = simulator.react(state, item, draw)
            memory = model.extend(memory, item + 1, torch.where(accepted, ACCEPTED, REJECTED))
            values.append(float(probability.mean()))
    return np.array(values)


def _for_rows(policy: Policy, rows: Tensor, count: int) -> Policy:
    def cut(acceptance: Tensor) -> Tensor:
        # A table has a row for each user, a rule one for each it is given.
        whole = policy(acceptance)
        return whole[rows] if len(whole) == count != len(acceptance) else whole

    return cut


def _from_log(
    config: Config, log: EventLog, users: np.ndarray, table: Tensor, models: Sequence[AcceptanceModel]
) -> dict[str, Any]:
    """Estimates of acceptance per recommendation from logged propensities, with what they rest on.

    The doubly robust ones take acceptance now, and the policy's mean acceptance now for each step to come, from members whose
    resample left the user out; the log's own rate where none did. That is crude, but it does not depend on the decisions that
    it corrects but through the validation window, which chose the epoch and the calibration.

    Args:
        users: codes (B,) in order, whose recommendations count.
        table: (B, I), the policy.
        models: members; the first, of all users, is not asked.
    """
    log = log.keep(np.isin(log.user, users[log.steps[users] > 0]))
    taken, shown = np.flatnonzero(log.steps > 0), log.recommended
    present = np.arange(int(log.steps.max())) < log.steps[taken][:, None]
    index = np.searchsorted(taken, log.user[shown]), log.step[shown]
    rows = np.searchsorted(users, log.user)
    own, mean = _acceptance_now(config, log, rows, table, models[1:])
    left = log.steps_left[shown]

    def spread(values: np.ndarray) -> np.ndarray:
        found = np.zeros(present.shape)
        found[index] = values
        return found

    target = table[torch.from_numpy(rows[shown]), torch.from_numpy(log.item[shown].astype(np.int64))]
    columns = (log.kind[shown] == ACCEPTED, log.propensity[shown], target.double().numpy())
    reward, propensity, chance = map(spread, columns)
    trajectories = Trajectories(reward, propensity, chance, present)
    action, state = spread(own + left * mean), spread(mean + left * mean)
    found = evaluate_sequences(trajectories, action_value=action, state_value=state)
    steps = float(log.steps[taken].mean())
    estimates = {
        name: {key: value / steps for key, value in asdict(estimate).items()}
        for name, estimate in found.estimates.items()
        if name != "dm"
    }
    return {
        "estimates": estimates,
        "effective_share": found.diagnostics.effective_share,
        "warnings": list(found.diagnostics.warnings),
    }


@torch.no_grad()
def _acceptance_now(
    config: Config, log: EventLog, rows: np.ndarray, table: Tensor, members: Sequence[AcceptanceModel]
) -> tuple[np.ndarray, np.ndarray]:
    """At each recommendation, from members that have not seen its user: acceptance of the item shown, and its mean over the
    policy. ``rows`` (N,) are the table's.
    """
    own, mean, count = np.zeros(len(log)), np.zeros(len(log)), np.zeros(len(log))
    at_once = max(1, CELLS // len(log.items))
    for number, member in enumerate(members, start=1):
        unseen = (bootstrap_weights(len(log.users), config.run.seed, number) == 0).numpy()[log.user]
        for batch in sequences(log, member.options.length, log.recommended & unseen).batches(BATCH):
            scored = batch.scored
            states = at_positions(member.states(batch.item, batch.kind), batch.past)[scored]
            shown = batch.item[scored] - 1
            at = batch.row[scored].numpy()
            for first in range(0, len(at), at_once):
                part = slice(first, first + at_once)
                chances = torch.sigmoid(member.score(states[part])).double()
                own[at[part]] += chances.gather(1, shown[part][:, None])[:, 0].numpy()
                mean[at[part]] += (chances * table[torch.from_numpy(rows[at[part]])]).sum(1).numpy()
            count[at] += 1
    rate = float((log.kind[log.recommended] == ACCEPTED).mean())
    known = count > 0
    found = [np.where(known, sums / np.maximum(count, 1), rate)[log.recommended] for sums in (own, mean)]
    return found[0], found[1]


def _natural_table(natural: NaturalPreference, past: Histories, items: int) -> Tensor:
    """Chances (B, I) of each user's next item; uniform where nothing is known of the user."""
    kept = past.only(past.kind == NATURAL).last(natural.length)
    known = (kept.length > 0)[:, None]
    return torch.where(known, natural.log_probability(kept.item, kept.length.clamp(min=1)).exp(), 1.0 / items)
