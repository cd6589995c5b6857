"""Whether boosting will help, told after a few rounds by what can be seen without test labels."""

from dataclasses import dataclass

from rayworks.systems.supervision.boosting.chain import Chain

ROUNDS = 5
"""After which it is told."""
LOW_ERROR = 0.06
COLLAPSED = 0.1
ALIKE = 0.6
"""Limits measured on headlines and reviews; see docs/supervision.md."""


@dataclass(frozen=True)
class Verdict:
    """Yes or no, and why."""

    helps: bool
    reason: str


def verdict(chain: Chain, correlation: float | None, single: float, ensemble: float) -> Verdict:
    """What the first :data:`ROUNDS` rounds say.

    Args:
        chain: of boosting.
        correlation: mean, of the experts' errors on validation; None: they cannot be compared.
        single: accuracy on validation of the first expert alone.
        ensemble: that of the first rounds together.
    """
    first = chain.rounds[0]
    if len(chain.kept) < 2:
        return Verdict(False, chain.ended or "no second expert is better than chance")
    share = chain.kept[min(ROUNDS, len(chain.kept)) - 1].effective_share
    seen = f"first error {first.error:.3f}, effective share {share:.2f}"
    if first.error < LOW_ERROR and share < COLLAPSED:
        return Verdict(False, f"experts fit what they learn from and the sample collapses ({seen})")
    if share < 0.01:
        return Verdict(False, f"the sample collapses ({seen})")
    if correlation is not None:
        seen += f", error correlation {correlation:.2f}"
        if correlation > ALIKE:
            return Verdict(False, f"experts err alike ({seen})")
    if ensemble < single:
        return Verdict(
            False, f"together they are worse than the first on validation, {ensemble:.3f} against {single:.3f} ({seen})"
        )
    return Verdict(True, seen)
