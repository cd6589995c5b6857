"""Judges that never saw the training: VADER, the packaged IMDB classifier, and length in tokens."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from transformers import PreTrainedTokenizerBase

from rayworks.core import datasets
from rayworks.core.errors import ConfigError

Scorer = Callable[[Sequence[str]], np.ndarray]


def load_judge(name: str, tokenizer: PreTrainedTokenizerBase) -> Scorer:
    """The judge of that name: texts to one number each, larger is better.

    Raises:
        ConfigError: its package is not installed.
    """
    judges: dict[str, Callable[[], Scorer]] = {"vader": _vader, "imdb": _imdb, "brevity": lambda: _brevity(tokenizer)}
    try:
        return judges[name]()
    except ImportError as error:
        raise ConfigError(f"judges: {name} needs {error.name}; pip install 'rayworks[alignment]'") from None


def _vader() -> Scorer:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()
    return lambda texts: np.array([analyzer.polarity_scores(text)["compound"] for text in texts])


def _imdb() -> Scorer:
    import spacy

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        classifier = spacy.load(datasets.fetch("imdb-classifier"))
    return lambda texts: np.array([document.cats["POS"] for document in classifier.pipe(texts)])


def _brevity(tokenizer: PreTrainedTokenizerBase) -> Scorer:
    ids = partial(tokenizer, add_special_tokens=False)
    return lambda texts: np.array([-float(len(ids(text)["input_ids"])) for text in texts])
