"""Heads that tell right from wrong (arXiv 2404.12253, section 4.4): one learns from trees how likely a beginning or an answer
is to come out right, another from solutions whose first wrong step people have named.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from rayworks.core import seeds
from rayworks.core.errors import DataError
from rayworks.lm.checkpoints import load_model
from rayworks.lm.engine import ScoringRequest
from rayworks.lm.heads import HeadTrainer, ScalarHead
from rayworks.lm.scoring import EncodedResponse, encode
from rayworks.lm.training import TuningOptions
from rayworks.lm.transformers_engine import TransformersEngine
from rayworks.systems.reasoning.config import HeadSection
from rayworks.systems.reasoning.search.opening import HEAD
from rayworks.systems.reasoning.search.records import Record
from rayworks.systems.reasoning.tasks.questions import uid_of
from rayworks.systems.reasoning.tasks.word_problems import StepLabel


@dataclass(frozen=True)
class Labelled:
    """A text, and the share of answers through it that were correct."""

    uid: str
    text: EncodedResponse
    label: float
    whole: bool
    """Whether it is a whole answer."""


def outcome_texts(trees: Sequence[Record], end: int, most: int, seed: int) -> list[Labelled]:
    """Whole answers with their verdicts, and beginnings with the share of right ones among the answers that they lead to.

    Args:
        end: the end token's id.
        most: texts; more are drawn from at random.
    """
    found: list[Labelled] = []
    for tree in trees:
        prompt = tuple(tree["prompt"])
        answers = {(tuple(one["tokens"]), one["ended"]): one["correct"] for one in tree["answers"]}
        for (tokens, ended), correct in answers.items():
            text = EncodedResponse(prompt, (*tokens, end) if ended else tokens)
            if text.response:
                found.append(Labelled(tree["uid"], text, float(correct), whole=True))
        seen: dict[tuple[int, ...], list[bool]] = {}
        for answer in tree["answers"]:
            seen.setdefault(tuple(answer["tokens"]), []).append(answer["correct"])
        for prefix in _beginnings(tree):
            through = [one for tokens, verdicts in seen.items() if tokens[: len(prefix)] == prefix for one in verdicts]
            if through and prefix:
                found.append(
                    Labelled(tree["uid"], EncodedResponse(prompt, prefix), float(np.mean(through)), whole=False)
                )
    return _drawn(found, most, seed)


def step_texts(
    labels: Sequence[StepLabel], tokenizer: PreTrainedTokenizerBase, template: str, longest: int, most: int, seed: int
) -> list[Labelled]:
    """Beginnings of solutions up to each step: 1 before the first wrong one, 0 at it; what follows says nothing.

    Args:
        template: of a question's prompt, with ``{question}``.
        longest: tokens that the model reads; longer beginnings are left out.
        most: texts; more are drawn from at random.

    Raises:
        DataError: none is left.
    """
    found: list[Labelled] = []
    for one in labels:
        prompt = template.replace("{question}", one.prompt)
        last = len(one.steps) if one.wrong_step is None else one.wrong_step + 1
        for stop in range(1, last + 1):
            text = encode(tokenizer, prompt, "".join(f" {step}\n" for step in one.steps[:stop]), ends=False)
            if len(text) <= longest:
                right = one.wrong_step is None or stop - 1 < one.wrong_step
                found.append(Labelled(uid_of(prompt), text, float(right), whole=False))
    if not found:
        raise DataError(f"head.step_labels: no beginning of a solution fits the model's {longest} tokens")
    return _drawn(found, most, seed)


def _drawn(found: list[Labelled], most: int, seed: int) -> list[Labelled]:
    if len(found) <= most:
        return found
    drawn = seeds.stream(seed, "head", "texts").permutation(len(found))[:most]
    return [found[place] for place in sorted(drawn)]


def train_head(
    policy: str,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Labelled],
    section: HeadSection,
    folder: Path,
    seed: int,
    device: str,
) -> dict[str, Any] | None:
    """Train a head on a copy of a policy, write both to ``folder``, and measure it on questions that it has not seen.

    ``None`` where the texts leave nothing to learn from.
    """
    learned, kept = held_out(texts, section.held_out, seed)
    if not learned:
        return None
    model = load_model(policy, device=device)
    head = ScalarHead(model.config.get_text_config().hidden_size, "sigmoid")
    options = TuningOptions(
        learning_rate=section.learning_rate,
        total_steps=section.steps,
        warmup_steps=min(20, section.steps - 1),
        tuning=section.tuning,
        train_embeddings=section.tuning == "full",
    )
    examples, labels = [text.text for text in learned], [text.label for text in learned]
    trainer = HeadTrainer(model, head, examples, labels, options, batch_size=section.batch_size, seed=seed)
    loss = trainer.train(section.steps)["loss"]
    trainer.export(folder, tokenizer)
    head.save(folder / HEAD)
    scores = _read(folder, kept, device)
    return {
        "texts": len(learned),
        "held_out": len(kept),
        "loss": loss,
        "auc_beginnings": _area(scores, kept, whole=False),
        "auc_answers": _area(scores, kept, whole=True),
    }


def _read(folder: Path, texts: Sequence[Labelled], device: str) -> list[float]:
    engine = TransformersEngine(str(folder), slots=1, device=device)
    engine.add_head(HEAD, folder / HEAD)
    requests = [ScoringRequest(text.text.prompt, text.text.response, ends=False, heads=(HEAD,)) for text in texts]
    return [score.values[HEAD] for score in engine.score(requests)]


def _area(scores: Sequence[float], texts: Sequence[Labelled], *, whole: bool) -> float | None:
    chosen = [(score, text.label) for score, text in zip(scores, texts, strict=True) if text.whole == whole]
    return area_under_curve([score for score, _ in chosen], [label for _, label in chosen])


def held_out(texts: Sequence[Labelled], share: float, seed: int) -> tuple[list[Labelled], list[Labelled]]:
    """Those to learn from, and those of other questions to measure on; of one question there are none to learn from."""
    questions = sorted({text.uid for text in texts})
    order = seeds.stream(seed, "head", "held out").permutation(len(questions))
    kept = {questions[place] for place in order[: max(1, round(share * len(questions)))]}
    return [text for text in texts if text.uid not in kept], [text for text in texts if text.uid in kept]


def area_under_curve(scores: Sequence[float], labels: Sequence[float]) -> float | None:
    """Chance that a right answer scores above a wrong one, ties by half; ``None`` where all are of one kind."""
    from scipy.stats import rankdata

    right = np.asarray(labels) > 0.5
    if right.all() or not right.any():
        return None
    ranks = rankdata(scores)
    above = ranks[right].sum() - right.sum() * (right.sum() + 1) / 2
    return float(above / (right.sum() * (~right).sum()))


def _beginnings(tree: Record) -> list[tuple[int, ...]]:
    prefixes: dict[int, tuple[int, ...]] = {}
    found = []
    for node in tree["nodes"]:
        before = () if node["parent"] is None else prefixes[node["parent"]]
        prefixes[node["id"]] = before + tuple(node["tokens"])
        if not node["terminal"]:
            found.append(prefixes[node["id"]])
    return found
