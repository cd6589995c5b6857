"""Classes as words of a language model: each is one token that may follow a text."""

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rayworks.core.errors import DataError
from rayworks.lm.adapters import BASE, AdapterBank
from rayworks.lm.scoring import EncodedResponse, hidden_states, last_states, length_batches, output_logits

LONGEST = 64
"""Tokens of a text that a model reads; the rest is left out."""
QUESTION = "\nAnswer:"
PADDED_TOKENS = 4096


def class_ids(tokenizer: PreTrainedTokenizerBase, classes: Sequence[str]) -> tuple[int, ...]:
    """A token for each class: the first of its name, or, where two begin alike, a letter."""
    letters = [chr(ord("A") + number) for number in range(len(classes))]
    for words, place in ((classes, 0), (letters, -1)):
        ids = tuple(int(tokenizer(f" {word}", add_special_tokens=False)["input_ids"][place]) for word in words)
        if len(set(ids)) == len(ids):
            return ids
    raise DataError(
        f"task: this model's tokenizer has no different tokens for {len(classes)} classes; take another model"
    )


def class_prompts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[EncodedResponse]:
    """The first :data:`LONGEST` tokens of each text and the question behind it, with no response."""
    question = tuple(tokenizer(QUESTION, add_special_tokens=False)["input_ids"])
    return [EncodedResponse((*ids[:LONGEST], *question), ()) for ids in tokenizer(list(texts))["input_ids"]]


def class_logprobs(model: PreTrainedModel, prompts: Sequence[EncodedResponse], ids: Sequence[int]) -> Tensor:
    """Log-probabilities of the classes among themselves, ``[rows, classes]`` in float32; differentiable."""
    states = last_states(hidden_states(model, prompts), prompts)
    return output_logits(model, states)[:, list(ids)].log_softmax(dim=-1)


@torch.inference_mode()
def class_probabilities(
    model: PreTrainedModel,
    prompts: Sequence[EncodedResponse],
    ids: Sequence[int],
    adapters: AdapterBank | None = None,
    number: int = BASE,
) -> np.ndarray:
    """The same as probabilities, of any number of prompts, read with an adapter."""
    found = np.zeros((len(prompts), len(ids)))
    for rows in length_batches(prompts, PADDED_TOKENS):
        with adapters.selected([number] * len(rows), model.device) if adapters else nullcontext():
            logprobs = class_logprobs(model, [prompts[row] for row in rows], ids)
        found[rows] = logprobs.double().exp().cpu().numpy()
    return found


def parameters(model: PreTrainedModel) -> int:
    """Weights that every token is multiplied by: an embedding that is not the output layer too is only looked up."""
    looked_up, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    every = sum(value.numel() for value in model.parameters())
    return int(every if looked_up is output else every - looked_up.numel())
