"""Loading models and tokenizers by name: packaged GGUF converted once, local folders, hub ids, and truncated copies."""

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from rayworks.core import cache, models
from rayworks.core.errors import DataError
from rayworks.lm.adapters import base_of_adapter, is_adapter

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
transformers_logging.disable_progress_bar()


def prepare(name: str) -> str:
    """The folder or hub id that transformers can load; :class:`DataError` where there is none. Packaged GGUF is converted."""
    if is_adapter(name):
        return str(Path(name).expanduser())
    source = models.locate(name)
    if source.kind != "gguf":
        return source.location
    gguf = Path(source.location)
    return str(cache.make_once(cache.root() / "models" / source.name, lambda folder: _convert_gguf(gguf, folder)))


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model; :class:`DataError` where it cannot be loaded."""
    tokenizer: PreTrainedTokenizerBase = _loaded(AutoTokenizer, name, "its tokenizer ")
    return tokenizer


def require_fitting(tokenizer: PreTrainedTokenizerBase, ids: int) -> None:
    """Raise :class:`DataError` where a tokenizer has ids beyond those of a model's embedding."""
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= ids:
        raise DataError(f"model: its tokenizer has ids up to {highest}, its embedding {ids}; load the model's own")


def load_config(name: str) -> PretrainedConfig:
    """The config of a model's text part; :class:`DataError` where it cannot be loaded."""
    if is_adapter(name):
        return load_config(base_of_adapter(name))
    config: PretrainedConfig = _loaded(AutoConfig, name, "its config ").get_text_config()
    return config


def load_generation_config(name: str) -> GenerationConfig:
    """How a model wants to generate, as a loaded model has it; :class:`DataError` where its config cannot be loaded."""
    try:
        return _loaded(GenerationConfig, name)
    except DataError:
        return GenerationConfig.from_model_config(load_config(name))


def load_model(name: str, dtype: str = "float32", layers: int | None = None, device: str = "cpu") -> PreTrainedModel:
    """A causal LM, or the first ``layers`` of it; :class:`DataError` where it cannot be loaded or has fewer.

    Args:
        name: packaged name, local folder or ``hub:OWNER/NAME``; an adapter's folder is merged into its base.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
    """
    model: PreTrainedModel
    model = _merged(name, dtype) if is_adapter(name) else _loaded(AutoModelForCausalLM, name, dtype=DTYPES[dtype])
    if layers is not None:
        truncate(model, layers, name)
    return model.to(device)


def truncate(model: PreTrainedModel, layers: int, name: str = "model") -> PreTrainedModel:
    """Keep the first ``layers`` layers, with all around them; :class:`DataError` where there are fewer or none to cut."""
    decoder: Any = model.base_model
    if not hasattr(decoder, "layers"):
        raise DataError(f"model {name!r}: a {type(decoder).__name__} keeps no list of layers that could be cut")
    if layers > len(decoder.layers):
        raise DataError(f"model {name!r}: has {len(decoder.layers)} layers, {layers} were asked for")
    decoder.layers = decoder.layers[:layers]
    config = model.config.get_text_config()
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    return model


def _merged(folder: str, dtype: str) -> PreTrainedModel:
    from peft import PeftModel

    base = load_model(base_of_adapter(folder), dtype)
    try:
        adapted = PeftModel.from_pretrained(base, prepare(folder))
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"model {folder!r}: its adapter cannot be loaded ({str(error).splitlines()[0]})") from None
    model: PreTrainedModel = adapted.merge_and_unload()
    return model


def _convert_gguf(gguf: Path, folder: Path) -> None:
    from transformers import GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    source = {"gguf_file": gguf.name, "dtype": torch.float32, "quantization_config": GgufConfig(dequantize=True)}
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, **source)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _loaded(loader: Any, name: str, what: str = "", **options: Any) -> Any:
    """What a class of transformers makes of a model; a lost connection is no fault of it and passes."""
    location, offline = prepare(name), {} if name.startswith("hub:") else {"local_files_only": True}
    try:
        return loader.from_pretrained(location, **options, **offline)
    except (ConnectionError, TimeoutError):
        raise
    except (OSError, ValueError) as error:
        first, *rest = map(str.strip, (str(error).strip() or type(error).__name__).splitlines())
        # Some say in the first line that a list follows.
        reason = " ".join([first, *rest]) if first.endswith(":") else first
        raise DataError(f"model {name!r}: {what}cannot be loaded ({reason})") from None


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(f"{argument}: {prepare(argument)}")
