"""Map scenes of named entities to actions by the networks of one export, without HTTP."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from rayworks.core.errors import DataError
from rayworks.core.seeds import derive_small
from rayworks.systems.marl.environments.environment import norm_clipped
from rayworks.systems.marl.environments.scenes import ActionLayout, Scene, TeamSpec, joined
from rayworks.systems.marl.exported import ExportedPolicy, read_export
from rayworks.systems.marl.networks.acting import as_tensors, draw
from rayworks.systems.marl.networks.symmetry_groups import claimed

from .marl_schemas import ActBody, Action, Entity, Limits, PolicyCard, SceneBody, TeamCard

NETWORKS_HELD = 64
"""One for each size of team asked lately."""
STILL = {1: ["stay"], 2: ["none", "stop"]}
MOVES = {(-1.0, 0.0): "left", (1.0, 0.0): "right", (0.0, -1.0): "down", (0.0, 1.0): "up"}
TARGET, VECTOR = "target", "vector"


@dataclass(frozen=True)
class Question:
    """One scene of a request."""

    team: TeamSpec
    scene: Scene
    """One row."""
    indices: tuple[int, ...]
    """Indices of the scene's entities in the request's list."""
    seed: int | None
    """None for the most probable actions."""


class PolicyServer:
    """The policies of one export, ``export`` of a finished run.

    Raises:
        DataError: the folder holds something else.
    """

    def __init__(self, folder: str, limits: Limits) -> None:
        self.exported: ExportedPolicy = read_export(folder)
        self.limits = limits
        self._network = lru_cache(NETWORKS_HELD)(lambda team: self.exported.policies({team.name: team})[team.name])

    def card(self) -> PolicyCard:
        """Describe the policies and their symmetries."""
        exported = self.exported
        teams = {}
        for name, team in exported.teams.items():
            errors = {group: float(error) for group, error in exported.certificate[name]["errors"].items()}
            teams[name] = TeamCard(
                agents=team.agents,
                kinds=list(dict.fromkeys(team.kinds)),
                acting_kinds=sorted(set(team.kinds[: team.agents])),
                features=list(team.features),
                actions=action_names(team.actions),
                symmetries=list(claimed(exported.kind, team, exported.network)),
                errors=errors,
                other_sizes=exported.kind != "mlp",
            )
        environment, frame = exported.environment.name, exported.network.frame
        return PolicyCard(network=exported.kind, environment=environment, frame=frame, teams=teams, limits=self.limits)

    def check(self) -> None:
        """Answer a scene of zeros by every policy.

        Raises:
            DataError: it is not finite.
        """
        for team in self.exported.teams.values():
            plane, features = np.zeros((1, team.entities, 2)), np.zeros((1, team.entities, len(team.features)))
            scene = team.open_scene(plane, plane, features)
            [found] = self.answer([Question(team, scene, tuple(range(team.entities)), None)])
            if isinstance(found, DataError):
                raise DataError(f"export: team {team.name} answers a scene of zeros with no finite numbers")

    def questions(self, body: ActBody) -> tuple[str, list[Question]]:
        """The team that acts, and its scenes.

        Raises:
            DataError: names the field of the request that does not fit, and what would.
        """
        exported = self.exported
        name = body.team or next(iter(exported.teams))
        if name not in exported.teams or (body.team is None and len(exported.teams) > 1):
            raise DataError(f"team: {body.team or 'missing'}; give one of {', '.join(exported.teams)}")
        if len(body.scenes) > self.limits.scenes:
            raise DataError(f"scenes: {len(body.scenes)}, at most {self.limits.scenes} are taken; ask twice")
        found = []
        for number, scene in enumerate(body.scenes):
            seed = derive_small(body.seed, "act", number) if body.mode == "sample" else None
            found.append(self._question(exported.teams[name], scene, f"scenes.{number}", seed))
        return name, found

    def answer(self, questions: Sequence[Question]) -> list[list[Action] | DataError]:
        """Actions of each scene, or why it has none; scenes of one shape are computed together."""
        alike: dict[TeamSpec, list[int]] = defaultdict(list)
        for number, question in enumerate(questions):
            alike[question.team].append(number)
        answers: list[list[Action] | DataError] = [[] for _ in questions]
        for team, numbers in alike.items():
            rows = as_tensors(joined([questions[number].scene for number in numbers]))
            network = self._network(team)
            with torch.no_grad():
                inputs = network.action_dist_inputs(rows).view(len(numbers), team.agents, -1)
                values = network.expected_returns(rows).view(len(numbers), team.agents)
            for row, number in enumerate(numbers):
                if inputs[row].isfinite().all() and values[row].isfinite().all():
                    answers[number] = _actions(questions[number], inputs[row], values[row])
                else:
                    answers[number] = DataError(
                        "scenes: an answer is not finite; give smaller features and coordinates"
                    )
        return answers

    def _question(self, trained: TeamSpec, body: SceneBody, where: str, seed: int | None) -> Question:
        entities = body.entities
        if len(entities) > self.limits.entities:
            raise DataError(f"{where}.entities: {len(entities)}, at most {self.limits.entities} are taken")
        known, acting = set(trained.kinds), set(trained.kinds[: trained.agents])
        for number, entity in enumerate(entities):
            if entity.kind not in known:
                raise DataError(
                    f"{where}.entities.{number}.kind: {entity.kind!r} is unknown; use {', '.join(sorted(known))}"
                )
            unknown = set(entity.features) - set(trained.features)
            if unknown:
                raise DataError(
                    f"{where}.entities.{number}.features: {min(unknown)!r} is unknown; use {', '.join(trained.features)}"
                )
        # In the order of the training, whose first kinds act.
        rank = {kind: number for number, kind in enumerate(dict.fromkeys(trained.kinds))}
        order = sorted(range(len(entities)), key=lambda at: rank[entities[at].kind])
        kinds = tuple(entities[at].kind for at in order)
        agents = sum(kind in acting for kind in kinds)
        if not agents:
            raise DataError(f"{where}.entities: none acts; at least one must be of kind {', '.join(sorted(acting))}")
        if self.exported.kind == "mlp" and kinds != trained.kinds:
            raise DataError(
                f"{where}.entities: {_counted(kinds)}, but an MLP takes {_counted(trained.kinds)} as in training; graph "
                "networks take any number"
            )
        layout = trained.actions
        if layout.targets:
            layout = replace(layout, targets=max((len(some) for some in (body.targets or {}).values()), default=0) or 1)
        team = replace(trained, agents=agents, kinds=kinds, actions=layout)
        return Question(team, _scene(team, body, order, where, known), tuple(order), seed)


def given(answer: list[Action] | DataError) -> list[Action]:
    """The actions of an answer of :meth:`PolicyServer.answer`.

    Raises:
        DataError: why there are none.
    """
    if isinstance(answer, DataError):
        raise answer
    return answer


def action_names(layout: ActionLayout) -> list[str]:
    """Names of the actions."""
    if layout.vectors:
        return [VECTOR]
    names = [*STILL[layout.still], *(MOVES[direction] for direction in layout.directions)]
    return [*names, TARGET] if layout.targets else names


def _counted(kinds: Sequence[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in Counter(kinds).items())


def _scene(team: TeamSpec, body: SceneBody, order: Sequence[int], where: str, known: set[str]) -> Scene:
    entities = [body.entities[at] for at in order]
    index = {at: number for number, at in enumerate(order)}
    layout, names = team.actions, [name for name in action_names(team.actions) if name != TARGET]
    features = np.array([_features(entity, team, known) for entity in entities])
    present = np.array([entity.present for entity in entities])
    visible = np.ones((team.agents, len(entities)), bool)
    allowed = np.ones((team.agents, layout.choices), bool)
    targets = np.zeros((team.agents, layout.targets), np.int16)
    for at, seen in (body.sees or {}).items():
        visible[_acting(index, at, team, f"{where}.sees")] = np.isin(np.arange(len(entities)), [index[s] for s in seen])
    if not layout.vectors:
        if layout.still == 2:
            # The first of two still actions is for the dead.
            allowed[:, 0] = ~present[: team.agents]
        if layout.targets:
            allowed[:, -layout.targets :] = False
    for at, chosen in (body.targets or {}).items():
        agent = _acting(index, at, team, f"{where}.targets")
        if not layout.targets:
            raise DataError(f"{where}.targets: this policy has no actions with a target; leave it out")
        targets[agent, : len(chosen)] = [index[c] for c in chosen]
        slots = layout.choices - layout.targets + np.arange(len(chosen))
        allowed[agent, slots] = [present[index[c]] for c in chosen]
    for at, forbidden in (body.forbidden or {}).items():
        agent = _acting(index, at, team, f"{where}.forbidden")
        unknown = [name for name in forbidden if name not in names or layout.vectors]
        if unknown:
            raise DataError(f"{where}.forbidden: {unknown[0]!r} is not an action; use {', '.join(names)}")
        allowed[agent, [names.index(name) for name in forbidden]] = False
    if not allowed.any(1).all():
        raise DataError(f"{where}.forbidden: leaves an agent nothing to do")
    visible |= np.eye(team.agents, len(entities), dtype=bool)
    shown = present[:, None]
    moving = (np.array([getattr(entity, name) for entity in entities]) for name in ("position", "velocity"))
    positions, speeds, named = (np.where(shown, values, 0).astype(np.float32)[None] for values in (*moving, features))
    scene = Scene(positions, speeds, named, present[None], visible[None], allowed[None], targets[None])
    team.check(scene)
    return scene


def _features(entity: Entity, team: TeamSpec, known: set[str]) -> list[float]:
    """Those that name a kind of the training say whether it is one; the others are as given."""
    return [float(name == entity.kind) if name in known else entity.features.get(name, 0.0) for name in team.features]


def _acting(index: dict[int, int], at: int, team: TeamSpec, where: str) -> int:
    if index[at] >= team.agents:
        acting = ", ".join(sorted(set(team.kinds[: team.agents])))
        raise DataError(f"{where}: entity {at} does not act; name one of kind {acting}")
    return index[at]


def _actions(question: Question, inputs: torch.Tensor, values: torch.Tensor) -> list[Action]:
    team, scene = question.team, question.scene
    layout, names = team.actions, action_names(team.actions)
    generator = None if question.seed is None else torch.Generator().manual_seed(question.seed)
    chosen, log_probs = draw(inputs, vectors=layout.vectors, generator=generator)
    first_target = layout.choices - layout.targets
    found = []
    for agent in range(team.agents):
        if not scene.present[0, agent]:
            continue
        target, vector, probability, name = None, None, None, VECTOR
        if layout.vectors:
            across, up = norm_clipped(chosen[agent].numpy())
            vector = (float(across), float(up))
        else:
            number = int(chosen[agent])
            probability = float(log_probs[agent].exp())
            name = names[min(number, first_target)]
            if layout.targets and number >= first_target:
                target = question.indices[int(scene.targets[0, agent, number - first_target])]
        entity, value = question.indices[agent], float(values[agent])
        action = Action(entity=entity, action=name, target=target, vector=vector, probability=probability, value=value)
        found.append(action)
    return found
