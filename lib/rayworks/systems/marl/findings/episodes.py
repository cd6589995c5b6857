"""Films of trained policies: episodes drawn from their scenes."""

import io
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from rayworks.core.figures import COLOURS
from rayworks.core.seeds import derive_small
from rayworks.systems.marl.config import Config, NetworkKind
from rayworks.systems.marl.environments.registry import make_environment
from rayworks.systems.marl.environments.scenes import Scene, TeamSpec
from rayworks.systems.marl.findings.evaluation import Weights, policies_for
from rayworks.systems.marl.networks.acting import Policy, as_tensors, draw

SIZE, FINE = 320, 3
"""Pixels of a frame, and how many times finer it is drawn."""
MILLISECONDS, LAST_MILLISECONDS = 120, 1200
SHOWN = 6
"""Moments of a strip."""
MARGIN = 1.15
TYPE = "type_"
"""Beginning of the names of features that say what type of unit it is."""
UNIT = 0.075
"""Radius of an entity over the half-width of the picture."""


@dataclass(frozen=True)
class Moment:
    """Contents of a frame."""

    scene: Scene
    step: int
    total: float
    """Return of the first team so far."""


def film(config: Config, kind: NetworkKind, weights: Weights, number: int) -> bytes:
    """One episode as an animated GIF, each team taking its most probable actions."""
    spec, moments = _episode(config, kind, weights, number)
    reach = _reach(moments)
    frames = [_frame(spec, moment, reach) for moment in moments]
    buffer = io.BytesIO()
    shown = [MILLISECONDS] * (len(frames) - 1) + [LAST_MILLISECONDS]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=shown, loop=0, optimize=True)
    return buffer.getvalue()


def strip(config: Config, kind: NetworkKind, weights: Weights, number: int) -> bytes:
    """Moments of the same episode side by side, as a PNG."""
    spec, moments = _episode(config, kind, weights, number)
    reach, columns = _reach(moments), SHOWN // 2
    chosen = [moments[at] for at in np.linspace(0, len(moments) - 1, SHOWN).round().astype(int)]
    sheet = Image.new("RGB", (SIZE * columns, SIZE * 2), "white")
    for index, moment in enumerate(chosen):
        sheet.paste(_frame(spec, moment, reach), (SIZE * (index % columns), SIZE * (index // columns)))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _episode(config: Config, kind: NetworkKind, weights: Weights, number: int) -> tuple[TeamSpec, list[Moment]]:
    with closing(make_environment(config.environment, 1, derive_small(config.run.seed, "film", number))) as world:
        policies: Mapping[str, Policy] = policies_for(kind, world.teams, config.network, weights)
        team, spec = next(iter(world.teams.items()))
        scenes: Mapping[str, Scene] = world.reset()
        moments, total = [Moment(scenes[team], 0, 0.0)], 0.0
        for step in range(1, world.horizon + 1):
            actions: dict[str, Any] = {}
            for name, own in world.teams.items():
                inputs = policies[name].action_dist_inputs(as_tensors(scenes[name])).detach()
                chosen, _ = draw(inputs, vectors=own.actions.vectors, generator=None)
                actions[name] = chosen.numpy()[None]
            reached = world.step(actions)
            total += float(reached.rewards[team].sum())
            moments.append(Moment(reached.last[team], step, total))
            if reached.ended.any():
                break
            scenes = reached.scenes
    return spec, moments


def _reach(moments: Sequence[Moment]) -> float:
    """Half-width of the picture: the map, or more if somebody left it."""
    far = [np.abs(moment.scene.positions[moment.scene.present]) for moment in moments]
    return MARGIN * max(1.0, *(float(distances.max()) for distances in far if distances.size))


def _frame(spec: TeamSpec, moment: Moment, reach: float) -> Image.Image:
    """One picture, drawn finer and reduced, which smooths its edges."""
    size = SIZE * FINE
    picture = Image.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(picture)
    scale, radius = size / 2 / reach, UNIT * size / 2 / reach**0.5
    corners = [size / 2 - scale, size / 2 - scale, size / 2 + scale, size / 2 + scale]
    pen.rectangle(corners, outline="#e5e7eb", width=FINE)
    kinds = list(dict.fromkeys(spec.kinds))
    scene = moment.scene
    health = spec.features.index("health") if "health" in spec.features else None
    for entity in reversed(range(spec.entities)):
        if not scene.present[0, entity]:
            continue
        across, up = scene.positions[0, entity] * scale
        at = np.array([size / 2 + across, size / 2 - up])
        kind = spec.kinds[entity]
        paint = COLOURS[7] if kind == "landmark" else COLOURS[kinds.index(kind)]
        if kind == "landmark":
            half = radius * 0.8
            pen.rectangle([*(at - half), *(at + half)], outline=paint, width=2 * FINE)
            continue
        pen.line([*at, *(at + scene.velocities[0, entity] * [1, -1] * scale * 0.3)], fill=paint, width=2 * FINE)
        pen.ellipse([*(at - radius), *(at + radius)], fill=paint, outline="white", width=FINE)
        if health is not None:
            # How much is left, clockwise from the top.
            outer, end = radius * 1.35, -90 + 360 * min(1.0, float(scene.features[0, entity, health]))
            pen.arc([*(at - outer), *(at + outer)], -90, end, fill=COLOURS[2], width=2 * FINE)
        letter = _letter(spec, scene, entity)
        pen.text(tuple(at), letter, fill="white", anchor="mm", font_size=radius)
    caption = f"step {moment.step}   return {moment.total:.1f}"
    pen.text((6 * FINE, 4 * FINE), caption, fill="#1f2937", font_size=12 * FINE)
    legend = "   ".join(kinds)
    pen.text((6 * FINE, size - 18 * FINE), legend, fill="#6b7280", font_size=10 * FINE)
    return picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def _letter(spec: TeamSpec, scene: Scene, entity: int) -> str:
    """Letter of a unit's type, if any; otherwise the agent's number."""
    types = [name for name in spec.features if name.startswith(TYPE)]
    shown = [name for name in types if scene.features[0, entity, spec.features.index(name)] == 1]
    if shown:
        return shown[0].removeprefix(TYPE)[:2].capitalize()
    return str(entity) if entity < spec.agents else ""
