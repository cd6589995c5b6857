import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from rayworks.core.errors import ConfigError, DataError
from rayworks.lm.adapters import CONFIG, WEIGHTS, Groups, read_adapter
from rayworks.lm.checkpoints import load_model
from rayworks.lm.engine import GenerationRequest, ScoringRequest
from rayworks.lm.transformers_engine import TransformersEngine
from tests.tiny_models import save_adapter

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "wide": {"r": 9, "target_modules": ["q_proj", "k_proj", "o_proj"]},
    "stabilised": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.v_proj": 40}},
}


@pytest.fixture(scope="module")
def folders(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {
        name: save_adapter(root / name, load_model(tiny_model), seed, **options)
        for seed, (name, options) in enumerate(VARIANTS.items())
    }


@pytest.fixture(scope="module")
def engine(tiny_model: str, folders: dict[str, Path]) -> TransformersEngine:
    made = TransformersEngine(tiny_model, slots=5, adapters=4)
    for name, folder in folders.items():
        made.add_adapter(name, folder)
    return made


def merged(model: str, folder: Path | None) -> TransformersEngine:
    plain = load_model(model)
    if folder is not None:
        plain = PeftModel.from_pretrained(plain, folder).merge_and_unload()
    return TransformersEngine.holding(plain, TransformersEngine(model).tokenizer, slots=5)


def test_every_row_is_drawn_and_scored_as_by_its_own_merged_model(
    engine: TransformersEngine, tiny_model: str, folders: dict[str, Path]
) -> None:
    names = [None, *folders]
    requests = [
        GenerationRequest(prompt="the fabric of the shirt"[: 6 + n], max_new_tokens=4 + n, seed=n, adapter=names[n % 5])
        for n in range(15)
    ]
    found = engine.generate(requests)
    scores = engine.score([ScoringRequest(r.prompt, " good fit", adapter=r.adapter) for r in requests])
    for name in names:
        alone = merged(tiny_model, folders.get(name or ""))
        own = [n for n, request in enumerate(requests) if request.adapter == name]
        plain = [GenerationRequest(**{**vars(requests[n]), "adapter": None}) for n in own]
        for n, expected in zip(own, alone.generate(plain), strict=True):
            assert found[n].token_ids == expected.token_ids
            assert found[n].logprobs == pytest.approx(expected.logprobs, abs=1e-4)
        for n, score in zip(own, alone.score([ScoringRequest(r.prompt, " good fit") for r in plain]), strict=True):
            assert scores[n].logprobs == pytest.approx(score.logprobs, abs=1e-4)
    assert len({found[n].token_ids for n in range(5)}) == 5


def test_prefixes_of_one_adapter_are_not_those_of_another(tiny_model: str, folders: dict[str, Path]) -> None:
    engine = TransformersEngine(tiny_model, slots=2, adapters=1, keep_prefixes=True)
    engine.add_adapter("plain", folders["plain"])
    requests = [
        GenerationRequest(prompt="the fabric of the shirt is good", max_new_tokens=6, temperature=0, adapter=name)
        for name in (None, "plain", None, "plain")
    ]
    alone = [engine.generate([request])[0].token_ids for request in requests]
    assert alone[:2] == alone[2:]
    assert alone[0] == merged(tiny_model, None).generate(requests[:1])[0].token_ids
    assert 0.4 < engine.model.prefixes.reused_share <= 0.5


def test_rows_are_grouped_by_adapter_with_filling_that_is_left_out() -> None:
    groups = Groups([2, 0, 1, 2, 2], torch.device("cpu"))
    assert groups.adapters.tolist() == [0, 1]
    assert groups.members.tolist() == [[2, 2, 2], [0, 3, 4]]
    assert groups.rows.tolist() == [2, 0, 3, 4]
    assert groups.real.tolist() == [True, False, False, True, True, True]
    assert isinstance(Groups([3, 1], torch.device("cpu")).real, slice)


def test_adapters_that_do_not_fit_are_refused(
    engine: TransformersEngine,
    tiny_model: str,
    folders: dict[str, Path],
    tmp_path: Path,
    random_llama: Callable[..., Any],
) -> None:
    with pytest.raises(ConfigError, match="room for 4 adapters; make the engine with adapters=N"):
        engine.add_adapter("fifth", folders["plain"])
    with pytest.raises(ConfigError, match="'nobody': is not loaded; loaded: plain, wide"):
        engine.generate([GenerationRequest(prompt="a", adapter="nobody")])
    with pytest.raises(ConfigError, match="at most 64"):
        TransformersEngine(tiny_model, adapters=65)
    other = TransformersEngine(tiny_model, adapters=2)
    other.add_adapter("plain", folders["plain"])
    with pytest.raises(ConfigError, match="loaded already"):
        other.add_adapter("plain", folders["plain"])
    with pytest.raises(DataError, match=r"takes 48 features to 32, the base's 96 to 48; .* another base"):
        other.add_adapter("x", save_adapter(tmp_path / "narrow", random_llama(), 0))
    deep = save_adapter(tmp_path / "deep", random_llama(layers=3), 0, layers_to_transform=[2])
    with pytest.raises(DataError, match=r"no layer model.layers.2.*another base"):
        other.add_adapter("x", deep)
    assert other.generate([GenerationRequest(prompt="a", max_new_tokens=3, adapter="plain")])


def test_an_adapter_of_a_cut_model_is_not_one_of_the_whole(tiny_model: str, tmp_path: Path) -> None:
    engine = TransformersEngine(tiny_model, adapters=2)
    cut = save_adapter(tmp_path / "cut", load_model(tiny_model, layers=1), 0)
    with pytest.raises(DataError, match="is made for a model of 1 layers, the base has 2"):
        engine.add_adapter("cut", cut)
    TransformersEngine(tiny_model, layers=1, adapters=1).add_adapter("cut", cut)
    engine.add_adapter("first", save_adapter(tmp_path / "first", load_model(tiny_model), 0, layers_to_transform=[0]))


def test_a_rank_that_is_not_that_of_the_matrices_is_refused(
    tiny_model: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = save_adapter(tmp_path, load_model(tiny_model), 0)
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "r": 8}))
    with pytest.raises(DataError, match=f"has rank 4, its {CONFIG} says 8"):
        read_adapter("x", folder)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "lora_only"}, "bias='lora_only'"),
        ({"modules_to_save": ["norm"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"alora_invocation_tokens": [5, 6]}, "alora_invocation_tokens"),
    ],
)
def test_adapters_that_are_no_plain_low_rank_products_are_refused(
    tiny_model: str, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        read_adapter("x", save_adapter(tmp_path, load_model(tiny_model), 0, **options))


def test_folders_that_hold_no_adapter_are_refused(tiny_model: str, folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'x': cannot be read"):
        read_adapter("x", tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps({"peft_type": "IA3"}))
    save_file(load_file(folders["plain"] / WEIGHTS), tmp_path / WEIGHTS)
    with pytest.raises(DataError, match="'IA3'"):
        read_adapter("x", tmp_path)
    (tmp_path / CONFIG).write_text((folders["plain"] / CONFIG).read_text())
    weights = load_file(folders["plain"] / WEIGHTS)
    next(iter(weights.values()))[0, 0] = torch.nan
    save_file(weights, tmp_path / WEIGHTS)
    with pytest.raises(DataError, match="holds what is no number"):
        read_adapter("x", tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"\x00" * 20)
    with pytest.raises(DataError, match="'x': cannot be read"):
        read_adapter("x", tmp_path)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings", "ignore:Setting `save_embedding_layers`")
def test_layers_that_cannot_be_adapted_are_refused(tiny_model: str, tmp_path: Path) -> None:
    engine = TransformersEngine(tiny_model, adapters=1)
    with pytest.raises(DataError, match="which is no low-rank matrix"):
        engine.add_adapter("x", save_adapter(tmp_path / "head", load_model(tiny_model), 0, target_modules=["lm_head"]))
    old = GPT2LMHeadModel(GPT2Config(vocab_size=320, n_positions=64, n_embd=32, n_layer=1, n_head=2))
    folder = save_adapter(tmp_path / "old", old, 0, target_modules=["c_attn"], fan_in_fan_out=True)
    with pytest.raises(DataError, match="fan_in_fan_out"):
        TransformersEngine.holding(old, engine.tokenizer, 1, adapters=1).add_adapter("x", folder)
