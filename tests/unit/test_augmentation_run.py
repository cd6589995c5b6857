"""What wires a run: pipelines by name, texts as vectors, generated images, the fall-back, and the export."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rayworks.core import config as configs
from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.augmentation.config import Config
from rayworks.systems.augmentation.data.samples import Samples, read
from rayworks.systems.augmentation.data.splits import Part, split
from rayworks.systems.augmentation.engine.losses import Classification
from rayworks.systems.augmentation.engine.saflex import Weighed
from rayworks.systems.augmentation.exported import CARD, exported_model, read_export, write_export
from rayworks.systems.augmentation.findings import VERDICTS, Findings
from rayworks.systems.augmentation.harm import Harm
from rayworks.systems.augmentation.opening import Opened, all_arms, check_config, training_settings
from rayworks.systems.augmentation.training.arms import EARLY, ENGINE, PLAIN, UPSTREAM, Arm
from rayworks.systems.augmentation.training.loop import ArmRun
from rayworks.systems.augmentation.training.nets import network
from rayworks.systems.augmentation.training.tally import Tally
from rayworks.systems.augmentation.upstream.embedded import embedded
from rayworks.systems.augmentation.upstream.generated import generated_views, of_generated
from rayworks.systems.augmentation.upstream.named import OPERATIONS_OF, any_of, upstream_of
from rayworks.systems.augmentation.upstream.texts import TEXT_OPERATIONS
from rayworks.systems.augmentation.upstream.views import Views, identity, views
from tests.small_augmentation import NETWORK, save_rows

AMOUNTS: dict[str, Any] = {"strength": 0.5, "steps": 1, "alpha": 1.0}


def resolved(**settings: Any) -> Config:
    return configs.resolve(Config, overrides={name.replace("__", "."): value for name, value in settings.items()})


def random() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(("kind", "shape"), [("images", (400, 1, 8, 8)), ("table", (400, 5))])
def test_all_operations_of_a_kind_are_drawn_alike(kind: str, shape: tuple[int, ...]) -> None:
    names = OPERATIONS_OF[kind]
    upstream = upstream_of("operations", kind, names, **AMOUNTS)
    found = upstream(torch.rand(shape), torch.eye(2)[torch.arange(400) % 2], random())
    counts = torch.bincount(found.operations, minlength=len(found.names))
    seen = {name: int(count) for name, count in zip(found.names, counts, strict=True) if count}
    assert seen.keys() == set(names)
    expected = 400 / len(names)
    assert max(abs(count - expected) for count in seen.values()) < 4 * expected**0.5
    assert torch.equal(found.sources, torch.arange(400))
    assert torch.allclose(found.labels.sum(1), torch.ones(400))


def test_each_row_has_the_view_labels_and_name_of_one_pipeline() -> None:
    parts = [lambda x, y, r, turn=turn: views(x + turn, y, 0, turn / 4, (f"n{turn}",)) for turn in (1, 2, 3)]
    found = any_of(parts, [1, 1, 2])(torch.zeros(200, 2), torch.ones(200, 1), random())
    turns = torch.tensor([int(name[1]) for name in found.names])[found.operations]
    assert torch.equal(found.inputs[:, 0], turns.float())
    assert torch.allclose(found.strengths, turns / 4)
    assert 70 < int((turns == 3).sum()) < 130


@pytest.mark.parametrize(
    ("name", "kind", "operations", "says"),
    [
        ("operations", "table", ("rotate",), "'rotate' is none of table"),
        ("rand-augment", "table", (), "is for images, not for table"),
        ("nothing", "images", (), "no module:function"),
    ],
)
def test_pipelines_that_are_none(name: str, kind: str, operations: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        upstream_of(name, kind, operations, **AMOUNTS)


def test_texts_are_embedded_once_by_each_operation() -> None:
    texts = ["one two three", "four", "five six"]

    def encoder(given: Any) -> np.ndarray:
        return np.array([[len(text.split()), index] for index, text in enumerate(given)], np.float32)

    found = embedded(texts, encoder, 0, ("identity", "dropout"), 1.0, passes=3)
    assert found.vectors.shape == (4, 3, 2)
    assert [TEXT_OPERATIONS[number] for number in found.operations] == ["identity"] + ["dropout"] * 3
    assert found.vectors[0, :, 0].tolist() == [3, 1, 2]
    assert not found.strengths[0].any() and found.strengths[1:].all()
    alone = found.views(torch.tensor([0, 1, 1]), 2, "dropout")
    assert len(alone) == 3 and all(int(one.operations[0]) == TEXT_OPERATIONS.index("dropout") for one in alone)
    again = embedded(texts, encoder, 0, ("dropout",), 1.0, passes=3)
    assert np.array_equal(again.vectors, found.vectors[1:]), "an operation's views do not depend on the others"


def test_generated_images_are_drawn_by_their_row_and_those_of_the_test_never(tmp_path: Path) -> None:
    for name, level in (("a", 100), ("b", 110), ("c", 200), ("t", 250)):
        Image.fromarray(np.full((4, 4), level, np.uint8)).save(tmp_path / f"{name}.png")
    lines = ["file,source,operation", "a.png,10,edit", "b.png,10,edit", "c.png,12,paint", "t.png,99,edit"]
    (tmp_path / "views.csv").write_text("\n".join(lines) + "\n")
    rows = Part(torch.zeros(3, 1, 4, 4), torch.tensor([0, 1, 1]), np.array([10, 11, 12]))
    labels = torch.eye(2)[rows.labels]
    places = {"10": 0, "11": 1, "12": 2}
    with pytest.raises(DataError, match="99"):
        generated_views(str(tmp_path), places, labels, (1, 4, 4))
    found = generated_views(str(tmp_path), places, labels, (1, 4, 4), {"99"})
    drawn = of_generated(found, rows, 2)(torch.tensor([0, 1, 2] * 40), random())
    levels = (drawn.inputs[:, 0, 0, 0] * 255).round().int().view(40, 3)
    assert set(levels[:, 0].tolist()) == {100, 110}
    assert not levels[:, 1].any(), "a row without a generated image is itself"
    assert set(levels[:, 2].tolist()) == {200}
    named = [drawn.names[number] for number in drawn.operations[:3].tolist()]
    assert named == ["edit", "identity", "paint"]
    assert torch.equal(drawn.labels[:3], labels)


def finding(losses: dict[str, list[list[float]]], **settings: Any) -> Findings:
    """Where none is given, stopping early changes nothing."""

    def one(given: list[float]) -> dict[str, Any]:
        right = [int(loss < 0.55) for loss in given]
        return {
            "selection": {"losses": given, "right": right},
            "test": {"accuracy": 1 - float(np.mean(given)), "nll": 1.0},
        }

    config = resolved(experiment__seeds=len(losses[UPSTREAM]), **settings)
    losses = {EARLY: losses[UPSTREAM], **losses}
    return Findings(config, {"trained": {arm: [one(part) for part in values] for arm, values in losses.items()}})


def test_the_fall_back_asks_for_more_than_chance() -> None:
    as_it_is = [0.4, 0.6] * 50
    little, much, worse = [0.4, 0.6] * 49 + [0.5, 0.4], [0.2, 0.3] * 50, [0.9] * 100
    assert finding({UPSTREAM: [as_it_is], ENGINE: [little], PLAIN: [worse]}).chosen == UPSTREAM
    assert finding({UPSTREAM: [as_it_is], ENGINE: [much], PLAIN: [worse]}).chosen == ENGINE
    assert finding({UPSTREAM: [as_it_is], ENGINE: [worse], PLAIN: [much]}).chosen == PLAIN
    calibrated = [0.56] * 90 + [0.01] * 10
    found = finding({UPSTREAM: [as_it_is], ENGINE: [calibrated], PLAIN: [worse]}, experiment__errors=0.0)
    assert found.chosen == UPSTREAM, "a lower loss at a lower accuracy is no reason"
    assert finding({UPSTREAM: [as_it_is], ENGINE: [much], PLAIN: [[loss - 0.1 for loss in much]]}).chosen == PLAIN
    same = finding({UPSTREAM: [as_it_is], ENGINE: [as_it_is], PLAIN: [as_it_is]}, experiment__errors=0.0)
    assert same.chosen == UPSTREAM, "a tie leaves the augmentation as it is"
    found = finding({UPSTREAM: [as_it_is] * 2, ENGINE: [much, worse], PLAIN: [worse] * 2})
    assert found.choices() == [ENGINE, UPSTREAM]
    assert found.chosen_accuracies.tolist() == pytest.approx([0.75, 0.5])


def test_weighing_has_to_beat_the_upstream_stopped_early_too() -> None:
    as_it_is, better, best, worse = [0.4, 0.6] * 50, [0.3, 0.4] * 50, [0.1, 0.2] * 50, [0.9] * 100

    def chosen(early: list[float], engine: list[float], plain: list[float]) -> Findings:
        return finding({UPSTREAM: [as_it_is], EARLY: [early], ENGINE: [engine], PLAIN: [plain]})

    assert chosen(best, better, worse).chosen == EARLY
    assert chosen(better, best, worse).chosen == ENGINE
    assert chosen(better, worse, best).chosen == PLAIN
    assert chosen(better, better, better).chosen == EARLY, "of equals what costs nothing"
    assert chosen(worse, better, worse).chosen == ENGINE, "a bad stop is no rival"
    assert chosen(best, better, worse).best_rival == EARLY
    assert set(VERDICTS) == {UPSTREAM, EARLY, ENGINE, PLAIN}


def test_the_error_of_an_advantage_is_that_of_simulated_hold_outs() -> None:
    """Paired rows, whose losses depend on how hard they are."""
    generator, found, errors = np.random.default_rng(3), [], []
    for _ in range(400):
        hard = generator.exponential(size=200)
        one, other = (hard * generator.uniform(0, 1, 200) + shift for shift in (0.0, 0.1))
        mean, error = finding({UPSTREAM: [other.tolist()], ENGINE: [one.tolist()], PLAIN: [hard.tolist()]}).advantage(
            ENGINE, [0]
        )
        found.append(mean)
        errors.append(error)
    assert np.mean(found) == pytest.approx(0.1, abs=0.02)
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.15)


def harm_of(*tallies: Tally) -> Harm:
    return Harm([{"names": tally.names, "by_operation": tally.by_operation.tolist()} for tally in tallies])


def test_a_tally_remembers_the_furthest_view_of_each_row() -> None:
    tally, loss = Tally(3, 2), Classification()

    def weighed(*gains: float) -> Weighed:
        own, rows = torch.tensor([[gain, -gain] for gain in gains]), len(gains)
        labels, ones = torch.eye(2)[torch.zeros(rows, dtype=torch.long)], torch.ones(rows)
        return Weighed(torch.zeros(rows, 2), labels, ones, labels, loss, gains=own, own=own)

    def seen(names: tuple[str, ...]) -> Any:
        return views(torch.zeros(3, 1), torch.eye(2)[[0, 0, 0]], torch.arange(3) % len(names), 0.5, names)

    tally.add(seen(("a", "b")), torch.tensor([0, 0, 1]), weighed(0.5, -2.0, 1.0), 7)
    tally.add(seen(("b", "c")), torch.tensor([0, 1, 1]), weighed(-1.0, 3.0, -0.5), 8)
    worst, best = tally.furthest(3, 2)
    assert worst == [(0, -2.0, 7, 1), (1, -0.5, 8, 2)]
    assert best == [(1, 3.0, 8, 1), (0, 0.5, 7, 0)]
    assert tally.names == ("a", "b", "c")
    assert harm_of(tally).scores == pytest.approx({"b": (-2.0 - 1.0 - 0.5) / 3, "a": 0.75, "c": 3.0})
    assert tally.suggested(torch.tensor([0, 0, 1])).tolist() == [1, 0, 1]
    again = Tally(3, 2)
    again.load_state_dict(tally.state_dict())
    assert again.furthest(3, 2) == [worst, best] and harm_of(again).scores == harm_of(tally).scores


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"data__trusted": 1700}, "data.trusted: 1700 samples are asked for"),
        ({"upstream__operations": ["spin"]}, "upstream.operations: 'spin'"),
        ({"data__source": "nothing"}, "data.source"),
        ({"upstream__folder": "/nowhere"}, "upstream.folder"),
        ({"training__network": "nowhere:net"}, "training.network"),
        ({"training__network": "json:dumps"}, "training.network"),
        ({"training__network": "builtins:print"}, "return a torch.nn.Module"),
        ({"training__network": "tests.small_augmentation:pair_network"}, "gives a tuple for 4 rows"),
        ({"training__network": "tests.small_augmentation:wrong_network"}, "a logit of each of 10 classes"),
    ],
)
def test_what_cannot_be_trained_is_named_before_it_is(settings: dict[str, Any], says: str) -> None:
    with pytest.raises((ConfigError, DataError), match=says):
        check_config(resolved(**settings))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"experiment__arms": ["SAFLEX", "plain", "L2RW"]}, "is missing; the fall-back"),
        ({"experiment__arms": ["SAFLEX", "SAFLEX"]}, "names one twice"),
        ({"experiment__arms": []}, "is missing; the fall-back"),
        ({"experiment__arms": ["SAFLEX", "spin", "L2RW"]}, "'spin' is unknown"),
        ({"training__workers": 3}, "training.batch: 64 rows cannot be dealt out to 3 workers"),
        ({"engine__rule": "network"}, "engine.rule"),
        (
            {"engine__beta": 0, "engine__tau": 0.01, "engine__warm_up": 0, "engine__progress": 0},
            "engine.beta, tau, warm_up",
        ),
        ({"upstream__folder": "x", "experiment__retrain": True}, "experiment.retrain"),
    ],
)
def test_settings_that_do_not_fit_together(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        resolved(**settings)


def test_content_that_others_are_measured_by_is_left_out() -> None:
    """Sixty contents, each in two rows: a part that is measured by them leaves none of those for training."""
    kinds = np.repeat(np.arange(60), 2)
    samples = Samples(np.eye(60, dtype=np.float32)[kinds], kinds % 2, ("a", "b"))
    kept = split(samples, 0, training=80, trusted=10, selection=4, test=3, duplicates=True)
    found = split(samples, 0, training=80, trusted=10, selection=4, test=3)
    held = np.concatenate([found.selection.rows, found.test.rows, found.trusted.rows])
    assert not np.isin(kinds[found.training.rows], kinds[held]).any()
    assert not np.isin(kinds[found.trusted.rows], kinds[np.concatenate([found.selection.rows, found.test.rows])]).any()
    assert kept.left_out == 0 and len(kept.training) == 80
    assert found.left_out == 90 - len(found.training) - len(found.trusted) > 0
    with pytest.raises(DataError, match=r"40 of 40 rows have the content of rows in other parts.*data\.duplicates"):
        split(Samples(samples.inputs * 0, kinds % 2, ("a", "b")), 0, training=40, trusted=30, selection=20, test=30)


def test_a_diverged_arm_is_measured_and_said() -> None:
    _, found = opened(Path(), "digits", training__rate=1e6, training__steps=5)
    config = resolved(training__rate=1e6, training__steps=5, training__width=2)
    run = ArmRun(Arm("plain"), found.splits, found.drawn(), training_settings(config), 0)
    run.train()
    measured = run.evaluate(found.splits.test)
    assert np.isfinite(measured["nll"]) and measured["nll"] > 2
    assert max(measured["losses"]) <= 100


def test_networks_that_draw_repeat_and_go_on(tmp_path: Path) -> None:
    """Dropout draws by seed and step, whatever ran before in the process."""
    name = "tests.small_augmentation:dropping_network"
    config, found = opened(tmp_path, "digits", training__network=name, training__steps=6)

    def weights(*pieces: int) -> torch.Tensor:
        torch.rand(len(pieces))
        run = ArmRun(Arm("plain"), found.splits, found.drawn(), training_settings(config), 0)
        for piece in pieces:
            again = ArmRun(Arm("plain"), found.splits, found.drawn(), training_settings(config), 0)
            again.load_state_dict(run.state_dict())
            run = again
            run.train(piece)
        return torch.cat([value.flatten() for value in run.model.parameters()]).detach()

    whole = weights(6)
    assert torch.equal(whole, weights(2, 4)) and torch.equal(whole, weights(6))


@pytest.mark.parametrize(("strength", "source"), [(-0.1, 0), (7.5, 0), (float("nan"), 0), (0.5, -1)])
def test_views_out_of_bounds(strength: float, source: int) -> None:
    with pytest.raises(DataError, match="mend the pipeline"):
        Views(
            torch.zeros(1, 2),
            torch.ones(1, 1),
            torch.tensor([source]),
            torch.zeros(1).long(),
            torch.tensor([strength]),
            ("a",),
        )


def test_the_arms_of_a_run() -> None:
    config = resolved(experiment__retrain=True, upstream__operations=["identity", "paste"])
    found = all_arms(config, "images")
    assert list(found)[-2:] == ["only identity", "only paste"]
    engine = found[ENGINE].engine
    assert engine is not None and engine.warm_up == 800 // 3


def opened(tmp_path: Path, source: str, **settings: Any) -> tuple[Config, Opened]:
    sizes = {"data__training": 100, "data__trusted": 20, "data__selection": 40, "training__width": 2}
    config = resolved(data__source=source, **sizes, **settings)
    return config, Opened(config, read(source), 0)


@pytest.mark.parametrize("name", ["own", NETWORK, "tests.small_augmentation:tied_network"])
def test_an_export_says_what_the_model_did(tmp_path: Path, name: str) -> None:
    source = save_rows(tmp_path / "rows.csv", 240)
    config, found = opened(tmp_path, source, training__network=name)
    model = network((6,), 3, 2, 0, name)
    card = {**dict.fromkeys(CARD, "x"), "accuracy": 0.5, "accuracy_of_model": 0.4, "seeds": 1, "noise_auc": None}
    made = exported_model(config, model, found, card)
    folder = tmp_path / "export"
    folder.mkdir()
    write_export(made, lambda file, data: (folder / file).write_bytes(data))
    if name != "own":
        with pytest.raises(DataError, match="name it in trusted"):
            read_export(folder)
    again = read_export(folder, [name])
    rows = read(source).inputs[:7]
    labels = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2, 0]]
    assert np.array_equal(again.probabilities(rows), made.probabilities(rows))
    one, other = made.score(rows, labels), again.score(rows, labels)
    assert all(np.array_equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True))
    alone = again.score(rows[3:4], labels[3:4])
    assert alone.given == pytest.approx(other.given[3:4], abs=1e-5)
    chances = again.probabilities(rows)
    by_label = [again.score(rows, np.tile(np.eye(3, dtype=np.float32)[k], (7, 1))).given for k in range(3)]
    assert (chances * np.stack(by_label, 1)).sum(1) == pytest.approx(0, abs=1e-5), "sum_k p_k A_k = 0"
    trained = found.places.training.inputs[:5]
    assert made.probabilities(read(source).inputs[found.places.training.rows[:5]]) == pytest.approx(
        model(trained).softmax(1).detach().numpy(), abs=1e-5
    )


def test_an_export_that_only_scores_leaves_weights_and_labels(tmp_path: Path) -> None:
    source = save_rows(tmp_path / "rows.csv", 240)
    config, found = opened(tmp_path, source, engine__learn="nothing")
    card = {**dict.fromkeys(CARD, "x"), "accuracy": 0.5, "accuracy_of_model": 0.4, "seeds": 1, "noise_auc": None}
    made = exported_model(config, network((6,), 3, 2, 0), found, card)
    labels = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    scored = made.score(read(source).inputs[:4], labels)
    assert np.array_equal(scored.labels, labels) and np.array_equal(scored.weights, np.ones(4))
    assert np.array_equal(scored.scores, scored.given) and scored.given.any()


@pytest.mark.parametrize(
    ("part", "value"),
    [("unit", 0), ("unit", float("nan")), ("kind", "sounds"), ("classes", ["a", "a", "b"]), ("shape", [5]), ("mean", [0.0]),
     ("engine", {"beta": -1}), ("spread", [0.0] * 6), ("width", 10**9)],
)  # fmt: skip
def test_damaged_exports(tmp_path: Path, part: str, value: Any) -> None:
    config, found = opened(tmp_path, save_rows(tmp_path / "rows.csv", 240))
    card = {**dict.fromkeys(CARD, "x"), "accuracy": 0.5, "accuracy_of_model": 0.4, "seeds": 1, "noise_auc": None}
    made = exported_model(config, network((6,), 3, 2, 0), found, card)
    write_export(made, lambda file, data: (tmp_path / file).write_bytes(data))
    described = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**described, part: value}))
    with pytest.raises(DataError, match="is not the export"):
        read_export(tmp_path)


def test_an_engine_that_never_began_is_reported() -> None:
    config = resolved(experiment__seeds=1)
    one = {"names": [], "by_operation": [], "noise_auc": None}
    found = Findings(config, {"trained": {ENGINE: [one]}})
    assert found.harm.mean_score == 0 and found.harm.by_strength() == {} and found.noise_auc is None
    assert found.harm.others_told() == {} and found.agreement() is None


def test_views_of_the_run_are_those_of_its_kind(tmp_path: Path) -> None:
    _, found = opened(tmp_path, save_rows(tmp_path / "rows.csv", 240), upstream__operations=["noise"])
    drawn = found.drawn()(torch.arange(4), random())
    assert drawn.names == ("noise",) and drawn.inputs.shape == (4, 6)
    same = identity(drawn.inputs, drawn.labels, random())
    assert torch.equal(same.inputs, drawn.inputs)
