"""Log-probabilities of responses after prompts, batched and padded on the right."""

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rayworks.core.errors import ConfigError, DataError
from rayworks.lm.adapters import AdapterBank
from rayworks.lm.engine import Score, ScoringRequest, require_list
from rayworks.lm.positions import batched_length

Reader = Callable[[Tensor], Tensor]
"""Of a head: last states ``[rows, width]`` to numbers ``[rows]``."""
PADDED_TOKENS_PER_BATCH = 4096
EMPTY = "response: prompt and response must each have at least one token"


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
    """Tokenise both apart, so that the prompt's ids are those of generation; ids are taken as they are. A response is cut to
    ``response_tokens``; if it ``ends``, the end token is appended, but not to one that was cut: it does not end there.
    """
    ids = tuple(tokenizer(response, add_special_tokens=False)["input_ids"]) if isinstance(response, str) else response
    kept = ids[:response_tokens]
    has_end = ends and len(kept) == len(ids) and isinstance(tokenizer.eos_token_id, int)
    return EncodedResponse(encode_prompt(tokenizer, prompt), (*kept, tokenizer.eos_token_id) if has_end else kept)


def response_logprobs(model: PreTrainedModel, batch: Sequence[EncodedResponse]) -> tuple[Tensor, Tensor]:
    """Log-probability of every response token, ``[rows, longest response]``, 0 at padding, and the mask of tokens.

    Differentiable. Only the states before response tokens go through the output layer, which is most of a small model.
    :class:`DataError` where a row has an empty prompt or response, or is longer than the model.
    """
    if not all(row.response for row in batch):
        raise DataError(EMPTY)
    return logprobs_of_states(model, hidden_states(model, batch), batch)


def hidden_states(model: PreTrainedModel, batch: Sequence[EncodedResponse]) -> Tensor:
    """The last layer's states of rows padded on the right, ``[rows, longest, width]``; differentiable; :class:`DataError`
    where a row has an empty prompt, ids that the model does not have, or is longer than the model.
    """
    if not all(row.prompt for row in batch):
        raise DataError(EMPTY)
    rows = [row.prompt + row.response for row in batch]
    longest, (bound, reason) = max(map(len, rows)), batched_length(model.config)
    if longest > bound:
        sizes = f"{longest} tokens with its prompt exceed the model's {bound} ({reason})"
        raise DataError(f"response: {sizes}; shorten either")
    known, highest = model.get_input_embeddings().num_embeddings, max(map(max, rows))
    if highest >= known:
        raise DataError(f"response: has the token id {highest}, the model has {known} ids")
    ids, attended = padded(rows).to(model.device), padded([[1] * len(row) for row in rows]).to(model.device)
    hidden: Tensor = model.base_model(input_ids=ids, attention_mask=attended, use_cache=False)[0]
    return hidden


def padded(rows: Sequence[Sequence[int]], filling: int = 0) -> Tensor:
    """Ragged rows as ``[rows, longest]``, filled on the right."""
    return pad_sequence([torch.tensor(row, dtype=torch.long) for row in rows], True, filling)


def last_states(hidden: Tensor, batch: Sequence[EncodedResponse]) -> Tensor:
    """Of :func:`hidden_states`, the state of each row's last token, ``[rows, width]``."""
    return hidden[torch.arange(len(batch)), torch.tensor([len(row) - 1 for row in batch])]


def logprobs_of_states(
    model: PreTrainedModel, hidden: Tensor, batch: Sequence[EncodedResponse]
) -> tuple[Tensor, Tensor]:
    """What :func:`response_logprobs` returns, from the states of its rows; a response may be empty."""
    starts = [len(text.prompt) - 1 for text in batch]
    places = [(row, at, one) for row, text in enumerate(batch) for at, one in enumerate(text.response, starts[row])]
    values = token_logprobs(model, hidden, places)
    mask = padded([[1] * len(row.response) for row in batch]).to(hidden.device).bool()
    return values.new_zeros(mask.shape).masked_scatter(mask, values), mask


def token_logprobs(model: PreTrainedModel, hidden: Tensor, places: Sequence[tuple[int, int, int]]) -> Tensor:
    """Log-probabilities of tokens ``[places]``: row and position of the state that predicts each, and its id."""
    rows, positions, ids = torch.tensor(places, dtype=torch.long, device=hidden.device).view(-1, 3).unbind(-1)
    logits = output_logits(model, hidden[rows, positions])
    return logits.gather(-1, ids[:, None])[:, 0] - logits.logsumexp(dim=-1)


def summed(values: Tensor, counts: Sequence[int]) -> Tensor:
    """Sums over runs of values, as many as there are counts."""
    owners = torch.repeat_interleave(torch.tensor(counts, device=values.device))
    return values.new_zeros(len(counts)).index_add(0, owners, values)


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
    """Log-probability of several responses to each prompt, as many for each: sums over tokens, ``[prompts, responses]``,
    differentiable. :func:`~rayworks.lm.exactness.shares_prompts` must hold; :class:`DataError` where one is empty.

    A row is a prompt and all its responses, one behind the other; a response sees the prompt and itself, at the positions
    it would have alone. Pairs of short responses cost little more than half of what two rows each would.
    """
    if not all(prompts) or not all(response for group in responses for response in group):
        raise DataError(EMPTY)
    ids, at, segments, places = list[list[int]](), list[list[int]](), list[list[int]](), list[tuple[int, int, int]]()
    for row, (prompt, group) in enumerate(zip(prompts, responses, strict=True)):
        start = len(prompt)
        at.append([*range(start), *(start + index for response in group for index in range(len(response)))])
        segments.append([0] * start + [owner for owner, response in enumerate(group, 1) for _ in response])
        ids.append([*prompt, *chain(*group)])
        for response in group:
            before = (len(prompt) - 1, *range(start, start + len(response) - 1))
            places += [(row, state, token) for state, token in zip(before, response, strict=True)]
            start += len(response)
    segment = padded(segments, -1)
    order = torch.arange(segment.shape[1])
    seen = (segment[:, None, :] == 0) | (segment[:, :, None] == segment[:, None, :])
    allowed = (seen & (order[:, None] >= order))[:, None]
    mask = torch.zeros(allowed.shape, dtype=model.dtype).masked_fill_(~allowed, torch.finfo(model.dtype).min)
    inputs = {"input_ids": padded(ids), "attention_mask": mask, "position_ids": padded(at)}
    hidden = model.base_model(**{name: part.to(model.device) for name, part in inputs.items()}, use_cache=False)[0]
    counts = [len(response) for group in responses for response in group]
    return summed(token_logprobs(model, hidden, places), counts).view(len(prompts), -1)


@torch.inference_mode()
def score_responses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[ScoringRequest],
    adapters: AdapterBank,
    heads: Mapping[str, Reader] = MappingProxyType({}),
) -> list[Score]:
    """Score one response per request, in their order, and read heads and answers behind it; rows of like length share a
    forward, whatever adapters and heads they name.

    Raises:
        ConfigError: an adapter or a head is not loaded.
        DataError: a prompt is empty, or a response with nothing to read behind it; they exceed the model; an answer is not
            one token; what the model says is no number.
    """
    require_list(requests)
    numbers = [adapters.number(request.adapter) for request in requests]
    for request in requests:
        for name in request.heads:
            if name not in heads:
                raise ConfigError(f"head {name!r}: is not loaded; loaded: {', '.join(heads) or 'none'}")
        if not (request.response or request.ends or request.heads or request.answers):
            raise DataError("response: is empty, and nothing is to be read behind it")
    answers = [tuple(answer_id(tokenizer, answer) for answer in request.answers) for request in requests]
    encoded = [encode(tokenizer, request.prompt, request.response, ends=request.ends) for request in requests]
    scores: dict[int, Score] = {}
    for indices in length_batches(encoded, PADDED_TOKENS_PER_BATCH):
        batch = [encoded[index] for index in indices]
        with adapters.selected([numbers[index] for index in indices], model.device):
            hidden = hidden_states(model, batch)
        logprobs, mask = logprobs_of_states(model, hidden, batch)
        if bool(logprobs.isnan().any()):
            raise DataError("response: its log-probabilities are not numbers; look at the weights of model and adapter")
        last = last_states(hidden, batch)
        asked = {name for index in indices for name in requests[index].heads}
        read = {name: heads[name](last).tolist() for name in sorted(asked)}
        behind = output_logits(model, last).log_softmax(-1) if any(answers[index] for index in indices) else None
        for row, index in enumerate(indices):
            values = {name: read[name][row] for name in requests[index].heads}
            found = () if behind is None else tuple(behind[row][list(answers[index])].tolist())
            own = tuple(logprobs[row][mask[row]].tolist())
            scores[index] = Score(encoded[index].response, own, values, found)
    return [scores[index] for index in range(len(encoded))]


def answer_id(tokenizer: PreTrainedTokenizerBase, answer: str) -> int:
    """The one token of an answer; :class:`DataError` where it is not one."""
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise DataError(f"answers: {answer!r} is {len(ids)} tokens, must be one; often a leading space is missing")
    return int(ids[0])


def length_batches(rows: Sequence[Sized], padded_tokens: int) -> list[list[int]]:
    """Indices of rows in batches of like length, each at most ``padded_tokens`` with its padding (or one row)."""
    order = sorted(range(len(rows)), key=lambda index: (-len(rows[index]), index))
    return gathered(order, lambda batch, index: (len(batch) + 1) * len(rows[batch[0]]) <= padded_tokens)


def gathered(order: Sequence[int], fits: Callable[[list[int], int], bool]) -> list[list[int]]:
    """Indices in batches, each filled as long as the next one fits."""
    batches: list[list[int]] = []
    for index in order:
        if batches and fits(batches[-1], index):
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
