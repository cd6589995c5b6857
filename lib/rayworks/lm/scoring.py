"""Log-probabilities of responses after prompts, batched and padded on the right."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rayworks.core.errors import DataError
from rayworks.lm.engine import Score, ScoringRequest

PADDED_TOKENS_PER_BATCH = 4096


@dataclass(frozen=True)
class EncodedResponse:
    """A prompt and its response as ids; the response holds its end token when it has one."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str | tuple[int, ...]) -> tuple[int, ...]:
    """Ids of a prompt; a text that a chat template has begun with the begin token does not get a second one."""
    if not isinstance(prompt, str):
        return prompt
    begins = bool(tokenizer.bos_token) and prompt.startswith(str(tokenizer.bos_token))
    return tuple(tokenizer(prompt, add_special_tokens=not begins)["input_ids"])


def chat_prompt(tokenizer: PreTrainedTokenizerBase, message: str) -> str:
    """A user's message as the model's chat template puts it; the message itself where the tokenizer has none."""
    if not getattr(tokenizer, "chat_template", None):
        return message
    messages = [{"role": "user", "content": message}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def encode(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    response: str,
    *,
    ends: bool = True,
    response_tokens: int | None = None,
) -> EncodedResponse:
    """Tokenise both apart, so that the prompt's ids are those of generation.

    Args:
        prompt: special tokens are added as the tokenizer does for a prompt.
        response: nothing is added but the end token.
        ends: append the end token.
        response_tokens: cut the response to this many tokens before the end token.
    """
    prompt_ids = encode_prompt(tokenizer, prompt)
    response_ids = tuple(tokenizer(response, add_special_tokens=False)["input_ids"])[:response_tokens]
    end = (tokenizer.eos_token_id,) if ends and isinstance(tokenizer.eos_token_id, int) else ()
    return EncodedResponse(prompt_ids, response_ids + end)


def response_logprobs(model: PreTrainedModel, batch: Sequence[EncodedResponse]) -> tuple[Tensor, Tensor]:
    """Log-probability of every response token; differentiable when gradients are on.

    The output layer is evaluated at response positions only, which is most of the cost of a small model.

    Args:
        batch: rows, ragged; each has a prompt and a response of at least one token.

    Returns:
        ``[rows, longest response]`` log-probabilities, 0 at padding, and the mask of tokens.

    Raises:
        DataError: a row has an empty prompt or response.
    """
    if any(not row.prompt or not row.response for row in batch):
        raise DataError("response: prompt and response must each have at least one token")
    device = model.device
    ids = torch.zeros((len(batch), max(map(len, batch))), dtype=torch.long)
    attended = torch.zeros_like(ids)
    longest = max(len(row.response) for row in batch)
    at = torch.zeros((len(batch), longest), dtype=torch.long)
    targets = torch.zeros((len(batch), longest), dtype=torch.long)
    mask = torch.zeros((len(batch), longest), dtype=torch.bool)
    for index, row in enumerate(batch):
        count = len(row.response)
        ids[index, : len(row)] = torch.tensor(row.prompt + row.response)
        attended[index, : len(row)] = 1
        at[index, :count] = torch.arange(len(row.prompt) - 1, len(row) - 1)
        targets[index, :count] = torch.tensor(row.response)
        mask[index, :count] = True
    mask, targets = mask.to(device), targets.to(device)
    hidden = model.base_model(input_ids=ids.to(device), attention_mask=attended.to(device), use_cache=False)[0]
    picked = hidden.gather(1, at.to(device)[:, :, None].expand(-1, -1, hidden.shape[-1]))[mask]
    logits = model.get_output_embeddings()(picked).float()
    values = logits.gather(-1, targets[mask][:, None])[:, 0] - logits.logsumexp(dim=-1)
    logprobs = torch.zeros(mask.shape, dtype=values.dtype, device=device).masked_scatter(mask, values)
    return logprobs, mask


def shared_prompt_logprobs(
    model: PreTrainedModel, prompts: Sequence[tuple[int, ...]], responses: Sequence[Sequence[tuple[int, ...]]]
) -> Tensor:
    """Log-probability of several responses to each prompt, the prompt computed once; differentiable.

    A row is a prompt and all its responses, one behind the other; a response sees the prompt and itself, at the positions
    it would have alone. Pairs of short responses cost little more than half of what two rows each would.

    Args:
        model: any causal LM with full attention.
        prompts: ids, none empty.
        responses: the same number of responses for every prompt, none empty.

    Returns:
        ``[rows, responses]``, sums over response tokens.

    Raises:
        DataError: an empty prompt or response.
    """
    if not all(prompts) or not all(response for group in responses for response in group):
        raise DataError("response: prompt and response must each have at least one token")
    longest = max(len(prompt) + sum(map(len, group)) for prompt, group in zip(prompts, responses, strict=True))
    ids, positions, segment = (torch.zeros((len(prompts), longest), dtype=torch.long) for _ in range(3))
    segment.fill_(-1)
    rows, logit_positions, targets, owners = (list[int]() for _ in range(4))
    for row, (prompt, group) in enumerate(zip(prompts, responses, strict=True)):
        start = len(prompt)
        ids[row, :start], positions[row, :start], segment[row, :start] = torch.tensor(prompt), torch.arange(start), 0
        for owner, response in enumerate(group):
            end = start + len(response)
            ids[row, start:end] = torch.tensor(response)
            positions[row, start:end] = torch.arange(len(prompt), len(prompt) + len(response))
            segment[row, start:end] = owner + 1
            rows += [row] * len(response)
            logit_positions += [len(prompt) - 1, *range(start, end - 1)]
            targets += response
            owners += [owner] * len(response)
            start = end
    order = torch.arange(longest)
    seen = (segment[:, None, :] == 0) | (segment[:, :, None] == segment[:, None, :])
    allowed = (seen & (order[:, None] >= order))[:, None]
    mask = torch.zeros(allowed.shape, dtype=model.dtype).masked_fill_(~allowed, torch.finfo(model.dtype).min)
    device = model.device
    hidden = model.base_model(
        input_ids=ids.to(device), attention_mask=mask.to(device), position_ids=positions.to(device), use_cache=False
    )[0]
    logits = model.get_output_embeddings()(hidden[rows, logit_positions]).float()
    values = logits.gather(-1, torch.tensor(targets, device=device)[:, None])[:, 0] - logits.logsumexp(dim=-1)
    totals = torch.zeros((len(prompts), len(responses[0])), dtype=values.dtype, device=device)
    at = torch.tensor(rows, device=device), torch.tensor(owners, device=device)
    return totals.index_put(at, values, accumulate=True)


@torch.inference_mode()
def score_responses(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[ScoringRequest]
) -> list[Score]:
    """Score one response per request, in their order; rows of like length share a batch."""
    encoded = [encode(tokenizer, request.prompt, request.response, ends=request.ends) for request in requests]
    scores: dict[int, Score] = {}
    for indices in length_batches(encoded, PADDED_TOKENS_PER_BATCH):
        logprobs, mask = response_logprobs(model, [encoded[index] for index in indices])
        for index, values, kept in zip(indices, logprobs, mask, strict=True):
            scores[index] = Score(encoded[index].response, tuple(values[kept].tolist()))
    return [scores[index] for index in range(len(encoded))]


def length_batches(rows: Sequence[EncodedResponse], padded_tokens: int) -> list[list[int]]:
    """Indices of rows in batches of like length, each at most ``padded_tokens`` with its padding (or one row)."""
    batches: list[list[int]] = []
    for index in sorted(range(len(rows)), key=lambda index: (-len(rows[index]), index)):
        if batches and (len(batches[-1]) + 1) * len(rows[batches[-1][0]]) <= padded_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
