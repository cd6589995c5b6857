"""Checkpoints in RecBole's layout, written here: what they score by an independent forward, and what is refused."""

import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rayworks.core.errors import DataError
from rayworks.systems.recommendation.models.recbole_checkpoint import RecBolePreference, read_recbole

ITEMS, WIDTH, LENGTH = 7, 8, 5
NAMES = [f"film {number}" for number in range(1, ITEMS + 1)]
Weights = OrderedDict[str, Tensor]


@pytest.fixture
def config_class() -> Iterator[Any]:
    """A class that pickles under the name of RecBole's."""
    modules = [ModuleType(name) for name in ("recbole", "recbole.config", "recbole.config.configurator")]
    config = type("Config", (), {"__module__": "recbole.config.configurator"})
    modules[-1].__dict__["Config"] = config
    sys.modules.update({module.__name__: module for module in modules})
    yield config
    for module in modules:
        del sys.modules[module.__name__]


@pytest.fixture
def write(tmp_path: Path, config_class: Any) -> Callable[..., tuple[Path, Path]]:
    def written(model: str, weights: Weights, **settings: Any) -> tuple[Path, Path]:
        config = config_class()
        config.final_config_dict = {
            "model": model,
            "MAX_ITEM_LIST_LENGTH": LENGTH,
            "n_heads": 2,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
            "device": torch.device("cpu"),
            "model_class": config_class,
            **settings,
        }
        state = {"config": config, "epoch": 3, "state_dict": weights, "other_parameter": None}
        checkpoint, items = tmp_path / f"{model}.pth", tmp_path / "items.txt"
        torch.save(state, checkpoint, pickle_protocol=4)
        items.write_text("\n".join(NAMES))
        return checkpoint, items

    return written


def linear(weights: Weights, name: str, outputs: int, inputs: int) -> None:
    weights[f"{name}.weight"], weights[f"{name}.bias"] = torch.randn(outputs, inputs) / 3, torch.randn(outputs) / 3


def norm(weights: Weights, name: str) -> None:
    weights[f"{name}.weight"], weights[f"{name}.bias"] = 1 + torch.randn(WIDTH) / 3, torch.randn(WIDTH) / 3


def transformer(rows: int) -> Weights:
    torch.manual_seed(0)
    weights: Weights = OrderedDict()
    weights["item_embedding.weight"] = torch.randn(rows, WIDTH)
    weights["position_embedding.weight"] = torch.randn(LENGTH, WIDTH)
    for number in range(2):
        layer = f"trm_encoder.layer.{number}"
        for name in ("query", "key", "value", "dense"):
            linear(weights, f"{layer}.multi_head_attention.{name}", WIDTH, WIDTH)
        linear(weights, f"{layer}.feed_forward.dense_1", 3 * WIDTH, WIDTH)
        linear(weights, f"{layer}.feed_forward.dense_2", WIDTH, 3 * WIDTH)
        norm(weights, f"{layer}.multi_head_attention.LayerNorm")
        norm(weights, f"{layer}.feed_forward.LayerNorm")
    norm(weights, "LayerNorm")
    return weights


def bert() -> Weights:
    weights = transformer(ITEMS + 2)
    linear(weights, "output_ffn", WIDTH, WIDTH)
    norm(weights, "output_ln")
    weights["output_bias"] = torch.randn(ITEMS + 1)
    return weights


def gru() -> Weights:
    torch.manual_seed(0)
    weights: Weights = OrderedDict()
    weights["item_embedding.weight"] = torch.randn(ITEMS + 1, WIDTH)
    weights["gru_layers.weight_ih_l0"], weights["gru_layers.weight_hh_l0"] = torch.randn(18, WIDTH), torch.randn(18, 6)
    linear(weights, "dense", WIDTH, 6)
    return weights


def normalised(weights: Weights, name: str, states: Tensor) -> Tensor:
    centred = states - states.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def encoded(weights: Weights, items: list[int], *, causal: bool, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """State at the last place of one sequence, head by head and place by place."""

    def through(name: str, states: Tensor) -> Tensor:
        return states @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    count = len(items)
    states = weights["item_embedding.weight"][items] + weights["position_embedding.weight"][:count]
    states = normalised(weights, "LayerNorm", states)
    for number in range(2):
        attention = f"trm_encoder.layer.{number}.multi_head_attention"
        query, key, value = (through(f"{attention}.{name}", states) for name in ("query", "key", "value"))
        mixed = torch.zeros_like(states)
        for place in range(count):
            seen = place + 1 if causal else count
            for head in (slice(0, 4), slice(4, 8)):
                share = torch.softmax(key[:seen, head] @ query[place, head] / 2, 0)
                mixed[place, head] = share @ value[:seen, head]
        states = normalised(weights, f"{attention}.LayerNorm", through(f"{attention}.dense", mixed) + states)
        feed = f"trm_encoder.layer.{number}.feed_forward"
        fed = through(f"{feed}.dense_2", activation(through(f"{feed}.dense_1", states)))
        states = normalised(weights, f"{feed}.LayerNorm", fed + states)
    return states[-1]


def sasrec_scores(weights: Weights, items: list[int]) -> Tensor:
    return weights["item_embedding.weight"] @ encoded(weights, items, causal=True, activation=torch.relu)


def bert_scores(weights: Weights, items: list[int]) -> Tensor:
    mask = ITEMS + 1
    state = encoded(weights, [*items, mask][1:], causal=False, activation=F.gelu)
    state = F.gelu(state @ weights["output_ffn.weight"].T + weights["output_ffn.bias"])
    state = normalised(weights, "output_ln", state)
    return weights["item_embedding.weight"][:mask] @ state + weights["output_bias"]


def gru_scores(weights: Weights, items: list[int]) -> Tensor:
    hidden = torch.zeros(6)
    for row in weights["item_embedding.weight"][items]:
        reset_in, update_in, new_in = (weights["gru_layers.weight_ih_l0"] @ row).split(6)
        reset_out, update_out, new_out = (weights["gru_layers.weight_hh_l0"] @ hidden).split(6)
        update = torch.sigmoid(update_in + update_out)
        new = torch.tanh(new_in + torch.sigmoid(reset_in + reset_out) * new_out)
        hidden = (1 - update) * new + update * hidden
    return weights["item_embedding.weight"] @ (weights["dense.weight"] @ hidden + weights["dense.bias"])


def scores_of(model: RecBolePreference, histories: list[list[int]]) -> Tensor:
    lengths = torch.tensor([len(one) for one in histories])
    width = max(len(one) for one in histories)
    padded = torch.tensor([one + [0] * (width - len(one)) for one in histories])
    with torch.no_grad():
        return model.scores(padded, lengths)


@pytest.mark.parametrize(
    ("name", "weights", "expected", "settings"),
    [
        ("SASRec", transformer(ITEMS + 1), sasrec_scores, {"hidden_act": "relu"}),
        ("BERT4Rec", bert(), bert_scores, {}),
        ("GRU4Rec", gru(), gru_scores, {"n_heads": None, "layer_norm_eps": None}),
    ],
)
def test_scores_are_those_of_an_independent_forward(
    write: Callable[..., tuple[Path, Path]],
    name: str,
    weights: Weights,
    expected: Callable[[Weights, list[int]], Tensor],
    settings: dict[str, Any],
) -> None:
    model = read_recbole(*write(name, weights, **settings), NAMES)
    histories = [[1, 5, 2, 7, 3], [4], [6, 6], [2, 3, 4]]
    found = scores_of(model, histories)
    assert (model.items, model.length) == (ITEMS, LENGTH)
    for row, history in zip(found, histories, strict=True):
        torch.testing.assert_close(row, expected(weights, history)[1 : ITEMS + 1], atol=1e-5, rtol=1e-5)


def test_items_are_matched_by_name(write: Callable[..., tuple[Path, Path]]) -> None:
    weights = transformer(ITEMS + 1)
    catalogue = ["film 3", "unknown", "film 1", "film 7"]
    model = read_recbole(*write("SASRec", weights, hidden_act="relu"), catalogue)
    [row, without] = scores_of(model, [[1, 2, 4], [1, 4]])
    expected = sasrec_scores(weights, [3, 7])[[3, 1, 7]]
    torch.testing.assert_close(row[[0, 2, 3]], expected, atol=1e-5, rtol=1e-5)
    assert row[1] == row[[0, 2, 3]].min()
    torch.testing.assert_close(row, without)
    assert scores_of(model, [[2]]).eq(0).all()


class Malicious:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/rayworks-was-here",)


def test_code_is_refused_before_it_runs(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"state_dict": Malicious()}, path, pickle_protocol=4)
    with pytest.raises(DataError, match=r"names (posix|nt)\.system"):
        read_recbole(path, path, NAMES)
    assert not Path("/tmp/rayworks-was-here").exists()


@pytest.mark.parametrize("name", ["builtins eval", "torch load", "torch._utils _rebuild_meta", "recbolex run"])
def test_every_other_global_is_refused(tmp_path: Path, name: str) -> None:
    module, _, attribute = name.partition(" ")
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", f"c{module}\n{attribute}\n(S'1'\ntR.".encode())
    with pytest.raises(DataError, match=f"names {module}.{attribute}"):
        read_recbole(path, path, NAMES)


def test_a_class_of_recbole_does_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"crecbole.quick_start\nrun_recbole\n(S'SASRec'\ntR.")
    with pytest.raises(DataError, match="holds a _Inert; give a checkpoint"):
        read_recbole(path, path, NAMES)


def test_another_architecture_is_refused_by_name(write: Callable[..., tuple[Path, Path]]) -> None:
    with pytest.raises(DataError, match="is a Caser; supported are SASRec, GRU4Rec, BERT4Rec"):
        read_recbole(*write("Caser", gru()), NAMES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": None}, "config has no hidden_act"),
        ({"MAX_ITEM_LIST_LENGTH": None}, "config has no MAX_ITEM_LIST_LENGTH"),
        ({"hidden_act": "mish"}, "hidden_act is mish; supported are gelu"),
        ({"MAX_ITEM_LIST_LENGTH": 9}, "do not fit a SASRec"),
        ({"n_heads": 3}, "do not fit a SASRec"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    write: Callable[..., tuple[Path, Path]], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_recbole(*write("SASRec", transformer(ITEMS + 1), **change), NAMES)


def test_weights_that_can_not_be_used_are_refused(write: Callable[..., tuple[Path, Path]]) -> None:
    weights = gru()
    with pytest.raises(DataError, match="do not fit a SASRec"):
        read_recbole(*write("SASRec", weights), NAMES)
    weights["dense.bias"][0] = torch.nan
    with pytest.raises(DataError, match="not finite"):
        read_recbole(*write("GRU4Rec", weights), NAMES)


def test_item_names_must_be_those_of_the_model(write: Callable[..., tuple[Path, Path]]) -> None:
    checkpoint, items = write("GRU4Rec", gru())
    with pytest.raises(DataError, match="names no item of the catalogue, whose first is 'song'"):
        read_recbole(checkpoint, items, ["song"])
    items.write_text("\n".join([*NAMES[:-1], NAMES[0]]))
    with pytest.raises(DataError, match=r"has 7 lines, 6 of them different, where .* has 7 items"):
        read_recbole(checkpoint, items, NAMES)
    with pytest.raises(DataError, match="cannot be read as text"):
        read_recbole(checkpoint, items.with_name("none.txt"), NAMES)


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps({"state_dict": 1})])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read as a checkpoint of torch\.save"):
        read_recbole(path, path, NAMES)


def test_a_checkpoint_without_a_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"weights": torch.zeros(2)}, path)
    with pytest.raises(DataError, match="holds no state_dict and config"):
        read_recbole(path, path, NAMES)
