"""What several language models say together, token by token: all go on from the same prefix, in one batched step."""

from collections.abc import Sequence

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

PROMPTS = 64
"""Of which what experts have read is kept at once."""
PADDED_TOKENS = 1024
"""Of a forward whose distributions over all ids are held, with padding."""


def add_vote(total: Tensor | None, logits: Tensor, alpha: float, vote: Vote) -> Tensor:
    """The sum of what experts say, ``[rows, ids]`` in float32, with one expert more, in place.

    Args:
        total: of those before; None: there are none.
        logits: of this one, ``[rows, ids]``.
        alpha: its weight.
    """
    if vote == "share":
        said = torch.zeros_like(logits).scatter_(-1, logits.argmax(dim=-1, keepdim=True), 1.0)
    else:
        said = logits.softmax(dim=-1) if vote == "linear" else logits.log_softmax(dim=-1)
    return said.mul_(alpha) if total is None else total.add_(said, alpha=alpha)


def ensemble_logprobs(parts: Sequence[Tensor], alphas: Sequence[float], vote: Vote) -> Tensor:
    """Log-probabilities of what experts say together, ``[rows, ids]`` in float32; see
    :func:`~rayworks.systems.supervision.boosting.votes.ensembles`, which one expert alone follows too.

    Args:
        parts: logits ``[rows, ids]`` of each expert.
        alphas: weights.
    """
    if len(parts) == 1:
        return parts[0].log_softmax(dim=-1)
    total: Tensor | None = None
    for logits, alpha in zip(parts, alphas, strict=True):
        total = add_vote(total, logits, alpha, vote)
    assert total is not None
    total /= sum(alphas)
    return total.log_softmax(dim=-1) if vote == "log-linear" else total.log_()


class EnsembleMixer(LogitMixer):
    """Mixes the models of a decode loop, each with its share of the weight; every row needs all of them."""

    def __init__(self, alphas: np.ndarray, vote: Vote) -> None:
        self._alphas, self._vote = alphas.tolist(), vote

    def guides(self, row: Row) -> Sequence[int]:
        """All models beside the first."""
        return range(1, len(self._alphas))

    def mix(self, base: Tensor, guides: dict[int, tuple[Tensor, Tensor]], rows: Sequence[Row]) -> Mixed:
        """See :class:`~rayworks.lm.rows.LogitMixer`; it reports each token's log-probability."""
        parts = [base, *(guides[model][1] for model in sorted(guides))]
        mixed = ensemble_logprobs(parts, self._alphas, self._vote)
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
        self._causal, self._tokenizer, self._numbers = causal, tokenizer, tuple(numbers)
        self._alphas, self._vote = alphas, vote

    def decoding(self, rounds: int) -> ContinuousBatching:
        """A decode loop of the first so many experts, as rows of one batch."""
        slots = max(1, self._causal.cache.slots // rounds)
        mixer = EnsembleMixer(self._alphas[:rounds], self._vote)
        return ContinuousBatching([self._causal] * rounds, self._tokenizer, mixer, slots, keep_prefixes=True)

    def row(self, prompt: tuple[int, ...], longest: int, rounds: int, *, ignore_end: bool = False) -> Row:
        """A greedy row of :meth:`decoding`."""
        request = GenerationRequest(prompt=prompt, max_new_tokens=longest, temperature=0.0, ignore_end=ignore_end)
        return Row(request, (prompt,) * rounds, adapters=self._numbers[:rounds])

    def write(self, prompts: Sequence[tuple[int, ...]], longest: int, rounds: Sequence[int]) -> list[Written]:
        """Greedy answers of at most ``longest`` tokens, the end token among them, by the first so many experts.

        Each number of rounds goes its own way; what an expert has read of a prompt is not read again.
        """
        rows: dict[int, list[Row]] = {number: [] for number in rounds}
        for start in range(0, len(prompts), PROMPTS):
            self._causal.prefixes.clear()
            for number in rounds:
                some = [self.row(prompt, longest, number) for prompt in prompts[start : start + PROMPTS]]
                self.decoding(number).run(some)
                rows[number] += some
        return [_written(rows[number]) for number in rounds]

    @torch.inference_mode()
    def weigh(self, answers: Sequence[EncodedResponse], rounds: Sequence[int]) -> np.ndarray:
        """Mean log-probability of the tokens of answers by the first so many experts together, ``[rounds, answers]``, no
        token below :data:`~rayworks.systems.supervision.boosting.votes.FLOOR`.
        """
        found = np.zeros((len(rounds), len(answers)))
        for rows in length_batches(answers, PADDED_TOKENS):
            batch = [answers[row] for row in rows]
            ids = torch.tensor(
                [token for answer in batch for token in answer.response], device=self._causal.model.device
            )
            counts = np.array([len(answer.response) for answer in batch])
            total: Tensor | None = None
            for place in range(max(rounds)):
                logits = answer_logits(self._causal, batch, self._numbers[place])
                # One expert alone says what it says, whatever the vote.
                total = add_vote(total, logits, float(self._alphas[place]), self._vote)
                for at in [at for at, number in enumerate(rounds) if number == place + 1]:
                    mixed = logits.log_softmax(-1) if place == 0 else self._logprobs(total, place + 1)
                    of_token = mixed.gather(-1, ids[:, None])[:, 0].double().cpu().numpy()
                    sums = np.add.reduceat(np.maximum(of_token, np.log(FLOOR)), np.cumsum(counts) - counts)
                    found[at, rows] = sums / counts
        return found

    def _logprobs(self, total: Tensor, rounds: int) -> Tensor:
        mean = total / float(self._alphas[:rounds].sum())
        return mean.log_softmax(dim=-1) if self._vote == "log-linear" else mean.log_()


def _written(rows: Sequence[Row]) -> Written:
    confidence = [np.mean([report["logprob"] for report in row.reports]) for row in rows]
    return Written(tuple(row.text for row in rows), np.maximum(np.array(confidence, float), np.log(FLOOR)))


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
