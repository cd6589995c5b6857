"""What federation reads: shapes, splits, caps, formats, refusals; and who is given what."""

import base64
import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rayworks.core import datasets, seeds
from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.federation.config import DataSection
from rayworks.systems.federation.data.examples import Examples, scaled
from rayworks.systems.federation.data.heterogeneity import effective_labels, jensen_shannon, total_variation
from rayworks.systems.federation.data.partitions import label_counts, partition
from rayworks.systems.federation.data.reviews import examples_of, hashed_words
from rayworks.systems.federation.data.sources import cifar10_task, idx_pair, read, stratified

NAMES = tuple("abcdefghij")


def of_labels(labels: np.ndarray, classes: int = 10, groups: np.ndarray | None = None) -> Examples:
    inputs = np.zeros((len(labels), 2), np.float32)
    names = () if groups is None else ("x", "y", "z")
    return Examples(inputs, labels.astype(np.int64), NAMES[:classes], groups, names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": np.zeros((4, 2), np.float64)}, "inputs: are float64"),
        ({"inputs": np.zeros((4, 3, 3), np.uint8)}, "channels, height, width"),
        ({"inputs": np.zeros((4, 0), np.float32)}, "holds nothing"),
        ({"inputs": np.full((4, 2), np.nan, np.float32)}, "numbers in"),
        ({"inputs": np.full((4, 2), 1.5, np.float32)}, "numbers in"),
        ({"labels": np.array([0, 1, 2, 3])}, r"labels: must lie in 0\.\.2"),
        ({"labels": np.array([0, 1, -1, 2])}, "labels: must lie"),
        ({"labels": np.array([0, 1])}, "one for each example"),
        ({"groups": np.array([0, 0, 0, 1]), "group_names": ("x",)}, "groups: must lie"),
    ],
)
def test_examples_that_can_not_be_used_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    fields = {"inputs": np.zeros((4, 2), np.float32), "labels": np.array([0, 1, 2, 0]), "classes": ("a", "b", "c")}
    assert len(Examples(**fields)) == 4
    with pytest.raises(DataError, match=message):
        Examples(**(fields | change))


def test_bytes_are_scaled_and_features_are_not() -> None:
    assert scaled(np.array([[0, 51, 255]], np.uint8)).tolist() == [[0.0, np.float32(0.2), 1.0]]
    assert scaled(np.array([[0.25]], np.float32))[0, 0] == 0.25


def test_a_stratified_choice_keeps_the_shares() -> None:
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    chosen = stratified(labels, 50, seeds.stream(1, "x"))
    assert np.abs(np.bincount(labels[chosen]) - [30, 15, 5]).max() <= 1
    assert len(set(chosen.tolist())) == 50


def test_digits_are_split_by_seed() -> None:
    train, test = read(DataSection(), 3)
    assert (len(train), len(test), train.shape) == (1438, 359, (1, 8, 8))
    assert train.inputs.max() == 255
    assert np.ptp(test.counts() / (test.counts() + train.counts())) < 0.01
    again, other = read(DataSection(), 3)[1], read(DataSection(), 4)[1]
    assert np.array_equal(test.inputs, again.inputs)
    assert not np.array_equal(test.inputs, other.inputs)
    rows = {row.tobytes() for row in train.inputs}
    assert sum(row.tobytes() in rows for row in test.inputs) == 0


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_real_sets_are_read_where_they_are(name: str) -> None:
    package = datasets.find(name).package
    assert package is not None
    if not package.folder.exists():
        pytest.skip(f"{name} is not in the cache; python -m rayworks.core.datasets fetch {name}")
    train, test = read(DataSection(source=name, train_examples=1000, test_examples=500), 0)
    assert (len(train), len(test), train.shape) == (1000, 500, (1, 28, 28))
    assert np.abs(train.counts() - 100).max() <= 15
    assert 20 < train.inputs.mean() < 120


def write_idx(folder: Path, prefix: str, images: np.ndarray, labels: np.ndarray, packed: bool) -> None:
    for array, name in ((images, "images-idx3"), (labels, "labels-idx1")):
        sizes = np.array(array.shape, ">u4").tobytes()
        raw = b"\x00\x00\x08" + bytes([array.ndim]) + sizes + array.tobytes()
        path = folder / f"{prefix}-{name}-ubyte{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(raw) if packed else raw)


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_are_read_gzipped_or_not(tmp_path: Path, packed: bool) -> None:
    images = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    write_idx(tmp_path, "train", images, np.array([7, 0], np.uint8), packed)
    found = idx_pair(tmp_path, "train", NAMES)
    assert np.array_equal(found.inputs[:, 0], images)
    assert found.labels.tolist() == [7, 0]


def test_broken_idx_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        idx_pair(tmp_path, "train", NAMES)
    write_idx(tmp_path, "train", np.zeros((2, 4, 3), np.uint8), np.zeros(2, np.uint8), False)
    images = tmp_path / "train-images-idx3-ubyte"
    for broken in (images.read_bytes()[:-1], b"\x00\x00\x08", b""):
        images.write_bytes(broken)
        with pytest.raises(DataError, match="not a whole IDX file"):
            idx_pair(tmp_path, "train", NAMES)


def test_cifar_is_read_from_its_task_file(tmp_path: Path) -> None:
    entries = []
    for name, colour in (("frog", (0, 255, 0)), ("ship", (0, 0, 255))):
        buffer = io.BytesIO()
        Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
        scores = {"frog": 0, "ship": 0} | {name: 1}
        entries.append({"input": base64.b64encode(buffer.getvalue()).decode(), "target_scores": scores})
    path = tmp_path / "task.json"
    path.write_text(json.dumps({"examples": entries}))
    found = cifar10_task(path)
    assert (found.shape, found.classes, found.labels.tolist()) == ((3, 4, 4), ("frog", "ship"), [0, 1])
    assert found.inputs[:, :, 0, 0].tolist() == [[0, 255, 0], [0, 0, 255]]
    path.write_text("{}")
    with pytest.raises(DataError, match="cifar10-test"):
        cifar10_task(path)


def test_files_of_arrays_are_read_and_their_faults_named(tmp_path: Path) -> None:
    path = tmp_path / "ours.npz"
    labels = np.repeat(["cat", "dog"], 50)
    np.savez(path, inputs=np.random.default_rng(0).random((100, 3)), labels=labels, groups=np.tile([5, 9], 50))
    train, test = read(DataSection(source=str(path)), 0)
    assert (len(train), len(test), train.classes, train.group_names) == (80, 20, ("cat", "dog"), ("5", "9"))
    assert train.inputs.dtype == np.float32
    assert [len(part) for part in partition(train, DataSection(partition="natural"), 0)] == [
        int((train.groups == group).sum()) for group in (0, 1)
    ]
    np.savez(path, inputs=np.zeros((3, 2)))
    with pytest.raises(DataError, match="no array 'labels'"):
        read(DataSection(source=str(path)), 0)
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be read"):
        read(DataSection(source=str(path)), 0)
    np.savez(path, inputs=np.zeros((1, 2)), labels=np.zeros(1, int))
    with pytest.raises(DataError, match="0 held-out"):
        read(DataSection(source=str(path)), 0)
    with pytest.raises(DataError, match="unknown; give digits"):
        read(DataSection(source="nothing"), 0)


def test_reviews_become_hashed_words_of_departments() -> None:
    table = pd.DataFrame(
        {
            "Title": ["Love it", None, ""],
            "Review Text": ["love LOVE this", "it is fine", "..."],
            "Rating": [5, 3, 1],
            "Recommended IND": [1, 1, 0],
            "Department Name": ["Tops", "Dresses", "Tops"],
        }
    )
    found = examples_of(table, "rating")
    assert found.shape == (512,)
    assert (found.classes, found.group_names, found.labels.tolist()) == (
        ("1", "3", "5"),
        ("Dresses", "Tops"),
        [2, 1, 0],
    )
    np.testing.assert_allclose(np.linalg.norm(found.inputs, axis=1), [1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(np.sort(found.inputs[0])[-3:], np.array([1, 1, 3]) / np.sqrt(11), atol=1e-6)
    assert examples_of(table, "recommended").labels.tolist() == [1, 1, 0]
    assert np.array_equal(hashed_words(pd.Series(["a b"])), hashed_words(pd.Series(["B, a!"])))


def test_labels_are_those_of_niid_bench() -> None:
    train = of_labels(np.repeat(np.arange(10), 60))
    for wanted in (1, 2, 3):
        parts = partition(train, DataSection(labels_per_client=wanted), 5)
        counts = label_counts(train, parts)
        assert ((counts > 0).sum(1) == wanted).all()
        assert all(counts[client, client] > 0 for client in range(10))
        assert counts.sum(0).tolist() == [60] * 10
        for label in counts.T:
            assert np.ptp(label[label > 0]) <= 1
    fewer = label_counts(train, partition(train, DataSection(clients=4), 5))
    assert fewer.sum(0).tolist() == [60] * 4 + [0] * 6


def test_clients_may_be_left_with_nothing() -> None:
    train = of_labels(np.arange(10))
    parts = partition(train, DataSection(clients=30), 0)
    assert sum(len(part) == 0 for part in parts) == 20
    assert label_counts(train, parts).shape == (30, 10)
    assert len(train.take(parts[0])) + len(train.take(parts[10])) + len(train.take(parts[20])) == 1


def test_dirichlet_is_more_skewed_the_smaller_its_concentration() -> None:
    train = of_labels(np.repeat(np.arange(10), 300))
    skews = []
    for concentration in (0.05, 0.5, 100.0):
        data = DataSection(partition="dirichlet", concentration=concentration, min_examples=0)
        skews.append(np.nanmean(total_variation(label_counts(train, partition(train, data, 1)))))
    assert skews[0] > skews[1] > skews[2]
    assert skews[2] < 0.1


def test_self_balancing_bounds_the_largest_client() -> None:
    train = of_labels(np.repeat(np.arange(10), 300))
    sizes = {}
    for balancing in (False, True):
        data = DataSection(partition="dirichlet", concentration=0.05, min_examples=0, self_balancing=balancing)
        sizes[balancing] = max(len(part) for part in partition(train, data, 2))
    assert sizes[True] < sizes[False]
    assert sizes[True] < 300 + 300


def test_shards_hold_runs_of_labels() -> None:
    train = of_labels(np.repeat(np.arange(10), 40))
    data = DataSection(partition="shards", clients=20, labels_per_client=2)
    counts = label_counts(train, partition(train, data, 0))
    assert (counts.sum(1) == 20).all()
    assert ((counts > 0).sum(1) <= 2).all()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DataSection(labels_per_client=11), "data.labels_per_client 11"),
        (DataSection(partition="shards", clients=50, labels_per_client=3), "data.labels_per_client 3: 50 clients"),
        (DataSection(partition="natural"), "data.partition natural"),
        (DataSection(partition="dirichlet", clients=200), "data.min_examples 1: 200 clients"),
        (DataSection(partition="dirichlet", concentration=0.001, min_examples=9), "not reached in 10 draws"),
    ],
)
def test_impossible_partitions_name_their_setting(data: DataSection, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        partition(of_labels(np.repeat(np.arange(10), 10)), data, 0)


def test_measures_of_heterogeneity_at_their_ends() -> None:
    apart = np.diag([10, 10, 10, 10])
    np.testing.assert_allclose(total_variation(apart), 0.75)
    np.testing.assert_allclose(effective_labels(apart), 1.0)
    middle = 0.5 * np.array([1.25, 0.25, 0.25, 0.25])
    by_hand = -(middle * np.log(middle)).sum() - 0.5 * np.log(4)
    assert jensen_shannon(apart) == pytest.approx(by_hand)
    alike = np.full((3, 4), 5)
    assert total_variation(alike).tolist() == [0, 0, 0]
    assert jensen_shannon(alike) == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(effective_labels(alike), 4)
    empty = np.concatenate([apart, np.zeros((1, 4), int)])
    assert np.isnan(total_variation(empty)[-1])
    assert jensen_shannon(empty) == pytest.approx(by_hand)
