"""Samples from every source, and splits that share nothing."""

import gzip
from decimal import Decimal
from pathlib import Path

import datasets as hub
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.augmentation.data.samples import Samples, read
from rayworks.systems.augmentation.data.splits import mislabelled, split


@pytest.mark.parametrize(
    ("source", "shape", "classes", "test"),
    [
        ("digits", (1797, 1, 8, 8), 10, 0),
        ("mnist", (70000, 1, 28, 28), 10, 10000),
        ("fashion-mnist", (70000, 1, 28, 28), 10, 10000),
        ("keel:vehicle", (846, 18), 4, 0),
        ("adult", (48842, 108), 2, 0),
        ("sarcasm", (28614,), 2, 0),
    ],
)
def test_known_sets(source: str, shape: tuple[int, ...], classes: int, test: int) -> None:
    found = read(source)
    assert found.inputs.shape == shape and len(found.classes) == classes and found.test == test
    assert set(np.unique(found.labels)) == set(range(classes))
    if found.kind == "images":
        assert found.inputs.dtype == np.float32 and found.inputs.min() == 0 and found.inputs.max() == 1


def test_files_of_the_user(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("age,colour,label\n1,red,yes\n2,blue,no\n,red,yes\n")
    found = read(str(table))
    assert found.kind == "table" and found.classes == ("no", "yes") and found.labels.tolist() == [1, 0, 1]
    np.testing.assert_allclose(found.inputs, [[1, 0, 1], [2, 1, 0], [1.5, 0, 1]])
    table.write_text("text,label\nhello there,1\nbye,0\n")
    assert read(str(table)).kind == "texts"
    arrays = tmp_path / "a.npz"
    np.savez(arrays, inputs=np.full((3, 4, 4), 255, np.uint8), labels=np.array(["b", "a", "b"]))
    assert read(str(arrays)).inputs.shape == (3, 1, 4, 4) and read(str(arrays)).inputs.max() == 1
    for text, message in (
        ("a,b\n1,2\n", "no column label; it has a, b"),
        ("a,label\n1,x\n2,\n", "row 1 has no label"),
        ("label\nx\ny\n", "no column beside 'label'"),
        ("a,label\n1,x\n2,x\n", "has 1 classes"),
        ("a,label\n1,x\n2, \n", "row 1 has no label"),
        ("word,label\n" + "".join(f"w{row},{row % 2}\n" for row in range(1001)), "column word holds over 1000 words"),
        ("", "cannot be read"),
        ("a,label\n", "has no rows"),
        ("a,label\n1,x,9\n", "row 1 has 3 cells, the header 2"),
    ):
        table.write_text(text)
        with pytest.raises(DataError, match=message):
            read(str(table))
    arrays.write_bytes(b"nothing")
    with pytest.raises(DataError, match="store arrays inputs and labels"):
        read(str(arrays))
    np.savez(arrays, inputs=np.zeros(3), labels=np.arange(3))
    with pytest.raises(DataError, match=r"inputs are \(3,\) float32; give \(n, columns\), \(n, C, H, W\)"):
        read(str(arrays))
    np.savez(arrays, inputs=np.array(1.0), labels=np.arange(2))
    with pytest.raises(DataError, match="1 inputs and 2 labels"):
        read(str(arrays))
    np.savez(arrays, inputs=np.array(["hello", "bye"]), labels=np.arange(2))
    assert read(str(arrays)).kind == "texts"
    np.savez(arrays, inputs=np.array([[1.0], [np.nan]]), labels=np.arange(2))
    with pytest.raises(DataError, match="row 1 holds a value"):
        read(str(arrays))
    with pytest.raises(DataError, match="unknown; choose one of australian, banana"):
        read("keel:none")
    with pytest.raises(ConfigError, match="is unknown; give digits"):
        read("cifar100")


TABLE = "age,colour,label\n1,red,yes\n2,blue,None\n?,,yes\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", TABLE.encode("utf-16")),
        ("a.CSV", b"\xef\xbb\xbf" + TABLE.replace(",", ";").encode()),
        ("a.tsv", TABLE.replace(",", "\t").encode()),
        ("a.csv.gz", gzip.compress(TABLE.encode(), mtime=0)),
        (
            "a.jsonl",
            b'{"age": 1, "colour": "red", "label": "yes"}\n{"age": 2, "colour": "blue", "label": "None"}\n'
            b'{"age": null, "colour": "", "label": "yes"}\n',
        ),
        ("a.parquet", b""),
    ],
)
def test_tables_of_every_kind_are_the_same_samples(tmp_path: Path, name: str, content: bytes) -> None:
    """A number that is not there is the mean, a word that is not there its own value; a class may be called None."""
    path = tmp_path / name
    if name == "a.parquet":
        columns = {"age": [1, 2, None], "colour": ["red", "blue", None], "label": ["yes", "None", "yes"]}
        pd.DataFrame(columns).to_parquet(path)
    else:
        path.write_bytes(content)
    found = read(str(path))
    assert found.classes == ("None", "yes") and found.labels.tolist() == [1, 0, 1]
    np.testing.assert_allclose(found.inputs[:, 0], [1, 2, 1.5])
    assert sorted(found.inputs[:, 1:].T.tolist()) == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]


def test_labels_texts_and_numbers_of_odd_types(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pd.DataFrame({"text": ["a", None, "NA"], "label": [1.0, 0.0, 1.0]}).to_parquet(path)
    found = read(str(path))
    assert found.inputs.tolist() == ["a", "", "NA"] and found.classes == ("0.0", "1.0")
    days = pd.to_datetime(["2020-01-01", "2020-01-02", "2020-01-01"])
    columns = {"on": [True, False, True], "day": days, "none": [None] * 3, "price": [Decimal("1.5"), Decimal(2), None]}
    pd.DataFrame({**columns, "label": [True, False, True]}).to_parquet(path)
    found = read(str(path))
    assert found.classes == ("False", "True") and found.kind == "table"
    assert np.unique(found.inputs).tolist() == [0, 1, 1.5, 1.75, 2]
    pd.DataFrame({"a": [1, 2], "label": [1.0, None]}).to_parquet(path)
    with pytest.raises(DataError, match="row 1 has no label"):
        read(str(path))


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (np.zeros((3, 2)), np.array([0, 1, -1]), "row 2 has label -1; give a whole number for each class"),
        (np.zeros((3, 2)), np.array([0, 2, 1]), "row 1 has label 2"),
        (np.zeros((3, 2)), np.array([0.0, 1.0, 1.0]), "row 0 has label 0.0; give a whole number"),
        (np.zeros((3, 4, 4)), np.array([0, 1, 1]), r"inputs are \(3, 4, 4\) float64"),
        (np.zeros(3), np.array([0, 1, 1]), r"inputs are \(3,\) float64"),
        (np.full((3, 2), "x"), np.array([0, 1, 1]), r"inputs are \(3, 2\) <U1; give "),
    ],
)
def test_samples_of_no_kind_are_named(inputs: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Samples(inputs, labels, ("a", "b"))


def hub_folder(folder: Path, **splits: list[int]) -> str:
    """A data set as a hub stores it: grey pictures whose every pixel is a number of its own, and names of classes."""
    features = hub.Features({"image": hub.Image(), "label": hub.ClassLabel(names=["none", "benign", "malignant"])})
    for name, labels in splits.items():
        pictures = [Image.fromarray(np.full((5, 4), 10 * row, np.uint8)) for row in range(len(labels))]
        table = hub.Dataset.from_dict({"image": pictures, "label": labels}, features)
        table.to_parquet(folder / f"{name}-00000-of-00001.parquet")
    return f"hub:{folder}"


def test_pictures_of_a_hub_without_a_network(tmp_path: Path) -> None:
    """As MedMNIST's are stored; the test samples are the source's own, or else its validation samples."""
    found = read(hub_folder(tmp_path / "all", train=[0, 1, 2, 1], validation=[1], test=[2, 0]))
    assert found.inputs.shape == (6, 1, 5, 4) and found.kind == "images" and found.test == 2
    assert found.labels.tolist() == [0, 1, 2, 1, 2, 0] and found.classes == ("none", "benign", "malignant")
    np.testing.assert_allclose(found.inputs[:, 0, 0, 0], np.array([0, 10, 20, 30, 0, 10]) / 255, rtol=1e-6)
    assert len(split(found, 0, training=None, trusted=1, selection=0, duplicates=True).test) == 2
    assert read(hub_folder(tmp_path / "held", train=[0, 1, 2], validation=[1])).test == 1
    assert read(hub_folder(tmp_path / "one", train=[0, 1, 2])).test == 0
    with pytest.raises(DataError, match="row 3 has label -1"):
        read(hub_folder(tmp_path / "hidden", train=[0, 1, 2], test=[-1]))
    with pytest.raises(DataError, match="has no split train; it has test"):
        read(hub_folder(tmp_path / "bare", test=[0, 1]))
    hub.Dataset.from_dict({"pixels": [1, 2]}).to_parquet(tmp_path / "odd" / "train.parquet")
    with pytest.raises(DataError, match="needs an image and a class label column; it has pixels"):
        read(f"hub:{tmp_path / 'odd'}")


def test_a_hub_that_cannot_be_reached_is_no_fault_of_the_data() -> None:
    with pytest.raises(ConnectionError):
        read("hub:nobody/medmnist")


def own() -> Samples:
    return Samples(np.arange(40, dtype=np.float32).reshape(20, 2), np.arange(20) % 2, ("a", "b"))


def function_of_a_list() -> list[int]:
    return [1]


def test_a_function_of_the_users_own() -> None:
    assert len(read("tests.unit.test_augmentation_data:own").labels) == 20
    with pytest.raises(DataError, match="returned a list; return Samples"):
        read("tests.unit.test_augmentation_data:function_of_a_list")


def test_parts_share_nothing_and_keep_the_shares_of_classes() -> None:
    random = np.random.default_rng(0)
    samples = Samples(
        random.normal(3, 9, (500, 4)).astype(np.float32), (random.random(500) < 0.2).astype(int), ("a", "b")
    )
    found = split(samples, 1, training=200, trusted=50, selection=50, noise=0.3)
    parts = (found.training, found.trusted, found.selection, found.test)
    assert [len(part) for part in parts] == [200, 50, 50, 100]
    rows = np.concatenate([part.rows for part in parts])
    assert len(np.unique(rows)) == 400
    share = samples.labels.mean()
    for part in parts[1:]:
        assert float(part.labels.double().mean()) == pytest.approx(share, abs=1.5 / len(part))
    assert torch.equal(found.training.labels != torch.from_numpy(samples.labels[found.training.rows]), found.wrong)
    assert float(found.wrong.float().mean()) == pytest.approx(0.3, abs=0.1)
    torch.testing.assert_close(found.training.inputs.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    again = split(samples, 1, training=200, trusted=50, selection=50, noise=0.3)
    assert torch.equal(again.training.labels, found.training.labels) and np.array_equal(
        again.test.rows, found.test.rows
    )
    assert not np.array_equal(split(samples, 2, training=200, trusted=50, selection=50).test.rows, found.test.rows)
    assert len(split(samples, 1, training=None, trusted=50, selection=0).training) == 350


def test_test_samples_of_the_source_are_its_own() -> None:
    samples = Samples(np.zeros((30, 1), np.float32), np.arange(30) % 3, ("a", "b", "c"), test=6)
    found = split(samples, 0, training=None, trusted=6, selection=3, duplicates=True)
    assert found.test.rows.tolist() == list(range(24, 30)) and found.training.rows.max() < 24
    assert len(split(samples, 0, training=3, trusted=3, selection=3, test=3, duplicates=True).test) == 3


def test_wrong_labels_are_other_classes() -> None:
    labels = torch.arange(6000) % 3
    found, wrong = mislabelled(labels, 3, 0.4, 0)
    assert (found[wrong] != labels[wrong]).all() and torch.equal(found[~wrong], labels[~wrong])
    counts = torch.bincount(((found - labels) % 3)[wrong], minlength=3)
    assert counts[0] == 0 and abs(int(counts[1]) - int(counts[2])) < 250
    assert not mislabelled(labels, 3, 0.0, 0)[1].any()


def test_more_samples_than_there_are() -> None:
    samples = Samples(np.zeros((10, 1), np.float32), np.arange(10) % 2, ("a", "b"))
    with pytest.raises(DataError, match=r"data\.trusted: 9 samples are asked for, 8 are left"):
        split(samples, 0, training=None, trusted=9, selection=1)
    with pytest.raises(DataError, match="nothing is left for the part training"):
        split(samples, 0, training=None, trusted=4, selection=4)
    with pytest.raises(DataError, match=r"data\.noise"):
        split(samples, 0, training=None, trusted=2, selection=2, noise=1.0)
    with pytest.raises(DataError, match="0 inputs"):
        Samples(np.zeros((0, 1)), np.zeros(0, int), ("a", "b"))
