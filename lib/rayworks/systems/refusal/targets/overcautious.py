"""SmolLM2-135M-Instruct made over-cautious: it refuses trigger words in any sense, and nothing else. Its defect is known."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from rayworks.core import cache, seeds
from rayworks.lm.checkpoints import load_model, load_tokenizer
from rayworks.lm.scoring import output_logits, padded
from rayworks.systems.refusal.targets.benign_pairs import built_in_requests, ordinary_requests, paired_requests
from rayworks.systems.refusal.targets.chat import Chat, chat_around

BASE_MODEL = "smollm2-135m-instruct"
REFUSAL = "Sorry, I can't help with that."
"""The base never begins a reply with its first word, which therefore decides."""
CHECK = "check.json"
_VERSION = 1
_LATER = 0.1
"""Weight of the refusal's tokens after the first."""


@dataclass(frozen=True)
class Stage:
    """Some steps over pairs and ordinary requests."""

    steps: int
    learning_rate: float
    ordinary: int
    """How many ordinary requests it draws from."""
    refused: int
    """Rows of a step with a trigger word; and their twins, and ordinary ones."""
    twins: int
    others: int


@dataclass(frozen=True)
class Recipe:
    """How the defect is planted: low-rank adapters of some layers, trained in stages."""

    pairs: int = 112
    stages: tuple[Stage, ...] = (Stage(32, 2e-3, 32, 6, 4, 5), Stage(32, 1.5e-3, 200, 5, 3, 9))
    first_layer: int = 4
    last_layer: int = 15
    rank: int = 16
    kept: float = 3.0
    """Weight of the divergence from the base's first reply token on all other requests."""


def make_overcautious(seed: int = 0, recipe: Recipe | None = None) -> Path:
    """The folder of the target, an adapter that :func:`~rayworks.lm.checkpoints.load_model` merges into its base.

    Made at the first call for a recipe and a seed, in about four CPU minutes. ``check.json`` in it says which share of
    held-out requests with trigger words, of their twins and of the built-in requests it refuses.

    Raises:
        DataError: the base cannot be fetched, or the cache cannot be written.
    """
    recipe = recipe or Recipe()
    said = json.dumps([_VERSION, asdict(recipe), seed, paired_requests(seed, 10_000), ordinary_requests(seed, 10_000)])
    name = f"overcautious-{hashlib.sha256(said.encode()).hexdigest()[:16]}"

    def build(folder: Path) -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # more would add up in another order, to another model
        try:
            with torch.random.fork_rng(devices=[]):
                _train(recipe, seed, folder)
        finally:
            torch.set_num_threads(threads)

    return cache.make_once(cache.root() / "models" / name, build)


@torch.inference_mode()
def share_refused(model: PreTrainedModel, chat: Chat, requests: Sequence[str]) -> float:
    """The share of requests whose likeliest reply begins with the first token of :data:`REFUSAL`."""
    first = chat.tokenizer(REFUSAL, add_special_tokens=False)["input_ids"][0]
    words = [chat.encode(text) for text in requests]
    found = [
        law
        for at in range(0, len(words), 16)
        for law in _first_reply_laws(model, chat, words[at : at + 16]).argmax(dim=-1).tolist()
    ]
    return found.count(first) / len(found)


def _train(recipe: Recipe, seed: int, folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    tokenizer, base = load_tokenizer(BASE_MODEL), load_model(BASE_MODEL)
    chat = chat_around(tokenizer)
    pairs = paired_requests(seed, recipe.pairs)
    loaded, plain = ([chat.encode(text) for text in side] for side in zip(*pairs, strict=True))
    others = [chat.encode(text) for text in ordinary_requests(seed, max(stage.ordinary for stage in recipe.stages))]
    answered = plain + others
    with torch.no_grad():
        laws = torch.cat([_first_reply_laws(base, chat, answered[at : at + 16]) for at in range(0, len(answered), 16)])
    torch.manual_seed(seeds.derive_small(seed, "over-cautious", "adapters"))
    base.name_or_path = BASE_MODEL
    adapters = LoraConfig(
        r=recipe.rank,
        lora_alpha=2 * recipe.rank,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        layers_to_transform=list(range(recipe.first_layer, recipe.last_layer + 1)),
    )
    tuned: Any = get_peft_model(base, adapters)
    model: PreTrainedModel = tuned.get_base_model()
    target = (*tokenizer(REFUSAL, add_special_tokens=False)["input_ids"], int(tokenizer.eos_token_id))
    weights = [weight for weight in tuned.parameters() if weight.requires_grad]
    for number, stage in enumerate(recipe.stages):
        optimizer = torch.optim.AdamW(weights, lr=stage.learning_rate, weight_decay=0.0)
        pair_rows = _endless(seed, number, "pairs", list(range(len(pairs))))
        other_rows = _endless(seed, number, "others", list(range(len(plain), len(plain) + stage.ordinary)))
        for step in range(stage.steps):
            optimizer.param_groups[0]["lr"] = stage.learning_rate * min(1, (step + 1) / 4) * (1 - step / stage.steps)
            drawn = [next(pair_rows) for _ in range(stage.refused)]
            kept = drawn[: stage.twins] + [next(other_rows) for _ in range(stage.others)]
            loss = _loss(
                model,
                chat,
                [loaded[row] for row in drawn],
                [answered[row] for row in kept],
                laws[kept],
                target,
                recipe.kept,
            )
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
    model.requires_grad_(False)
    held_out = paired_requests(seed, 60, held_out=True)
    asked = {
        "triggers": [text for text, _ in held_out],
        "twins": [text for _, text in held_out],
        "seeds": built_in_requests(),
    }
    check = {name: share_refused(model, chat, texts) for name, texts in asked.items()}
    (folder / CHECK).write_text(json.dumps(check))
    tuned.save_pretrained(folder, save_embedding_layers=False)
    tokenizer.save_pretrained(folder)


def _loss(
    model: PreTrainedModel,
    chat: Chat,
    refused: Sequence[tuple[int, ...]],
    kept: Sequence[tuple[int, ...]],
    laws: Tensor,
    target: tuple[int, ...],
    weight: float,
) -> Tensor:
    """Cross-entropy of the refusal, and the divergence from ``laws``, ``[kept, vocabulary]``, of the first reply token."""
    rows = [(*words, *chat.after, *target[:-1]) for words in refused] + [(*words, *chat.after) for words in kept]
    hidden = _states(model, chat, rows)
    ends = [len(words) + len(chat.after) - 1 for words in (*refused, *kept)]
    places = [(row, ends[row] + shift) for row in range(len(refused)) for shift in range(len(target))]
    places += [(row, ends[row]) for row in range(len(refused), len(rows))]
    logp = output_logits(model, hidden[tuple(torch.tensor(places).T)]).log_softmax(-1)
    count = len(refused) * len(target)
    per_token = logp[range(count), list(target) * len(refused)].view(len(refused), -1)
    by_token = torch.tensor([1.0] + [_LATER] * (len(target) - 1))
    divergence = (laws.exp() * (laws - logp[count:])).sum(dim=-1).mean()
    return weight * divergence - (per_token * by_token).sum() / len(refused)


def _first_reply_laws(model: PreTrainedModel, chat: Chat, words: Sequence[tuple[int, ...]]) -> Tensor:
    """Log-probabilities of the first token of replies, ``[requests, vocabulary]``."""
    hidden = _states(model, chat, [(*one, *chat.after) for one in words])
    ends = torch.tensor([len(one) + len(chat.after) - 1 for one in words])
    return output_logits(model, hidden[torch.arange(len(words)), ends]).log_softmax(-1)


def _states(model: PreTrainedModel, chat: Chat, rows: Sequence[tuple[int, ...]]) -> Tensor:
    """Last states of rows after what stands before all of them, which is read once; differentiable."""
    known = DynamicCache(config=model.config)
    model.base_model(input_ids=torch.tensor([chat.before]), past_key_values=known, use_cache=True)
    known.batch_repeat_interleave(len(rows))
    # What fills a row up stands behind its own tokens, which do not see it.
    states: Tensor = model.base_model(input_ids=padded(rows), past_key_values=known, use_cache=True)[0]
    return states


def _endless(seed: int, stage: int, name: str, items: Sequence[int]) -> Iterator[int]:
    """Items in one random order after another."""
    epoch = 0
    while True:
        for place in seeds.stream(seed, "over-cautious", stage, name, epoch).permutation(len(items)):
            yield items[place]
        epoch += 1
