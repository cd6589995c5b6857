"""Examples of both kinds of tasks: their answer is one of a few classes, or a text."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TextExample:
    """A prompt and the text that answers it."""

    uid: str
    prompt: str
    answer: str
    """As it follows the prompt, a leading space included where there is one."""
    options: tuple[str, ...] = ()
    """The answers to choose from, the right one among them; empty: any text."""
