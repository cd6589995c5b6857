"""Knobs of the generator."""

from dataclasses import dataclass
from typing import Literal

from rayworks.core.errors import ConfigError

Preselection = Literal["scan", "gradient", "content"]


@dataclass(frozen=True)
class GeneratorOptions:
    """How prompts are written; :class:`ConfigError` where a value is outside its bounds."""

    w1: float = 1.0
    """Of the refusal in the score by which tokens become candidates."""
    w2: float = 1.5
    """Of the refusal in the score of candidates; 0 writes plain paraphrases."""
    floor: float | None = -9.0
    """Least log-probability of a token under the content model, in nats; ``None``: no bound."""
    width: int = 8
    """Most candidates of an iteration, besides the token drawn first."""
    inner: int = 2
    """Most iterations of a token; only preselection by gradient has new candidates after the first."""
    temperature: float = 0.5
    """Of the draw among candidates; 0 takes the best."""
    content_temperature: float = 0.4
    """Of the draw from the content model, before candidates and where the refusal is saturated."""
    min_tokens: int = 4
    """Of a prompt, before it may end."""
    max_tokens: int = 24
    preselection: Preselection = "scan"
    """By the vocabulary scan, by the gradient, or by the content model alone."""
    mean: bool = False
    """Score the mean over the refusal's tokens, not their sum."""
    saturation: float | None = -0.7
    """Log-probability of the refusal from which on a token drawn from the content model is taken as it is."""
    at_saturation: Literal["finish", "stop"] = "finish"
    """What happens to a prompt from there on: it is written to its end, or ends at once."""
    ascii_only: bool = True
    together: int = 16
    """Most prompts in lock-step; they are no more than the target's slots."""
    rows: int = 128
    """Most candidates of a forward."""

    def __post_init__(self) -> None:
        least = {"w1": 0, "w2": 0, "temperature": 0, "width": 1, "inner": 1, "min_tokens": 1, "together": 1, "rows": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ConfigError(f"{name}: is {getattr(self, name)}, must be at least {bound}")
        if self.content_temperature <= 0:
            raise ConfigError(f"content_temperature: is {self.content_temperature}, must be above 0")
        if self.max_tokens < self.min_tokens:
            raise ConfigError(f"max_tokens: is {self.max_tokens}, must be at least min_tokens {self.min_tokens}")
        if self.floor is not None and self.floor >= 0:
            raise ConfigError(f"floor: is {self.floor}, must be below 0, the log-probability of a token")
        if self.preselection not in ("scan", "gradient", "content"):
            raise ConfigError(f"preselection: is {self.preselection!r}, must be scan, gradient or content")
        if self.at_saturation not in ("finish", "stop"):
            raise ConfigError(f"at_saturation: is {self.at_saturation!r}, must be finish or stop")
