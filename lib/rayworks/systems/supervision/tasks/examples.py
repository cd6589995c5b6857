"""Examples of tasks whose answers are texts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class TextExample:
    """A prompt and the text that answers it."""

    uid: str
    prompt: str
    answer: str
    """As it follows the prompt, a leading space included where there is one."""
    options: tuple[str, ...] = ()
    """The answers to choose from, the right one among them; empty: any text."""
    columns: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """What else is said about it, such as its hardness."""
