"""Tasks of classes: where examples come from, how they are parted, what experts see, and what students learn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from rayworks.core import config as configs
from rayworks.core.errors import ConfigError, DataError
from rayworks.core.run_directory import RunDirectory
from rayworks.systems.supervision import actors
from rayworks.systems.supervision.boosting.chain import Chain
from rayworks.systems.supervision.boosting.verdict import ROUNDS, Verdict
from rayworks.systems.supervision.class_track import ClassPool, ClassTrack, surest
from rayworks.systems.supervision.config import Config, StudentSection, TaskSection, WeakSection
from rayworks.systems.supervision.opening import check_tracks
from rayworks.systems.supervision.students.linear import fit_student
from rayworks.systems.supervision.tasks.hardness import hardness_of, reference
from rayworks.systems.supervision.tasks.labelled import LabelledExamples, labelled
from rayworks.systems.supervision.tasks.opening import open_task
from rayworks.systems.supervision.tasks.splitting import SPLITS, distinct, part, with_noise
from rayworks.systems.supervision.tracks import Lesson
from rayworks.systems.supervision.weak.classifiers import fit_expert, from_bytes, logistic, to_bytes
from rayworks.systems.supervision.weak.features import FrozenFeatures, check_features, features_named, restored
from tests.small_headlines import headlines, save_headlines

SMALL = {
    "task.count": 400,
    "task.count_labelled": 100,
    "task.count_validation": 60,
    "task.count_unlabelled": 100,
    "task.count_test": 80,
    "task.hardness": "words:40",
    "weak.features": "words:20",
}


def track(seed: int = 0, **settings: Any) -> ClassTrack:
    config = configs.resolve(Config, overrides=SMALL | settings)
    texts, labels = headlines(400)
    return ClassTrack(config, ClassPool(config, labelled(texts, labels)), seed)


def own_task(section: TaskSection, seed: int) -> Any:
    texts, names = headlines(50, seed)
    return labelled(texts, names)


def no_task(section: TaskSection, seed: int) -> Any:
    return ()


def own_features(texts: list[str]) -> np.ndarray:
    return np.array([[len(text), text.count("joke")] for text in texts], float)


def broken_features(texts: list[str]) -> np.ndarray:
    return np.full((len(texts), 2), np.nan)


def test_parts_do_not_overlap_and_easy_ones_are_easier() -> None:
    config = configs.resolve(Config, overrides=SMALL).task
    hardness = np.random.default_rng(0).random(400)
    for seed in range(3):
        found = part(config, hardness, seed)
        rows = np.concatenate([found[split] for split in SPLITS])
        # Of the 200 easy ones 40 are left to test on.
        assert len(set(rows.tolist())) == len(rows) == 380
        easy = np.concatenate([found["labelled"], found["validation"], found["easy_test"]])
        hard = np.concatenate([found["unlabelled"], found["test"]])
        assert hardness[easy].max() <= hardness[hard].min()
    random = part(config.model_copy(update={"split": "random"}), hardness, 0)
    assert hardness[random["labelled"]].max() > hardness[random["test"]].min()
    assert len(random["easy_test"]) == 0
    for count in (0, 7):
        fewer = part(config.model_copy(update={"count_easy_test": count}), hardness, 0)
        assert len(fewer["easy_test"]) == count
        assert (fewer["test"] == part(config, hardness, 0)["test"]).all()
    with pytest.raises(ConfigError, match="201 easy and 180 hard"):
        configs.resolve(Config, overrides=SMALL | {"task.count_easy_test": 41})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"experiment.workers": 2}, "experiment.workers: is 2, but nothing is trained in step"),
        ({"weak.processes": 2}, "weak.processes: is 2, which is for adapters .* set weak.learner: adapter"),
        (
            {"weak.processes": 2, "weak.learner": "adapter", "boosting.vote": "log-linear"},
            "weak.processes: .* set boosting.vote: linear or share",
        ),
    ],
)
def test_processes_without_work_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        configs.resolve(Config, overrides=settings)


def test_experts_of_classes_are_not_dealt_out(tmp_path: Path) -> None:
    task = {"task.name": save_headlines(tmp_path / "headlines.csv"), "task.split": "random"}
    settings = SMALL | task | {"weak.learner": "adapter", "weak.processes": 2}
    with pytest.raises(ConfigError, match="experts of classes decode nothing"):
        check_tracks(configs.resolve(Config, overrides=settings))


def test_hardness_without_differences_is_refused() -> None:
    with pytest.raises(DataError, match="same for all examples"):
        part(configs.resolve(Config, overrides=SMALL).task, np.ones(400), 0)


def test_near_duplicates_cannot_leak_from_easy_to_hard() -> None:
    texts = ["Area man wins!", "area  man wins", "another", "AREA MAN, WINS?", "third"]
    kept = distinct(texts, 3, 0)
    assert sorted(kept.tolist()) == [0, 2, 4]
    with pytest.raises(DataError, match="3 of 5 examples differ"):
        distinct(texts, 4, 0)


def test_noise_changes_about_its_share_and_never_to_the_same_class() -> None:
    labels = np.arange(9000) % 3
    noisy = with_noise(labels, 3, 0.3, 1)
    assert float((noisy != labels).mean()) == pytest.approx(0.3, abs=0.02)
    assert set(noisy) == {0, 1, 2}
    assert (with_noise(labels, 3, 0.0, 1) == labels).all()


@pytest.mark.parametrize(
    ("texts", "names", "word"),
    [
        (["a", "b"], ["x", "x"], "all labels are x"),
        (["a"], ["x", "y"], "1 texts and 2 labels"),
        ([str(n) for n in range(101)], [str(n) for n in range(101)], "more than 100 classes"),
    ],
)
def test_labels_that_are_no_classes_are_refused(texts: list[str], names: list[str], word: str) -> None:
    with pytest.raises(DataError, match=word):
        labelled(texts, names)


@pytest.mark.parametrize(
    ("written", "word"),
    [
        ("text,label\na,x\n,y\n", "row 2, column text"),
        ("text\na\n", "has no column label"),
        ("", "cannot be read"),
        ("text,label\n", "has no rows"),
    ],
)
def test_broken_tables_name_row_and_column(tmp_path: Path, written: str, word: str) -> None:
    file = tmp_path / "own.csv"
    file.write_text(written)
    with pytest.raises(DataError, match=word):
        open_task(TaskSection(name=str(file)), 0)


def test_tables_of_the_user_are_read_as_they_are(tmp_path: Path) -> None:
    rows = [{"text": "007", "label": True, "uid": 5}, {"text": "None", "label": False, "uid": 6}]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = open_task(TaskSection(name=str(tmp_path / "own.jsonl")), 0)
    assert isinstance(found, LabelledExamples)
    assert (found.uids, found.texts, found.classes) == (("5", "6"), ("007", "None"), ("False", "True"))
    (tmp_path / "own.csv").write_text("text,label\nNA,1\nnull,0\n")
    found = open_task(TaskSection(name=str(tmp_path / "own.csv")), 0)
    assert isinstance(found, LabelledExamples)
    assert found.texts == ("NA", "null")


def test_tasks_of_the_user_are_called_and_told_what_is_wrong() -> None:
    assert len(open_task(TaskSection(name=f"{__name__}:own_task"), 3)) == 50
    with pytest.raises(ConfigError, match="gave a tuple; it must give labelled"):
        open_task(TaskSection(name=f"{__name__}:no_task"), 3)
    with pytest.raises(ConfigError, match="failed with TypeError"):
        open_task(TaskSection(name="builtins:max"), 3)
    with pytest.raises(ConfigError, match="cannot be imported"):
        open_task(TaskSection(name="nowhere:task"), 3)
    with pytest.raises(ConfigError, match="is no task"):
        open_task(TaskSection(name="sarcasms"), 3)


def test_hardness_by_reference_column_length_and_export(tmp_path: Path) -> None:
    texts, names = headlines(200)
    texts = [
        f"{text} {name}" if number % 2 else text for number, (text, name) in enumerate(zip(texts, names, strict=True))
    ]
    examples = labelled(texts, names, columns=pd.DataFrame({"level": range(200)}))
    features = features_named("words:60", texts).of(texts)
    hard, right = reference(features, examples.labels)
    assert right.mean() > 0.6
    assert ((hard < 0.5) == right).all()

    def of(name: str) -> np.ndarray:
        return hardness_of(name, examples.uids, texts, examples.labels, examples.columns, lambda _: features)[0]

    assert (of("column:level") == np.arange(200)).all()
    assert (of("length") == [len(text) for text in texts]).all()
    (tmp_path / "set").mkdir()
    (tmp_path / "sets.json").write_text('["set"]')
    calibrated = {
        "items": [f"i{n}" for n in range(200)],
        "texts": texts,
        "parameters": {"difficulty": list(range(200))},
    }
    (tmp_path / "set" / "calibration.json").write_text(json.dumps(calibrated))
    assert (of(f"export:{tmp_path}") == np.arange(200)).all()
    (tmp_path / "set" / "calibration.json").write_text(json.dumps(calibrated | {"texts": ["other"] * 200}))
    with pytest.raises(DataError, match="200 of 200 are not in it"):
        of(f"export:{tmp_path}")
    with pytest.raises(DataError, match="no column depth"):
        of("column:depth")


def test_a_rare_class_has_a_hardness_too() -> None:
    labels = np.array([0] * 30 + [1] * 30 + [2])
    hard, right = reference(np.random.default_rng(0).normal(size=(61, 3)), labels)
    assert np.isfinite(hard).all()
    assert not right[-1]


def test_trees_and_lines_are_those_of_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    dense = draw.normal(size=(300, 6)) * (draw.random((300, 6)) < 0.6)
    labels = (dense[:, 0] + dense[:, 1] * dense[:, 2] > 0.2).astype(int) + (dense[:, 3] > 1)
    weights = draw.random(300) + 0.1
    for features in (dense, sparse.csr_matrix(dense)):
        tree = fit_expert(WeakSection(depth=4), features, labels, weights, 3, 7)
        peer = DecisionTreeClassifier(max_depth=4, min_samples_leaf=5, random_state=7).fit(features, labels, weights)
        assert np.allclose(tree.probabilities(features), peer.predict_proba(features))
        for count in (2, 3):
            target = np.minimum(labels, count - 1)
            line = logistic(features, target, weights, count, 1.0)
            model = LogisticRegression(C=1.0, max_iter=100).fit(features, target, weights)
            assert np.allclose(line.probabilities(features), model.predict_proba(features), atol=1e-9)
        for expert in (tree, line):
            assert (from_bytes(to_bytes(expert)).probabilities(features) == expert.probabilities(features)).all()


@pytest.mark.parametrize("learner", ["tree", "linear"])
def test_experts_of_one_class_or_one_row_answer_it(learner: Any) -> None:
    features = np.arange(6.0).reshape(3, 2)
    section = WeakSection(learner=learner)
    one = fit_expert(section, features, np.array([1, 1, 1]), np.ones(3), 2, 0)
    assert one.probabilities(features).tolist() == [[0, 1]] * 3
    only = fit_expert(section, features, np.array([1, 0, 1]), np.array([0.0, 3.0, 0.0]), 2, 0)
    assert only.probabilities(features).tolist() == [[1, 0]] * 3


def test_features_come_back_from_their_state() -> None:
    texts, _ = headlines(80)
    for name in ("words:15", "tfidf"):
        features = features_named(name, texts)
        again = restored(json.loads(json.dumps(features.state())))
        new = ["joke1 fact2 word3", "nothing known", ""]
        assert (features.of(new) != again.of(new)).nnz == 0
    assert features_named("words:15", texts).of(texts).shape == (80, 15)


def test_features_of_the_user_are_checked() -> None:
    features = FrozenFeatures(f"{__name__}:own_features")
    assert features.of(["a joke", "b"]).tolist() == [[6, 1], [1, 0]]
    with pytest.raises(DataError, match="no number"):
        FrozenFeatures(f"{__name__}:broken_features").of(["a"])
    for name, word in (("words:0", "words:N"), ("bert", "none of"), ("nowhere:at", "cannot be imported")):
        with pytest.raises(ConfigError, match=word):
            check_features(name)
    with pytest.raises(DataError, match="no words"):
        features_named("words:5", ["", " "])


def test_students_of_sure_labels_are_plain_regressions() -> None:
    draw = np.random.default_rng(1)
    features = sparse.csr_matrix(draw.random((120, 8)))
    labels = draw.integers(0, 3, 120)
    student = fit_student(features, np.eye(3)[labels], StudentSection(), "cross-entropy")
    peer = LogisticRegression(C=1.0, max_iter=100).fit(features, labels)
    assert np.allclose(student.probabilities(features), peer.predict_proba(features), atol=1e-6)


def test_soft_labels_count_as_their_shares() -> None:
    """A row of .25 and .75 teaches as four rows do, one of a class and three of the other."""
    draw = np.random.default_rng(2)
    dense = draw.random((40, 3))
    soft = np.where(draw.random((40, 1)) < 0.5, [[0.25, 0.75]], [[0.5, 0.5]])
    student = fit_student(sparse.csr_matrix(dense), soft, StudentSection(penalty=4.0), "cross-entropy")
    copies = np.repeat(dense, 4, axis=0)
    labels = np.concatenate([[0] * round(4 * row[0]) + [1] * round(4 * row[1]) for row in soft])
    peer = LogisticRegression(C=1.0, max_iter=200, tol=1e-8).fit(copies, labels)
    assert np.allclose(student.probabilities(dense), peer.predict_proba(dense), atol=2e-3)


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("loss", ["cross-entropy", "logconf", "product"])
def test_students_of_labels_that_say_nothing_say_nothing_odd(dense: bool, loss: Any) -> None:
    features = np.random.default_rng(3).random((30, 4))
    for labels in (np.eye(2)[np.zeros(30, int)], np.full((30, 2), 0.5)):
        student = fit_student(features if dense else sparse.csr_matrix(features), labels, StudentSection(), loss)
        said = student.probabilities(features)
        assert np.isfinite(said).all()
        assert np.allclose(said.sum(axis=1), 1)


def test_the_surest_of_each_class_are_kept() -> None:
    labels = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.45, 0.55], [0.7, 0.3]])
    assert surest(labels, 0.5).tolist() == [0, 2, 4]
    assert surest(labels, 0.01).tolist() == [0, 2]


def test_a_track_of_one_expert_is_that_expert() -> None:
    one = track()
    learner = one.learner()
    expert = learner.fit(np.ones(100), 0)
    found = one.label([expert], np.array([0.7]), "unlabelled", "share", [1, 5])
    assert (found[1] == found[5]).all()
    [said], _ = one.learn(Lesson(found[1]), ["test"], 0)
    assert said.shape == (80, 2)
    assert (one.unpack(one.pack(said)) == said).all()
    assert one.rights(one.truth("test"), "test").all()
    assert one.facts()["counts"] == {"labelled": 100, "validation": 60, "unlabelled": 100, "test": 80, "easy_test": 40}


def test_seeds_share_the_pool_and_differ_in_their_parts() -> None:
    first, second = track(0), track(1)
    assert (first.truth("test") != second.truth("test")).any()
    assert (first.truth("test") == track(0).truth("test")).all()


def test_noise_reaches_what_experts_learn_and_not_the_truth() -> None:
    noisy = track(**{"task.label_noise": 0.4})
    changed = (noisy.known("labelled") != noisy.truth("labelled")).any(axis=1).mean()
    assert 0.2 < changed < 0.6
    assert (noisy.known("validation") == noisy.truth("validation")).all()


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"task.count": 100}, "the parts take"),
        ({"task.count": 7000, "task.count_test": 3000, "task.count_unlabelled": 1000}, "half of 7000"),
        ({"student.taught": ["ensemble"]}, "leaves single out"),
        ({"student.taught": ["single", "ladder"]}, "student.ladder: is empty"),
        ({"experiment.rounds_shown": [2, 4]}, "growing numbers from 1"),
        ({"task.name": "openbookqa", "boosting.rule": "adaboost"}, "not for texts"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        configs.resolve(Config, overrides=settings)


def test_a_death_before_the_verdict_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = str(save_headlines(tmp_path / "headlines.csv"))
    asked: list[str] = []

    def verdict(track: object, chain: Chain, *rest: object) -> Verdict:
        asked.append(chain.arm)
        if die and len(asked) == 1:
            raise KeyboardInterrupt
        return Verdict(False, "forced")

    monkeypatch.setattr(actors, "first_verdict", verdict)
    found = []
    for name, die in (("whole", False), ("killed", True)):
        changes = {"task.name": source, "task.split": "random", "boosting.rounds": 8, "boosting.fallback": True}
        config = configs.resolve(Config, overrides=SMALL | changes | {"run.storage": str(tmp_path), "run.name": name})
        directory = RunDirectory(config.run.storage, "supervision", name)
        asked.clear()
        if die:
            with pytest.raises(KeyboardInterrupt):
                actors.SupervisionActor(config, directory).grow((0, "boosting", 8))
        found.append(actors.SupervisionActor(config, directory).grow((0, "boosting", 8)))
    assert found[0]["kept"] == found[1]["kept"] == ROUNDS
    assert found[0]["ended"] == found[1]["ended"] == f"after {ROUNDS} experts more will not help: forced"
    assert found[0]["rounds"] == found[1]["rounds"]
