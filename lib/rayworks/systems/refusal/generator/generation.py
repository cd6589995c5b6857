"""Harmless prompts that a model refuses, written from left to right, many in lock-step (after AutoDAN, arXiv 2310.15140).

Each token is likely as the next of a paraphrase of a seed, and makes the target's refusal likelier. Every prompt draws from
random numbers of its own, so it is the same whatever stands beside it, up to the rounding of batched products: a draw differs
only where its uniform number falls into the gap by which these move the distribution function.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rayworks.core import seeds as streams
from rayworks.core.errors import DataError
from rayworks.systems.refusal.generator.contexts import ContentContext, RefusalContext, whole_scores
from rayworks.systems.refusal.generator.options import GeneratorOptions
from rayworks.systems.refusal.generator.vocabulary_scan import HeardWord, scan_table
from rayworks.systems.refusal.generator.words import allowed_tokens, drawn, fitting, ranked, require_some
from rayworks.systems.refusal.targets.opening import Target
from rayworks.systems.refusal.targets.own_refusals import Refusal
from rayworks.systems.refusal.targets.seed_corpora import Seed

StoppedBy = Literal["end", "length", "saturation", "no_candidate"]
_REDRAWS = 16
"""Most draws of a first token that the tokenizer would read otherwise."""
_SEARCHED = 64
"""How many of the likeliest are tried after them."""
_DEPTH = 4
"""How many times the width is looked through for candidates that fit."""


@dataclass(frozen=True)
class Generated:
    """A prompt that was written from a seed."""

    uid: str
    seed_text: str
    prompt: str
    ids: tuple[int, ...]
    refusal_logprob: float
    """Of the refusal's scored tokens behind the whole prompt: their sum, or their mean if so asked."""
    content_logprobs: tuple[float, ...]
    """Of each token, as part of a paraphrase of the seed."""
    perplexity: float
    """Of the prompt as a paraphrase of the seed."""
    candidates: int
    """How many candidates the target has read."""
    stopped_by: StoppedBy


@dataclass
class _Prompt:
    """A prompt under way."""

    seed: Seed
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    refusal: float = -math.inf
    candidates: int = 0
    stopped_by: StoppedBy | None = None


@dataclass
class _Token:
    """The next token of a prompt, while it is chosen."""

    uniforms: np.ndarray
    law: Tensor
    """Log-probabilities under the content model, -inf where a token must not stand."""
    current: int
    known: dict[int, bool]
    """Of tokens that were tried, whether the prompt is read back with them."""
    scores: dict[int, float] = field(default_factory=dict)
    """Of tokens that the target has read."""
    visited: set[int] = field(default_factory=set)
    settled: bool = False


class Generator:
    """Writes prompts towards one refusal of one target.

    Args:
        scan: what :func:`~rayworks.systems.refusal.generator.vocabulary_scan.scan_vocabulary` found; needed for that
            preselection alone.
        allowed: ids that prompts may have ``[vocabulary]`` bool; by default as ``options`` say.

    :class:`DataError` where the scan is missing, no token is allowed, or the target cannot read ``max_tokens``.
    """

    def __init__(
        self,
        target: Target,
        refusal: Refusal,
        options: GeneratorOptions,
        scan: Sequence[HeardWord] = (),
        allowed: Tensor | None = None,
    ) -> None:
        self._target, self._refusal, self._options = target, refusal, options
        self._allowed = allowed_tokens(target, options.ascii_only) if allowed is None else allowed
        require_some(self._allowed)
        around = len(target.chat.around(refusal.target)) + options.max_tokens
        if around > (longest := target.engine.model.max_length):
            raise DataError(
                f"max_tokens: {options.max_tokens} make a chat of {around}, the target reads {longest}; lower it"
            )
        by_scan = options.w2 > 0 and options.preselection == "scan"
        self._heard = scan_table(scan, target.content.vocabulary_size) if by_scan else None

    def write(self, seeds: Sequence[Seed], run_seed: int) -> list[Generated]:
        """A prompt for each seed, in their order; :class:`DataError` for a seed that is empty or too long for the model."""
        room = self._target.content.max_length - self._options.max_tokens
        for seed in seeds:
            if not seed.text.strip():
                raise DataError(f"seed {seed.uid}: is empty; leave it out")
            if (length := len(self._target.context(seed.text))) > room:
                raise DataError(
                    f"seed {seed.uid}: {length} tokens with what is asked exceed the {room} left; shorten it"
                )
        size = min(self._options.together, self._target.content.cache.slots)
        groups = [seeds[at : at + size] for at in range(0, len(seeds), size)]
        return [prompt for group in groups for prompt in self._write_together(group, run_seed)]

    def _write_together(self, seeds: Sequence[Seed], run_seed: int) -> list[Generated]:
        options, going = self._options, [_Prompt(seed) for seed in seeds]
        every = list(going)
        content = ContentContext(self._target, [self._target.context(seed.text) for seed in seeds], options.max_tokens)
        refusal = RefusalContext(self._target, self._refusal, len(seeds), options.rows, options.mean)
        try:
            for position in range(options.max_tokens):
                tokens = self._choose(going, content.law, refusal, run_seed, position)
                kept = [row for row, prompt in enumerate(going) if prompt.stopped_by is None]
                if not kept or position == options.max_tokens - 1:
                    break
                going = [going[row] for row in kept]
                content.advance(kept, [tokens[row] for row in kept])
                if options.w2 > 0:
                    refusal.advance(kept, [tokens[row] for row in kept])
        finally:
            content.close()
        unscored = [prompt for prompt in every if prompt.refusal == -math.inf]
        values = whole_scores(self._target, self._refusal, [prompt.ids for prompt in unscored], options.mean)
        for prompt, value in zip(unscored, values, strict=True):
            prompt.refusal = value
        return [self._finished(prompt) for prompt in every]

    def _choose(
        self, prompts: Sequence[_Prompt], laws: Tensor, refusal: RefusalContext, run_seed: int, position: int
    ) -> list[int]:
        """The next token of each prompt, which is added to it, or ends it."""
        options, laws = self._options, self._lawful(laws, position)
        # First tokens take the first numbers, so that they are the same whatever is searched after them.
        count, ends = _REDRAWS + options.inner, self._target.ends
        uniforms = [streams.uniforms(run_seed, count, "prompts", prompt.seed.uid, position) for prompt in prompts]
        known = [dict.fromkeys(ends, True) for _ in prompts]
        draws = laws / options.content_temperature
        firsts = [[drawn(law, float(own[0]))] for law, own in zip(draws, uniforms, strict=True)]
        self._try_out(prompts, known, firsts)
        rows = zip(prompts, laws, draws, uniforms, known, strict=True)
        found = [self._first(*row) for row in rows]
        if options.w2 > 0:
            self._search(prompts, found, refusal)
        for prompt, token in zip(prompts, found, strict=True):
            if token is None:
                prompt.stopped_by = "no_candidate"
            elif token.current in self._target.ends:
                prompt.stopped_by = "end"
            else:
                prompt.ids.append(token.current)
                prompt.logprobs.append(float(token.law[token.current]))
                prompt.refusal = token.scores.get(token.current, prompt.refusal)
                if (
                    options.at_saturation == "stop"
                    and self._saturated(prompt.refusal)
                    and position + 1 >= options.min_tokens
                ):
                    prompt.stopped_by = "saturation"
        return [-1 if token is None else token.current for token in found]

    def _lawful(self, laws: Tensor, position: int) -> Tensor:
        """Laws of the content model, -inf where a token must not stand."""
        options, ends = self._options, list(self._target.ends)
        lawful = laws.masked_fill(~self._allowed, -math.inf)
        if position >= options.min_tokens:
            lawful[:, ends] = laws[:, ends]
        if options.w2 > 0 and options.floor is not None:
            # Where nothing is above the floor, the likeliest token is all there is.
            least = lawful.amax(dim=-1, keepdim=True).clamp(max=options.floor)
            lawful = lawful.masked_fill(lawful < least, -math.inf)
        return lawful

    def _try_out(
        self, prompts: Sequence[_Prompt], known: Sequence[dict[int, bool]], tokens: Sequence[Sequence[int]]
    ) -> None:
        """Find out at once, for all prompts, with which of some tokens each is read back as it was written."""
        rows = zip(prompts, known, tokens, strict=True)
        untried = [(own, prompt.ids, one) for prompt, own, some in rows for one in some if one not in own]
        kept = self._target.chat.keep([(*ids, one) for _, ids, one in untried])
        for (own, _, one), good in zip(untried, kept, strict=True):
            own[one] = good

    def _first(
        self, prompt: _Prompt, law: Tensor, draws: Tensor, uniforms: np.ndarray, known: dict[int, bool]
    ) -> _Token | None:
        """The next token as the content model draws it; ``None`` where it draws none that may stand there."""
        trying = draws.clone()
        for uniform in uniforms[:_REDRAWS]:
            if not bool((trying > -math.inf).any()):
                return None
            token = drawn(trying, uniform)
            if fitting(self._target, prompt.ids, [token], 1, known):
                return _Token(uniforms, law, token, known)
            trying[token] = -math.inf
        likeliest = fitting(self._target, prompt.ids, ranked(trying, _SEARCHED), 1, known)
        return _Token(uniforms, law, likeliest[0], known) if likeliest else None

    def _search(self, prompts: Sequence[_Prompt], found: Sequence[_Token | None], refusal: RefusalContext) -> None:
        """Replace the first tokens by candidates of which the refusal is likelier."""
        options = self._options
        tokens = {row: token for row, token in enumerate(found) if token is not None}
        for row, token in tokens.items():
            # A prompt that ends here has been scored already.
            token.scores = dict.fromkeys(self._target.ends, prompts[row].refusal)
        sure = {row: token for row, token in tokens.items() if self._saturated(prompts[row].refusal)}
        self._score(prompts, sure, {row: [token.current] for row, token in sure.items()}, refusal)
        for token in sure.values():
            token.settled = self._saturated(token.scores[token.current])
        for iteration in range(options.inner):
            open_ones = {row: token for row, token in tokens.items() if not token.settled}
            if not open_ones:
                return
            firsts = self._preselect(open_ones, refusal)
            ranks = {row: self._ranked(token, firsts[row]) for row, token in open_ones.items()}
            best = [some[: options.width] for some in ranks.values()]
            self._try_out([prompts[row] for row in ranks], [token.known for token in open_ones.values()], best)
            wanted = {row: self._candidates(prompts[row], token, ranks[row]) for row, token in open_ones.items()}
            if iteration:
                # Without a new candidate another draw would follow the same law.
                for row, token in open_ones.items():
                    token.settled = not set(wanted[row]) - token.scores.keys()
                open_ones = {row: token for row, token in open_ones.items() if not token.settled}
                wanted = {row: wanted[row] for row in open_ones}
            self._score(prompts, open_ones, wanted, refusal)
            for token in open_ones.values():
                self._draw(token, float(token.uniforms[_REDRAWS + iteration]))

    def _preselect(self, tokens: dict[int, _Token], refusal: RefusalContext) -> dict[int, Tensor]:
        """Scores of all ids by which candidates are chosen, ``[vocabulary]`` each."""
        if self._options.preselection == "gradient":
            # In the place of an end token stands the likeliest word, which the target can read there.
            words = {row: self._word(token) for row, token in tokens.items()}
            slopes = refusal.gradients(list(words), list(words.values()))
            return {
                row: token.law + self._options.w1 * slope[: len(token.law)]
                for (row, token), slope in zip(tokens.items(), slopes, strict=True)
            }
        if self._heard is None:
            return {row: token.law for row, token in tokens.items()}
        return {row: token.law + self._options.w1 * self._heard for row, token in tokens.items()}

    def _word(self, token: _Token) -> int:
        if token.current not in self._target.ends:
            return token.current
        return int(token.law.masked_fill(~self._allowed, -math.inf).argmax())

    def _ranked(self, token: _Token, first: Tensor) -> list[int]:
        """The words that score highest."""
        words = first.masked_fill(~self._allowed | (token.law == -math.inf), -math.inf)
        return ranked(words, _DEPTH * self._options.width)

    def _candidates(self, prompt: _Prompt, token: _Token, best: Sequence[int]) -> list[int]:
        """The current token, the end where there may be one, and the best words that fit."""
        ends = [one for one in self._target.ends if float(token.law[one]) > -math.inf]
        return [token.current, *ends, *fitting(self._target, prompt.ids, best, self._options.width, token.known)]

    def _score(
        self,
        prompts: Sequence[_Prompt],
        tokens: dict[int, _Token],
        wanted: dict[int, list[int]],
        refusal: RefusalContext,
    ) -> None:
        """Have the target read what it has not read yet, of all prompts together."""
        asked = [(row, one) for row, some in wanted.items() for one in sorted(set(some) - tokens[row].scores.keys())]
        if not asked:
            return
        values = refusal.scores([row for row, _ in asked], [one for _, one in asked])
        for (row, one), value in zip(asked, values, strict=True):
            tokens[row].scores[one] = value
            prompts[row].candidates += 1

    def _draw(self, token: _Token, uniform: float) -> None:
        """Choose among the candidates; it is settled where the best one has been the best before, or stands there."""
        options = self._options
        ids = sorted(one for one in token.scores if float(token.law[one]) > -math.inf)
        values = torch.tensor([token.scores[one] for one in ids], dtype=torch.float64)
        fine = options.w2 * values + token.law[ids]
        best = ids[int(fine.argmax())]
        token.settled = best in token.visited or best == token.current
        token.visited.add(best)
        scaled = fine / options.temperature if options.temperature > 0 else fine
        token.current = ids[drawn(scaled - scaled.max(), uniform)] if options.temperature > 0 else best

    def _saturated(self, logprob: float) -> bool:
        return self._options.saturation is not None and logprob >= self._options.saturation

    def _finished(self, prompt: _Prompt) -> Generated:
        ids, logprobs = tuple(prompt.ids), tuple(prompt.logprobs)
        return Generated(
            uid=prompt.seed.uid,
            seed_text=prompt.seed.text,
            prompt=self._target.chat.text(ids),
            ids=ids,
            refusal_logprob=prompt.refusal,
            content_logprobs=logprobs,
            perplexity=math.exp(-sum(logprobs) / len(logprobs)) if logprobs else math.inf,
            candidates=prompt.candidates,
            stopped_by=prompt.stopped_by or "length",
        )


def generate(
    target: Target,
    refusal: Refusal,
    seeds: Sequence[Seed],
    options: GeneratorOptions,
    run_seed: int,
    scan: Sequence[HeardWord] = (),
) -> list[Generated]:
    """A prompt for each seed: see :class:`Generator`, whose errors it raises."""
    return Generator(target, refusal, options, scan).write(seeds, run_seed)
