"""Upstream augmentations: what each view is made of, and that nothing breaks on the smallest and oddest inputs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.augmentation.upstream import images, tables, texts
from rayworks.systems.augmentation.upstream.generated import generated_views
from rayworks.systems.augmentation.upstream.views import Upstream, Views, identity, mixed_up, of_function, views

PICTURES: dict[str, Upstream] = {
    "identity": identity,
    "random": images.random_operations(images.OPERATIONS, 1.0, 3),
    "mixup": mixed_up,
    "cutmix": images.cut_and_mixed,
}
ROWS: dict[str, Upstream] = {
    "noise": tables.noisy(),
    "cutmix": tables.columns_swapped,
    "smote": tables.between_neighbours,
    "mixup": mixed_up,
}


def seed(number: int = 0) -> np.random.Generator:
    return np.random.default_rng(number)


def batch(rows: int, *shape: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(rows)
    return torch.rand(rows, *shape, generator=random), F.one_hot(torch.arange(rows) % 3, 3).float()


def assert_views(found: Views, inputs: Tensor, labels: Tensor) -> None:
    assert found.inputs.shape == inputs.shape and found.inputs.dtype == inputs.dtype
    assert found.sources.tolist() == list(range(len(inputs)))
    torch.testing.assert_close(found.labels.sum(1), torch.ones(len(inputs)))
    assert ((found.strengths >= 0) & (found.strengths <= 1)).all()


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 5), (1, 1, 1)])
@pytest.mark.parametrize("rows", [0, 1, 40])
def test_views_of_images(name: str, shape: tuple[int, ...], rows: int) -> None:
    inputs, labels = batch(rows, *shape)
    before = inputs.clone()
    found = PICTURES[name](inputs, labels, seed())
    assert_views(found, inputs, labels)
    assert torch.equal(inputs, before), "the rows themselves are left alone"
    assert ((found.inputs >= 0) & (found.inputs <= 1 + 1e-6)).all()
    assert torch.equal(found.inputs, PICTURES[name](inputs, labels, seed()).inputs)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("rows", [0, 1, 2, 40])
def test_views_of_tables(name: str, rows: int) -> None:
    inputs, labels = batch(rows, 4)
    found = ROWS[name](inputs, labels, seed())
    assert_views(found, inputs, labels)
    assert found.inputs.isfinite().all()


def test_each_operation_does_what_its_name_says() -> None:
    picture = torch.zeros(1, 1, 4, 4)
    picture[0, 0, 0, 0] = 0.8

    def one(name: str, strength: float, of: Tensor = picture) -> Tensor:
        operation = torch.tensor([images.OPERATIONS.index(name)])
        return images.operate(of, operation, torch.tensor([strength]), seed())[0, 0]

    torch.testing.assert_close(one("flip", 0.3), picture[0, 0].flip(1))
    torch.testing.assert_close(one("flip-upside-down", 0.3), picture[0, 0].flip(0))
    torch.testing.assert_close(one("half-turn", 0.3), picture[0, 0].flip(0, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(one("invert", 0.0), 1 - picture[0, 0])
    assert one("posterise", 1.0, torch.rand(1, 1, 4, 4)).unique().numel() <= 2
    assert one("cutout", 1.0, torch.ones(1, 1, 9, 9)).min() == 0
    for name in set(images.OPERATIONS) - {"flip", "flip-upside-down", "half-turn", "invert", "cutout"}:
        weakest = one(name, 0.0)
        torch.testing.assert_close(weakest, picture[0, 0], atol=0.11 if name == "posterise" else 1e-5, rtol=0, msg=name)
        if name not in ("identity", "posterise", "paste"):
            assert not torch.equal(one(name, 0.9), picture[0, 0]), name
    assert_views(images.random_operations(("rotate",), 0.7)(*batch(9, 1, 5, 5), seed()), *batch(9, 1, 5, 5))


def test_mixed_views_have_labels_by_what_they_show() -> None:
    black_and_white = torch.stack([torch.zeros(1, 16, 16), torch.ones(1, 16, 16)] * 10)
    labels = F.one_hot(torch.arange(20) % 2, 2).float()
    for upstream in (images.cut_and_mixed, mixed_up):
        found = upstream(black_and_white, labels, seed(1))
        torch.testing.assert_close(found.labels[:, 1], found.inputs.flatten(1).mean(1))
        assert len(found.labels[:, 1].unique()) > 5
    pasted = images.random_operations(("paste",), 1.0)(black_and_white, labels, seed(1))
    assert torch.equal(pasted.labels, labels) and not torch.equal(pasted.inputs, black_and_white)
    rows = torch.stack([torch.zeros(50), torch.ones(50)] * 10)
    found = tables.columns_swapped(rows, labels, seed(1))
    torch.testing.assert_close(found.labels[:, 1], found.inputs.mean(1))


def test_smote_stays_between_rows_of_one_class() -> None:
    inputs = torch.tensor([[0.0], [1.0], [10.0], [12.0], [100.0]])
    labels = F.one_hot(torch.tensor([0, 0, 1, 1, 2]), 3).float()
    for number in range(20):
        made = tables.between_neighbours(inputs, labels, seed(number)).inputs[:, 0]
        assert 0 <= made[0] <= 0.5 and 0.5 <= made[1] <= 1 and 10 <= made[2] <= 11 and 11 <= made[3] <= 12
        assert made[4] == 100, "alone in its class"


def test_kornia_policies_record_what_they_did() -> None:
    pytest.importorskip("kornia")
    for policy in ("rand-augment", "auto-augment"):
        upstream = images.kornia_policy(policy)
        for shape in ((3, 12, 12), (1, 12, 12)):
            inputs, labels = batch(6, *shape)
            found = upstream(inputs, labels, seed(3))
            assert_views(found, inputs, labels)
            assert torch.equal(found.inputs, upstream(inputs, labels, seed(3)).inputs)
        assert len(found.names) > 1 and "policysequential" not in found.names
    with pytest.raises(ConfigError, match="rand-augment or auto-augment"):
        images.kornia_policy("augmix")


def test_texts_lose_words_or_take_synonyms() -> None:
    words = {"quick": ("fast", "rapid"), "man": ("bloke",)}
    given = ["The quick man ran", "", "one", "man"]
    found = texts.text_views(given, seed(2), ("synonyms",), 1.0, words)
    assert found.texts[1:3] == ("", "one") and set(found.operations) == {2}
    assert texts.changed("the quick man", "synonyms", 1.0, words, seed()) in ("the fast bloke", "the rapid bloke")
    assert texts.changed("one two", "dropout", 1.0, {}, seed()) == "one", "one word is left"
    assert texts.changed("one  two", "identity", 1.0, {}, seed()) == "one  two"
    assert len(texts.changed(" ".join(["word"] * 1000), "dropout", 0.3, {}, seed()).split()) == pytest.approx(
        700, abs=60
    )
    assert texts.text_views([], seed()).texts == ()
    with pytest.raises(ConfigError, match="choose of identity, dropout, synonyms"):
        texts.text_views(["x"], seed(), ("shuffle",))


def test_synonyms_are_wordnets() -> None:
    known = texts.synonyms()
    assert "speedy" in known["quick"] or "fast" in known["quick"]
    assert "automobile" in known["car"] and "purchase" in known["buy"]
    assert all(word not in others and others for word, others in list(known.items())[:2000])


def own(inputs: Tensor, labels: Tensor, random: np.random.Generator) -> Views:
    return views(1 - inputs, labels, 0, 1.0, ("negative",))


def wrong(inputs: Tensor, labels: Tensor, random: np.random.Generator) -> Any:
    return inputs


def test_a_function_of_the_users_own() -> None:
    inputs, labels = batch(3, 1, 2, 2)
    found = of_function("tests.unit.test_augmentation_upstream:own")(inputs, labels, seed())
    assert found.names == ("negative",) and torch.equal(found.inputs, 1 - inputs)
    with pytest.raises(DataError, match="returned a Tensor; return Views"):
        of_function("tests.unit.test_augmentation_upstream:wrong")(inputs, labels, seed())
    for name in ("mixup", "tests.unit:none", "tests.unit.test_augmentation_upstream:PICTURES"):
        with pytest.raises(ConfigError, match=r"upstream\.name"):
            of_function(name)


def test_bad_settings_and_views_are_named() -> None:
    inputs, labels = batch(3, 4)
    for bad in (("rotated",), ()):
        with pytest.raises(ConfigError, match="choose of identity, rotate"):
            images.random_operations(bad)
    with pytest.raises(ConfigError, match=r"strength must lie in \[0, 1\]"):
        images.random_operations(strength=1.5)
    with pytest.raises(ConfigError, match="at least 0"):
        tables.noisy(-1.0)
    with pytest.raises(ConfigError, match="alpha: is 0"):
        mixed_up(inputs, labels, seed(), 0.0)
    with pytest.raises(DataError, match="a source id with every view"):
        Views(inputs, labels, torch.arange(2), torch.zeros(3), torch.zeros(3), ("a",))
    with pytest.raises(DataError, match="none of the 1 named ones"):
        views(inputs, labels, 4)


def test_folders_of_generated_images_name_their_sources(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10), (255, 0, 0)).save(tmp_path / "a.png")
    Image.new("L", (4, 4), 51).save(tmp_path / "b.png")
    rows, labels = {"7": 0, "x": 1}, torch.eye(2)

    def read(table: str) -> Views:
        (tmp_path / "views.csv").write_text(table)
        return generated_views(str(tmp_path), rows, labels, (1, 4, 6))

    found = read("file,source,operation,strength\na.png,x,edit,0.5\nb.png,7,paint,1\n")
    assert found.inputs.shape == (2, 1, 4, 6) and found.sources.tolist() == [1, 0]
    assert found.names == ("edit", "paint") and found.strengths.tolist() == [0.5, 1.0]
    torch.testing.assert_close(found.inputs[1], torch.full((1, 4, 6), 0.2))
    assert read("file,source\na.png,x\n").names == ("generated",)
    for table, message in (
        ("file\na.png\n", "no column source"),
        ("file,source\na.png,9\n", "1 sources are none of the data's; the first is '9'"),
        ("file,source\n", "the table is empty"),
        ("file,source\nc.png,x\n", r"c\.png cannot be read"),
    ):
        with pytest.raises(DataError, match=message):
            read(table)
    with pytest.raises(DataError, match=r"views\.csv cannot be read"):
        generated_views(str(tmp_path / "none"), rows, labels, (1, 4, 6))
