"""What several language models say together, token by token: all go on from the same prefix, in one batched step."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rayworks.lm.causal_model import CausalModel
from rayworks.lm.continuous_batching import ContinuousBatching
from rayworks.lm.engine import GenerationRequest
from rayworks.lm.rows import LogitMixer, Mixed, Row
from rayworks.lm.scoring import EncodedResponse, hidden_states, length_batches, output_logits
from rayworks.systems.supervision.boosting.votes import FLOOR, Vote
from rayworks.systems.supervision.generation.tokens import Written, packed

PADDED_TOKENS = 1024
"""Of a forward whose distributions over all ids are held, with padding."""


def ensemble_logprobs(parts: Iterable[Tensor], shares: Sequence[float], vote: Vote) -> Tensor:
    """Log-probabilities of what experts say together, ``[rows, ids]`` in float32; see
    :func:`~rayworks.systems.supervision.boosting.votes.ensembles`, which one expert alone follows too.

    Args:
        parts: logits ``[rows, ids]`` of each expert.
        shares: of the weight that each has.
    """
    if len(shares) == 1:
        return next(iter(parts)).log_softmax(dim=-1)
    total = torch.zeros(())
    for logits, share in zip(parts, shares, strict=True):
        if vote == "share":
            said = torch.zeros_like(logits).scatter_(-1, logits.argmax(dim=-1, keepdim=True), 1.0)
        else:
            said = logits.softmax(dim=-1) if vote == "linear" else logits.log_softmax(dim=-1)
        total = said.mul_(share) if total.dim() == 0 else total.add_(said, alpha=share)
    return total.log_softmax(dim=-1) if vote == "log-linear" else total.log_()


class EnsembleMixer(LogitMixer):
    """Mixes the models of a decode loop, each with its share of the weight; every row needs all of them."""

    def __init__(self, alphas: np.ndarray, vote: Vote) -> None:
        self._shares, self._vote = (alphas / alphas.sum()).tolist(), vote

    def guides(self, row: Row) -> Sequence[int]:
        """All models beside the first."""
        return range(1, len(self._shares))

    def mix(self, base: Tensor, guides: dict[int, tuple[Tensor, Tensor]], rows: Sequence[Row]) -> Mixed:
        """See :class:`~rayworks.lm.rows.LogitMixer`; it reports each token's log-probability."""
        parts = [base, *(guides[model][1] for model in sorted(guides))]
        mixed = ensemble_logprobs(parts, self._shares, self._vote)
        return Mixed(mixed, lambda tokens: {"logprob": mixed.gather(-1, tokens[:, None])[:, 0]})


class Ensemble:
    """Experts that stand beside one base as adapters, or the base alone as number 0.

    Args:
        numbers: of the experts' adapters.
        alphas: their weights, above 0; only proportions matter.
    """

    def __init__(
        self,
        causal: CausalModel,
        tokenizer: PreTrainedTokenizerBase,
        numbers: Sequence[int],
        alphas: np.ndarray,
        vote: Vote = "linear",
    ) -> None:
        self._causal, self._tokenizer, self._numbers, self._vote = causal, tokenizer, tuple(numbers), vote
        self._alphas = alphas
        lanes = [causal] * len(self._numbers)
        slots = max(1, causal.cache.slots // len(lanes))
        self.decoding = ContinuousBatching(lanes, tokenizer, EnsembleMixer(alphas, vote), slots)

    def row(self, prompt: tuple[int, ...], longest: int, *, ignore_end: bool = False) -> Row:
        """A greedy row of :attr:`decoding`."""
        request = GenerationRequest(prompt=prompt, max_new_tokens=longest, temperature=0.0, ignore_end=ignore_end)
        return Row(request, (prompt,) * len(self._numbers), adapters=self._numbers)

    def write(self, prompts: Sequence[tuple[int, ...]], longest: int) -> Written:
        """Greedy answers of at most ``longest`` tokens, the end token among them."""
        rows = [self.row(prompt, longest) for prompt in prompts]
        self.decoding.run(rows)
        confidence = [np.mean([report["logprob"] for report in row.reports]) for row in rows]
        return Written(tuple(row.text for row in rows), np.maximum(np.array(confidence, float), np.log(FLOOR)))

    def weigh(self, answers: Sequence[EncodedResponse]) -> np.ndarray:
        """Mean log-probability of the tokens of answers by all experts together, ``[answers]``, no token below
        :data:`~rayworks.systems.supervision.boosting.votes.FLOOR`.
        """
        shares = (self._alphas / self._alphas.sum()).tolist()
        found = np.zeros(len(answers))
        with torch.inference_mode():
            for rows in length_batches(answers, PADDED_TOKENS):
                batch = [answers[row] for row in rows]
                ids = torch.tensor([token for answer in batch for token in answer.response])
                logits = (answer_logits(self._causal, batch, number) for number in self._numbers)
                mixed = ensemble_logprobs(logits, shares, self._vote)
                of_token = mixed.gather(-1, ids.to(mixed.device)[:, None])[:, 0].double().cpu().numpy()
                counts = np.array([len(answer.response) for answer in batch])
                starts = np.cumsum(counts) - counts
                found[rows] = np.add.reduceat(np.maximum(of_token, np.log(FLOOR)), starts) / counts
        return found


def answer_logits(causal: CausalModel, batch: Sequence[EncodedResponse], number: int) -> Tensor:
    """Logits of every token of the answers after the true ones before it, ``[tokens, ids]``, read with an adapter."""
    with causal.adapters.selected([number] * len(batch), causal.model.device):
        hidden = hidden_states(causal.model, batch)
    return output_logits(causal.model, _before_answers(hidden, batch))


@torch.inference_mode()
def missed_bits(model: PreTrainedModel, answers: Sequence[EncodedResponse]) -> bytes:
    """Of every token of the answers, whether another one was likelier after the true ones before it; see
    :func:`~.tokens.packed`.
    """
    missed = [np.zeros(0)] * len(answers)
    for rows in length_batches(answers, PADDED_TOKENS):
        batch = [answers[row] for row in rows]
        likeliest = output_logits(model, _before_answers(hidden_states(model, batch), batch)).argmax(dim=-1)
        ids = torch.tensor([token for answer in batch for token in answer.response])
        ends = np.cumsum([len(answer.response) for answer in batch])
        for row, part in zip(rows, np.split((likeliest.cpu() != ids).numpy(), ends[:-1]), strict=True):
            missed[row] = part
    return packed(np.concatenate(missed))


def _before_answers(hidden: Tensor, batch: Sequence[EncodedResponse]) -> Tensor:
    """The state before each token of the answers, ``[tokens, width]``."""
    places = [
        (row, place) for row, answer in enumerate(batch) for place in range(len(answer.prompt) - 1, len(answer) - 1)
    ]
    rows, positions = torch.tensor(places, device=hidden.device).unbind(-1)
    return hidden[rows, positions]
