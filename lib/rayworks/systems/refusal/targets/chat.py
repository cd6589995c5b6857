"""The chat around a user's turn, as ids that stand before and after whatever the user says."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from rayworks.core.errors import DataError
from rayworks.lm.prefix_tree import agreeing

_MARKER = "MARKER7319"
_ROLES = ("user", "assistant")
_PROBES = ("how do i open the window", "What is a kettle", "the engine", "12 plus 7")
"""Texts of different beginnings and ends."""


@dataclass(frozen=True)
class Chat:
    """A tokenizer, and the ids before and after a user's words, up to where the reply begins."""

    tokenizer: PreTrainedTokenizerBase
    before: tuple[int, ...]
    after: tuple[int, ...]
    system: str | None = None

    def around(self, words: Sequence[int]) -> tuple[int, ...]:
        """The whole prompt of a user's words."""
        return (*self.before, *words, *self.after)

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of a user's words, as they are inside the chat; :class:`DataError` where they melt into what is around them."""
        whole = _ids(self.tokenizer, _rendered(self.tokenizer, _asked(text), self.system))
        words = whole[len(self.before) : len(whole) - len(self.after)]
        if self.around(words) != whole:
            raise DataError(
                f"prompt {text[:40]!r}: its tokens change inside the model's chat; trim it, or choose another model"
            )
        return words

    def text(self, words: Sequence[int]) -> str:
        """What a user would type."""
        return str(self.tokenizer.decode(list(words), clean_up_tokenization_spaces=False)).strip()

    def continued(self, turns: Sequence[tuple[str, str]], text: str) -> tuple[int, ...]:
        """Ids of a chat in which the model has answered so far, up to where it answers ``text``."""
        said = [{"role": role, "content": part} for turn in turns for role, part in zip(_ROLES, turn, strict=True)]
        return _ids(self.tokenizer, _rendered(self.tokenizer, [*said, {"role": "user", "content": text}], self.system))

    def keep(self, words: Sequence[Sequence[int]]) -> list[bool]:
        """Of each sequence of ids, whether the model would read just these ids if a user typed what they say."""
        if not words:
            return []
        rendered = [_rendered(self.tokenizer, _asked(self.text(ids)), self.system) for ids in words]
        found = self.tokenizer(rendered, add_special_tokens=False)["input_ids"]
        return [tuple(ids) == self.around(own) for ids, own in zip(found, words, strict=True)]


def chat_around(tokenizer: PreTrainedTokenizerBase, system: str | None = None) -> Chat:
    """Split a tokenizer's chat template at the user's words.

    Args:
        system: the system prompt; ``None`` leaves it to the template.

    Raises:
        DataError: there is no template, it changes the user's words or refuses the system prompt, or the tokenizer does
            not give back the ids that it made.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise DataError("model: its tokenizer has no chat template; choose a model tuned to chat")
    seen = _rendered(tokenizer, _asked(_MARKER), system).count(_MARKER)
    if seen != 1:
        raise DataError(
            f"model: its chat template changes or repeats the user's words, found {seen} times; choose another"
        )
    # A word may take the space before it along, so the parts are what whole chats have in common.
    rows = [_ids(tokenizer, _rendered(tokenizer, _asked(probe), system)) for probe in _PROBES]
    before = rows[0][: min(agreeing(rows[0], row) for row in rows[1:])]
    rest = [row[len(before) :][::-1] for row in rows]
    after = rest[0][: min(agreeing(rest[0], row) for row in rest[1:])][::-1]
    chat = Chat(tokenizer, before, after, system)
    for row, probe in zip(rows, _PROBES, strict=True):
        # A tokenizer of few words cannot be tried with those that it lacks.
        if tokenizer.unk_token_id not in row and not chat.keep([chat.encode(probe)])[0]:
            raise DataError(f"model: its tokenizer does not give back {probe!r} inside its chat; choose another model")
    return chat


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], system: str | None) -> str:
    first = [{"role": "system", "content": system}] if system is not None else []
    try:
        return str(tokenizer.apply_chat_template([*first, *messages], tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a template raises what it likes
        raise DataError(
            f"model: its chat template refuses the conversation ({error}); leave out the system prompt"
        ) from None
