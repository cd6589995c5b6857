"""The two contexts of a growing prompt: as the content model writes it, and as the target would answer it.

Both keep the keys and values of what they have read. All prompts under way are of one length, so the target's rows need no
padding; a candidate costs itself, what follows the user's turn, and the scored tokens of the refusal but the last.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from rayworks.core.errors import DataError
from rayworks.lm.packed_linear import PackedLinear
from rayworks.lm.prefix_tree import agreeing
from rayworks.lm.rows import check_prompt
from rayworks.lm.scoring import (
    PADDED_TOKENS_PER_BATCH,
    EncodedResponse,
    length_batches,
    output_logits,
    response_logprobs,
)
from rayworks.systems.refusal.targets.opening import Target
from rayworks.systems.refusal.targets.own_refusals import Refusal


class ContentContext:
    """Paraphrases under way in the slots of the content model.

    Args:
        contexts: what each is written behind, as :meth:`Target.context` gives it.
        new_tokens: most that are written.

    :class:`DataError` for a context that is too long, or more of them than the model has slots.
    """

    def __init__(self, target: Target, contexts: Sequence[tuple[int, ...]], new_tokens: int) -> None:
        self._model = causal = target.content
        if not target.engine.decoding.idle or len(contexts) > causal.cache.slots:
            raise DataError(
                f"target: {len(contexts)} prompts at once need as many free slots, it has {causal.cache.slots}"
            )
        for context in contexts:
            check_prompt(context, new_tokens, causal.max_length, causal.readable_ids, causal.max_length_reason)
        slots = list(range(len(contexts)))
        for slot in slots:
            causal.release(slot)
        common = min(min(agreeing(contexts[0], other), len(other) - 1) for other in contexts)
        if common and len(slots) > 1:
            causal.read([0], [contexts[0][:common]])
            for slot in slots[1:]:
                causal.fork(0, slot)
        self._slots = slots
        rest = [list(context[causal.held(slot) :]) for slot, context in zip(slots, contexts, strict=True)]
        self.law: Tensor = causal.read(slots, rest).double().log_softmax(-1).cpu()
        """Log-probabilities of the next token, ``[rows, vocabulary]`` float64."""

    def advance(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Keep some rows, in their order, each with one more token."""
        dropped = set(self._slots) - {self._slots[row] for row in rows}
        self._slots = [self._slots[row] for row in rows]
        for slot in dropped:
            self._model.release(slot)
        logits = self._model.feed(self._slots, [[token] for token in tokens])
        self.law = logits.double().log_softmax(-1).cpu()

    def close(self) -> None:
        """Give the slots back."""
        for slot in self._slots:
            self._model.release(slot)


class RefusalContext:
    """Prompts under way in the target's chat.

    Args:
        rows: how many prompts begin.
        most: most candidates of a forward.
        mean: score the mean over the refusal's tokens, not their sum.
    """

    def __init__(self, target: Target, refusal: Refusal, rows: int, most: int = 128, mean: bool = False) -> None:
        self._model, self._after, self._goal = target.engine.model.model, target.chat.after, refusal.target
        self._most, self._mean = most, mean
        self._known = DynamicCache(config=self._model.config)
        self._read(torch.tensor([target.chat.before]))
        self._known.batch_repeat_interleave(rows)

    @torch.no_grad()
    def scores(self, rows: Sequence[int], tokens: Sequence[int]) -> list[float]:
        """Log-probability of the refusal after each row's prompt and one token more."""
        found: list[float] = []
        embed = self._model.get_input_embeddings()
        for at in range(0, len(rows), self._most):
            ids = torch.tensor(tokens[at : at + self._most], device=self._model.device)
            found += self._scored(rows[at : at + self._most], embed(ids)[:, None]).tolist()
        return found

    def gradients(self, rows: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """To first order, how much the score would change if another token stood for each, ``[rows, vocabulary]``.

        :class:`DataError` where the target was not opened as differentiable.
        """
        if any(isinstance(module, PackedLinear) for module in self._model.modules()):
            raise DataError("target: its packed layers have no gradients; open it with differentiable=True")
        embed = self._model.get_input_embeddings()
        with torch.enable_grad():
            first = embed(torch.tensor(tokens, device=self._model.device))[:, None].detach().requires_grad_()
            (slope,) = torch.autograd.grad(self._scored(rows, first).sum(), first)
        table = embed(torch.arange(embed.num_embeddings, device=self._model.device)).detach()
        change = slope[:, 0] @ table.T
        own: Tensor = change.gather(-1, torch.tensor(tokens, device=change.device)[:, None])
        difference: Tensor = (change - own).double().cpu()
        return difference

    @torch.no_grad()
    def advance(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Keep some rows, in their order, each with one more token."""
        self._known = self._of(rows)
        self._read(torch.tensor(tokens)[:, None])

    def _scored(self, rows: Sequence[int], first: Tensor) -> Tensor:
        """The same of embedded tokens ``[rows, 1, width]``; differentiable."""
        follows = torch.tensor([[*self._after, *self._goal[:-1]]], device=first.device)
        embedded = self._model.get_input_embeddings()(follows).expand(len(rows), -1, -1)
        hidden = self._model.base_model(
            inputs_embeds=torch.cat([first, embedded], dim=1), past_key_values=self._of(rows), use_cache=True
        )[0]
        logp = output_logits(self._model, hidden[:, len(self._after) :]).log_softmax(-1)
        goal = torch.tensor(self._goal, device=logp.device).expand(len(rows), -1)
        values: Tensor = logp.gather(-1, goal[:, :, None])[:, :, 0]
        return values.mean(dim=-1) if self._mean else values.sum(dim=-1)

    @torch.no_grad()
    def _read(self, ids: Tensor) -> None:
        self._model.base_model(input_ids=ids.to(self._model.device), past_key_values=self._known, use_cache=True)

    def _of(self, rows: Sequence[int]) -> DynamicCache:
        """A copy of what some rows hold."""
        chosen = torch.tensor(rows, device=self._model.device)
        taken = DynamicCache(config=self._model.config)
        for number, layer in enumerate(self._known.layers):
            taken.update(layer.keys[chosen], layer.values[chosen], number)
        return taken


@torch.inference_mode()
def whole_scores(target: Target, refusal: Refusal, prompts: Sequence[Sequence[int]], mean: bool = False) -> list[float]:
    """The same scores of whole prompts as ids, without a cache."""
    rows = [EncodedResponse(target.chat.around(ids), refusal.target) for ids in prompts]
    found: dict[int, float] = {}
    for batch in length_batches(rows, PADDED_TOKENS_PER_BATCH):
        values, _ = response_logprobs(target.engine.model.model, [rows[index] for index in batch])
        found |= dict(zip(batch, (values.mean(dim=-1) if mean else values.sum(dim=-1)).tolist(), strict=True))
    return [found[index] for index in range(len(rows))]
