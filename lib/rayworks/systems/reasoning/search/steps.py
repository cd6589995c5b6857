"""Where a step ends: the options of the search over token ids (arXiv 2404.12253, section 4.2)."""

import re
from collections.abc import Sequence
from functools import lru_cache

from transformers import PreTrainedTokenizerBase


class StepEnds:
    """Finds the end of the first step of a completion.

    Args:
        end: text that ends a step, at the first place where something else stands before it.
        pattern: regular expression that a step must contain to end there; the step goes on where it does not.
        most: tokens of a step; a longer one is cut into steps of so many.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end: str, pattern: str | None, most: int) -> None:
        self._tokenizer, self._end, self._most = tokenizer, end, most
        self._pattern = None if pattern is None else re.compile(pattern)
        self._may_end = lru_cache(maxsize=None)(self._holds_the_last_of_it)

    def first(self, tokens: Sequence[int]) -> int:
        """How many tokens the first step has, its end text included; as many as may be, where none ends within them."""
        return self.find(tokens) or min(len(tokens), self._most)

    def find(self, tokens: Sequence[int]) -> int | None:
        """The same, ``None`` where no step ends."""
        for count, token in enumerate(tokens[: self._most], 1):
            if self._may_end(token) and self._is_step(self._tokenizer.decode(tokens[:count], skip_special_tokens=True)):
                return count
        return None

    def _holds_the_last_of_it(self, token: int) -> bool:
        return self._end[-1] in self._tokenizer.decode([token])

    def _is_step(self, text: str) -> bool:
        step = text.lstrip()
        if not step or self._end not in step:
            return False
        return self._pattern is None or self._pattern.search(step) is not None
