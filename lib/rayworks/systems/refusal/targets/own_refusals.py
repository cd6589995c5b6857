"""How a model refuses: what its own refusals have in common at their beginning, and where replies differ from it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rayworks.core import seeds
from rayworks.core.errors import DataError
from rayworks.systems.refusal.targets.opening import Target

IsRefusal = Callable[[str], bool]
"""Of a reply."""
_COMMON = 0.05
"""Share of ordinary replies that have to begin as a refusal does, to count as beginning alike."""


@dataclass(frozen=True)
class Refusal:
    """The beginning of a refusal, towards which prompts are written."""

    text: str
    ids: tuple[int, ...]
    scored: int
    """How many of the ids are scored: up to the first that ordinary replies do not begin with, or all."""
    share: float
    """Of the refusals that were seen, how many begin so."""

    @property
    def target(self) -> tuple[int, ...]:
        """The ids that are scored."""
        return self.ids[: self.scored]


def given_refusal(target: Target, text: str, ordinary: Sequence[Sequence[int]] = ()) -> Refusal:
    """A refusal that is known, scored up to where ``ordinary`` replies, as ids, differ; :class:`DataError` if empty."""
    ids = target.chat.tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise DataError("refusal: is an empty text; give the beginning of a refusal")
    return Refusal(text, tuple(ids), divergent(ids, ordinary), 1.0)


def own_refusal(
    target: Target,
    requests: Sequence[str],
    is_refusal: IsRefusal,
    *,
    ordinary: Sequence[str] = (),
    shortest: int = 5,
    longest: int = 10,
    samples: int = 3,
    kept: float = 0.8,
    seed: int = 0,
) -> Refusal:
    """The most frequent beginning of the model's own refusals.

    Args:
        requests: to try; the likeliest reply to each and some drawn ones are looked at.
        ordinary: requests that it answers, to see by which token refusals differ.
        shortest: tokens of the beginning, where refusals have as many.
        longest: most tokens; it grows from the shortest as long as ``kept`` of the refusals that begin so go on alike.

    Raises:
        DataError: it refuses none of the requests, or there is none.
    """
    if not requests:
        raise DataError("requests: none to try; give some that the model refuses")
    length = 2 * longest + 8
    found = target.replies(requests, length)
    for number in range(samples):
        drawn = seeds.derive_small(seed, "own refusals", number)
        found += target.replies(requests, length, temperature=1.0, seed=drawn)
    refused = [reply.token_ids for reply in found if is_refusal(reply.text)]
    if not refused:
        raise DataError(
            f"target {target.name!r}: refused none of {len(requests)} requests in {len(found)} replies; it may never "
            "refuse: give the text of a refusal, or requests that it refuses"
        )
    best, count = Counter(ids[:shortest] for ids in refused).most_common(1)[0]
    for size in range(shortest + 1, longest + 1):
        longer = Counter(ids[:size] for ids in refused if ids[: len(best)] == best and len(ids) >= size)
        if not longer or longer.most_common(1)[0][1] < kept * count:
            break
        best = longer.most_common(1)[0][0]
    answered = [reply.token_ids for reply in target.replies(ordinary, length) if not is_refusal(reply.text)]
    text = target.tokenizer.decode(list(best), clean_up_tokenization_spaces=False)
    return Refusal(text, best, divergent(best, answered), count / len(refused))


def divergent(refusal: Sequence[int], ordinary: Sequence[Sequence[int]]) -> int:
    """How many ids it takes to tell a refusal from ordinary replies; all of them where there are no replies to compare."""
    if not ordinary:
        return len(refusal)
    for count in range(1, len(refusal)):
        alike = sum(list(reply[:count]) == list(refusal[:count]) for reply in ordinary)
        if alike <= _COMMON * len(ordinary):
            return count
    return len(refusal)
