"""Sentences as vectors, by MiniLM, which ships inside a package."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

from rayworks.core import datasets
from rayworks.lm.scoring import length_batches, padded

_PADDED_TOKENS = 4096


class SentenceVectors:
    """Means of all-MiniLM-L6-v2's last states, of length 1, so that products are cosines.

    Args:
        longest: tokens of a text that are read.
    """

    def __init__(self, longest: int = 64) -> None:
        folder = str(datasets.fetch("minilm"))
        self._longest = longest
        self._tokenizer, self._model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    @torch.inference_mode()
    def of(self, texts: Sequence[str]) -> np.ndarray:
        """``[texts, 384]``, float32, the same for a text whatever stands beside it, within rounding."""
        found = np.zeros((len(texts), self._model.config.hidden_size), np.float32)
        if not texts:
            return found
        ids = self._tokenizer(list(texts), truncation=True, max_length=self._longest)["input_ids"]
        for rows in length_batches(ids, _PADDED_TOKENS):
            mask = padded([[1] * len(ids[row]) for row in rows])
            hidden = self._model(input_ids=padded([ids[row] for row in rows]), attention_mask=mask)[0]
            mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            found[rows] = normalize(mean, dim=-1).numpy()
        return found
