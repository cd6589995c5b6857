"""Log-probabilities of responses after prompts, batched and padded on the right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rayworks.core.errors import ConfigError, DataError
from rayworks.lm.adapters import AdapterBank
from rayworks.lm.engine import Score, ScoringRequest
from rayworks.lm.positions import batched_length

PADDED_TOKENS_PER_BATCH = 4096


class ReadableHead(Protocol):
    """What :class:`~rayworks.lm.heads.ScalarHead` is to scoring."""

    def read(self, hidden: Tensor) -> Tensor:
        """Hidden states ``[rows, width]`` to numbers ``[rows]``."""


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
    prompt: str | tuple[int, ...],
    response: str | tuple[int, ...],
    *,
    ends: bool = True,
    response_tokens: int | None = None,
) -> EncodedResponse:
    """Tokenise both apart, so that the prompt's ids are those of generation.

    Args:
        prompt: special tokens are added as the tokenizer does for a prompt; ids are taken as they are.
        response: nothing is added but the end token.
        ends: append the end token, but not to a response that was cut: it does not end there.
        response_tokens: cut the response to this many tokens before the end token.
    """
    ids = tuple(tokenizer(response, add_special_tokens=False)["input_ids"]) if isinstance(response, str) else response
    kept = ids[:response_tokens]
    has_end = ends and len(kept) == len(ids) and isinstance(tokenizer.eos_token_id, int)
    return EncodedResponse(encode_prompt(tokenizer, prompt), (*kept, tokenizer.eos_token_id) if has_end else kept)


def response_logprobs(model: PreTrainedModel, batch: Sequence[EncodedResponse]) -> tuple[Tensor, Tensor]:
    """Log-probability of every response token; differentiable when gradients are on.

    The output layer is evaluated at response positions only, which is most of the cost of a small model.

    Args:
        batch: rows, ragged; each has a prompt and a response of at least one token.

    Returns:
        ``[rows, longest response]`` log-probabilities, 0 at padding, and the mask of tokens.

    Raises:
        DataError: a row has an empty prompt or response, or is longer than the model.
    """
    if any(not row.response for row in batch):
        raise DataError("response: prompt and response must each have at least one token")
    return logprobs_of_states(model, hidden_states(model, batch), batch)


def hidden_states(model: PreTrainedModel, batch: Sequence[EncodedResponse]) -> Tensor:
    """The last layer's states of rows padded on the right, ``[rows, longest, width]``; differentiable.

    Raises:
        DataError: a row has an empty prompt, or is longer than the model.
    """
    if any(not row.prompt for row in batch):
        raise DataError("prompt: prompt and response must each have at least one token")
    longest = max(map(len, batch))
    require_room(model, longest)
    ids_known, highest = (
        model.get_input_embeddings().num_embeddings,
        max(max(row.prompt + row.response) for row in batch),
    )
    if highest >= ids_known:
        raise DataError(f"response: has the token id {highest}, the model has {ids_known} ids")
    ids, attended = (torch.zeros((len(batch), longest), dtype=torch.long) for _ in range(2))
    for index, row in enumerate(batch):
        ids[index, : len(row)] = torch.tensor(row.prompt + row.response)
        attended[index, : len(row)] = 1
    device = model.device
    hidden: Tensor = model.base_model(input_ids=ids.to(device), attention_mask=attended.to(device), use_cache=False)[0]
    return hidden


def last_states(hidden: Tensor, batch: Sequence[EncodedResponse]) -> Tensor:
    """Of :func:`hidden_states`, the state of each row's last token, ``[rows, width]``."""
    return hidden[torch.arange(len(batch)), torch.tensor([len(row) - 1 for row in batch])]


def logprobs_of_states(
    model: PreTrainedModel, hidden: Tensor, batch: Sequence[EncodedResponse]
) -> tuple[Tensor, Tensor]:
    """What :func:`response_logprobs` returns, from the states of its rows; a response may be empty."""
    longest = max(len(row.response) for row in batch)
    at, targets = (torch.zeros((len(batch), longest), dtype=torch.long) for _ in range(2))
    mask = torch.zeros((len(batch), longest), dtype=torch.bool)
    for index, row in enumerate(batch):
        count = len(row.response)
        at[index, :count] = torch.arange(len(row.prompt) - 1, len(row) - 1)
        targets[index, :count] = torch.tensor(row.response)
        mask[index, :count] = True
    at, mask, targets = (part.to(hidden.device) for part in (at, mask, targets))
    picked = hidden.gather(1, at[:, :, None].expand(-1, -1, hidden.shape[-1]))[mask]
    logits = output_logits(model, picked)
    values = logits.gather(-1, targets[mask][:, None])[:, 0] - logits.logsumexp(dim=-1)
    logprobs = torch.zeros(mask.shape, dtype=values.dtype, device=hidden.device).masked_scatter(mask, values)
    return logprobs, mask


def require_room(model: PreTrainedModel, length: int) -> None:
    """Raise :class:`DataError` when a row of ``length`` tokens is more than the model can take in a batch."""
    bound, reason = batched_length(model.config)
    if length > bound:
        raise DataError(
            f"response: {length} tokens with its prompt exceed the model's {bound} ({reason}); shorten either"
        )


def output_logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Logits of hidden states ``[..., width]`` as the model's own forward makes them, in float32."""
    logits: Tensor = model.get_output_embeddings()(hidden).float()
    config = model.config.get_text_config()
    if (divisor := getattr(config, "logits_scaling", None)) is not None:
        logits = logits / divisor
    if (factor := getattr(config, "logit_scale", None)) is not None:
        logits = logits * factor
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        logits = cap * torch.tanh(logits / cap)
    return logits


def shared_prompt_logprobs(
    model: PreTrainedModel, prompts: Sequence[tuple[int, ...]], responses: Sequence[Sequence[tuple[int, ...]]]
) -> Tensor:
    """Log-probability of several responses to each prompt, the prompt computed once; differentiable.

    A row is a prompt and all its responses, one behind the other; a response sees the prompt and itself, at the positions
    it would have alone. Pairs of short responses cost little more than half of what two rows each would.

    Args:
        model: one of which :func:`~rayworks.lm.exactness.shares_prompts` holds.
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
    logits = output_logits(model, hidden[rows, logit_positions])
    values = logits.gather(-1, torch.tensor(targets, device=device)[:, None])[:, 0] - logits.logsumexp(dim=-1)
    totals = torch.zeros((len(prompts), len(responses[0])), dtype=values.dtype, device=device)
    at = torch.tensor(rows, device=device), torch.tensor(owners, device=device)
    return totals.index_put(at, values, accumulate=True)


@torch.inference_mode()
def score_responses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[ScoringRequest],
    adapters: AdapterBank,
    heads: Mapping[str, ReadableHead] = MappingProxyType({}),
) -> list[Score]:
    """Score one response per request, in their order, and read heads and answers behind it, all in one forward per batch.

    Rows of like length share a batch, whatever adapters and heads they name.

    Raises:
        ConfigError: an adapter or a head is not loaded.
        DataError: a prompt is empty, a response is though nothing is to be read behind it, both are longer than the model, or
            an answer is not one token.
    """
    numbers = [adapters.number(request.adapter) for request in requests]
    _require_heads(requests, heads)
    answers = [tuple(answer_id(tokenizer, answer) for answer in request.answers) for request in requests]
    encoded = [encode(tokenizer, request.prompt, request.response, ends=request.ends) for request in requests]
    scores: dict[int, Score] = {}
    for indices in length_batches(encoded, PADDED_TOKENS_PER_BATCH):
        batch = [encoded[index] for index in indices]
        with adapters.selected([numbers[index] for index in indices], model.device):
            hidden = hidden_states(model, batch)
        logprobs, mask = logprobs_of_states(model, hidden, batch)
        if bool(logprobs.isnan().any()):
            raise DataError(
                "response: the model's log-probabilities are not numbers; look at its weights and the adapter's"
            )
        last = last_states(hidden, batch)
        asked = {name for index in indices for name in requests[index].heads}
        read = {name: heads[name].read(last).tolist() for name in sorted(asked)}
        behind = output_logits(model, last).log_softmax(-1) if any(answers[index] for index in indices) else None
        for row, index in enumerate(indices):
            scores[index] = Score(
                encoded[index].response,
                tuple(logprobs[row][mask[row]].tolist()),
                {name: read[name][row] for name in requests[index].heads},
                tuple(behind[row][list(answers[index])].tolist()) if behind is not None else (),
            )
    return [scores[index] for index in range(len(encoded))]


def answer_id(tokenizer: PreTrainedTokenizerBase, answer: str) -> int:
    """The one token of an answer.

    Raises:
        DataError: it is not one token.
    """
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise DataError(
            f"answers: {answer!r} is {len(ids)} tokens, must be one; a leading space often makes the difference"
        )
    return int(ids[0])


def _require_heads(requests: Sequence[ScoringRequest], heads: Mapping[str, ReadableHead]) -> None:
    for request in requests:
        unknown = [name for name in request.heads if name not in heads]
        if unknown:
            raise ConfigError(f"head {unknown[0]!r}: is not loaded; loaded: {', '.join(heads) or 'none'}")
        if not request.response and not request.ends and not (request.heads or request.answers):
            raise DataError("response: is empty, and nothing is to be read behind it")


def length_batches(rows: Sequence[EncodedResponse], padded_tokens: int) -> list[list[int]]:
    """Indices of rows in batches of like length, each at most ``padded_tokens`` with its padding (or one row)."""
    batches: list[list[int]] = []
    for index in sorted(range(len(rows)), key=lambda index: (-len(rows[index]), index)):
        if batches and (len(batches[-1]) + 1) * len(rows[batches[-1][0]]) <= padded_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
