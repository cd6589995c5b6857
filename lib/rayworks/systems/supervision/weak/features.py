"""What experts and students see of a text: counts of words, or the states of a frozen language model."""

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rayworks.core import cache, seeds
from rayworks.core.errors import ConfigError, DataError
from rayworks.core.registry import of_the_user

if TYPE_CHECKING:
    from rayworks.lm.sentences import SentenceVectors

WORDS, TFIDF, MINILM = "words:", "tfidf", "minilm"
_LANGUAGE_MODEL = re.compile(r"(?P<model>.+)@(?P<layers>[1-9]\d*)")
_TOKEN = r"(?u)\b\w+\b|[^\w\s]"
_LONGEST = 64
"""Tokens of a text that a language model reads; the rest is left out, which the report says."""
_PADDED_TOKENS = 4096


class Features(Protocol):
    """Turns texts into rows of numbers, the same for a text whatever stands beside it."""

    def of(self, texts: Sequence[str]) -> Any:
        """``[texts, features]``, dense or in scipy's CSR form, float32 or float64."""

    def state(self) -> dict[str, Any]:
        """As JSON values, what :func:`restored` makes the same of."""


class WordFeatures:
    """TF-IDF of words and punctuation, with the words and weights of the texts that it was fitted on."""

    def __init__(self, name: str, vocabulary: dict[str, int], idf: Sequence[float]) -> None:
        self._name, self._vocabulary, self._idf = name, vocabulary, idf
        self._vectorizer = _vectorizer(name, vocabulary)
        self._vectorizer.idf_ = np.asarray(idf)

    @classmethod
    def fitted(cls, name: str, texts: Sequence[str]) -> "WordFeatures":
        """:class:`DataError` where no word is left."""
        vectorizer = _vectorizer(name, None)
        try:
            vectorizer.fit(texts)
        except ValueError as error:
            raise DataError(f"weak.features {name!r}: the texts hold no words to count ({error})") from None
        vocabulary = {word: int(place) for word, place in vectorizer.vocabulary_.items()}
        return cls(name, vocabulary, vectorizer.idf_.tolist())

    def of(self, texts: Sequence[str]) -> Any:
        """See :class:`Features`."""
        return self._vectorizer.transform(texts).tocsr()

    def state(self) -> dict[str, Any]:
        """See :class:`Features`."""
        return {"name": self._name, "vocabulary": self._vocabulary, "idf": list(self._idf)}


class FrozenFeatures:
    """States of a frozen model, or what a user's function gives, which depend on nothing but the text."""

    def __init__(self, name: str) -> None:
        self._name = name

    def of(self, texts: Sequence[str]) -> np.ndarray:
        """See :class:`Features`; dense, float32. :class:`DataError` where a function of the user's gives anything else."""
        if is_function(self._name):
            return _of_the_user(self._name, texts)
        if self._name == MINILM:
            return self._sentences.of(texts)
        return _hidden_states(texts, self._name, *self._loaded)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """Tokenizer and model."""
        from rayworks.lm.checkpoints import load_model, load_tokenizer

        found = _LANGUAGE_MODEL.fullmatch(self._name)
        assert found is not None
        return load_tokenizer(found["model"]), load_model(found["model"], "float32", int(found["layers"])).eval()

    @cached_property
    def _sentences(self) -> "SentenceVectors":
        from rayworks.lm.sentences import SentenceVectors

        return SentenceVectors(_LONGEST)

    def state(self) -> dict[str, Any]:
        """See :class:`Features`."""
        return {"name": self._name}


def features_named(name: str, texts: Sequence[str]) -> Features:
    """The features of a name, fitted on texts, without labels, where they have anything to fit.

    Raises:
        ConfigError: there are no such features.
    """
    check_features(name)
    if is_counted(name):
        return WordFeatures.fitted(name, texts)
    return FrozenFeatures(name)


def is_counted(name: str) -> bool:
    """Whether features need nothing but the words and weights that they were fitted to."""
    return name == TFIDF or name.startswith(WORDS)


def is_function(name: str) -> bool:
    """Whether features are a function of the user's."""
    return not (is_counted(name) or name == MINILM or _LANGUAGE_MODEL.fullmatch(name))


def check_features(name: str) -> None:
    """Raise what :func:`features_named` would, without reading a text."""
    if name.startswith(WORDS):
        if not name.removeprefix(WORDS).isdecimal() or int(name.removeprefix(WORDS)) < 1:
            raise ConfigError(f"features: {name!r} must be words:N with a number of words, such as words:1000")
    elif is_function(name):
        _function(name)


def restored(state: dict[str, Any]) -> Features:
    """The features of a :meth:`Features.state`."""
    if "vocabulary" in state:
        return WordFeatures(state["name"], state["vocabulary"], state["idf"])
    return FrozenFeatures(state["name"])


def kept_features(name: str, texts: Sequence[str]) -> Any:
    """Features of all texts of a task, fitted on them; those of frozen models are kept in the cache, once computed."""
    features = features_named(name, texts)
    if isinstance(features, WordFeatures) or is_function(name):
        return features.of(texts)
    key = seeds.derive(0, "features", name, _LONGEST, json.dumps(list(texts)))

    def build(folder: Path) -> None:
        np.save(folder / "features.npy", features.of(texts))

    return np.load(cache.make_once(cache.root() / "features" / f"{key:032x}", build) / "features.npy")


def _vectorizer(name: str, vocabulary: dict[str, int] | None) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    options: dict[str, Any] = {"sublinear_tf": True, "token_pattern": _TOKEN, "vocabulary": vocabulary}
    if name == TFIDF:
        return TfidfVectorizer(ngram_range=(1, 2), min_df=1 if vocabulary else 2, **options)
    return TfidfVectorizer(max_features=None if vocabulary else int(name.removeprefix(WORDS)), **options)


def _function(name: str) -> Any:
    otherwise = (
        "is none of words:N, tfidf, minilm, MODEL@LAYERS, such as smollm2-135m-instruct@2, and no module:function"
    )
    return of_the_user("features", name, otherwise)


def _of_the_user(name: str, texts: Sequence[str]) -> np.ndarray:
    try:
        found = np.asarray(_function(name)(list(texts)), np.float32)
    except ConfigError:
        raise
    except Exception as error:
        raise DataError(
            f"features: {name} failed with {type(error).__name__}: {error}; it is called with a list of texts"
        ) from error
    if found.ndim != 2 or len(found) != len(texts) or not np.isfinite(found).all():
        shape = f"the shape {list(found.shape)}" if found.ndim != 2 or len(found) != len(texts) else "what is no number"
        raise DataError(
            f"features: {name} gave {shape} for {len(texts)} texts; it must give a finite number per feature"
        )
    return found


def _hidden_states(texts: Sequence[str], name: str, tokenizer: Any, model: Any) -> np.ndarray:
    """Last and mean state after the last layer that is kept, before the final norm, ``[texts, 2 width]``."""
    import torch

    from rayworks.lm.scoring import length_batches, padded

    ids = [row[:_LONGEST] for row in tokenizer(list(texts))["input_ids"]]
    if empty := [number for number, row in enumerate(ids) if not row]:
        raise DataError(f"features: {name} has no token for text {empty[0] + 1}; drop it")
    found = np.zeros((len(texts), 2 * model.config.get_text_config().hidden_size), np.float32)
    kept: list[Any] = []
    # The final norm hides how large states are.
    norm = model.base_model.norm.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    with torch.inference_mode():
        for rows in length_batches(ids, _PADDED_TOKENS):
            batch, mask = padded([ids[row] for row in rows]), padded([[1] * len(ids[row]) for row in rows])
            model.base_model(input_ids=batch, attention_mask=mask, use_cache=False)
            hidden = kept.pop()
            mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            last = hidden[torch.arange(len(rows)), mask.sum(1) - 1]
            found[rows] = torch.cat([last, mean], 1).numpy()
    norm.remove()
    return found
