"""Proportions and paired counts: Wilson's interval, McNemar's exact test and its power, Cohen's kappa."""

from collections.abc import Sequence

import numpy as np

WILSON = 1.959963984540054


def wilson(successes: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % score intervals of proportions (Wilson 1927); 0 to 1 where nothing was counted."""
    n = np.maximum(count, 1e-12)
    p = successes / n
    centre = (p + WILSON**2 / (2 * n)) / (1 + WILSON**2 / n)
    reach = WILSON * np.sqrt(p * (1 - p) / n + WILSON**2 / (4 * n**2)) / (1 + WILSON**2 / n)
    return np.clip(centre - reach, 0, 1), np.clip(centre + reach, 0, 1)


def wilson_of_groups(successes: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion whose cases come in groups that are alike, such as texts by one source.

    The cases count as so many independent ones as have the variance of the ratio over groups, corrected for few groups
    (Korn and Graubard 1998): never as more than there are, and where none or all succeed, which tells nothing of how alike
    they are, as no more than the groups. In simulations with a correlation of .3 to .7 within 12 or more groups it covers
    .91 to .96; within 6 to 10, of shares of .1 or .2, .86 to .90.

    Args:
        successes: of each group, shape (G,), those without a case left out.
        counts: cases of each group, shape (G,), at least 1.
    """
    from scipy.special import stdtrit

    groups, total = len(counts), float(counts.sum())
    share, effective = float(successes.sum()) / max(total, 1.0), min(total, float(groups))
    if groups >= 2 and not (counts == 1).all():
        variance = groups / (groups - 1) * float(((successes - share * counts) ** 2).sum()) / total**2
        independent = float(groups)
        if 0 < share < 1:
            independent = share * (1 - share) / variance if variance > 0 else total
        few = (float(stdtrit(total - 1, 0.975)) / float(stdtrit(groups - 1, 0.975))) ** 2
        effective = min(total, independent * few)
    low, high = wilson(np.array(effective * share), np.array(effective))
    return float(low), float(high)


def mcnemar_of_groups(changes: np.ndarray) -> tuple[float, float]:
    """McNemar's exact test of pairs that come in groups which may change together, such as prompts from one seed.

    If neither run is worse, each group's net change is as likely with the other sign: the distribution of their sum over all
    signs is exact. With one pair a group this is McNemar's binomial test.

    Args:
        changes: of each group, shape (G,): pairs that changed one way less those that changed the other, whole numbers.

    Returns:
        p one-sided, of at least this sum; p two-sided.
    """
    sizes = np.abs(changes[changes != 0]).astype(int)
    chances = np.ones(1)
    for size, count in zip(*np.unique(sizes, return_counts=True), strict=True):
        for _ in range(count):
            shifted = np.zeros(len(chances) + size)
            shifted[: len(chances)] += chances / 2
            shifted[size:] += chances / 2
            chances = shifted
    place = int(sizes.sum() + changes.sum()) // 2
    upper, lower = min(1.0, float(chances[place:].sum())), min(1.0, float(chances[: place + 1].sum()))
    return upper, min(1.0, 2 * min(upper, lower))


def mcnemar_power(pairs: int, gain: float, loss: float, alpha: float, least: float) -> float:
    """Chance that McNemar's exact test is at most ``alpha`` one-sided and the net share gained at least ``least``; exact.

    Args:
        pairs: compared.
        gain: chance that a pair changes one way.
        loss: chance that it changes the other way.
    """
    from scipy.special import bdtr
    from scipy.stats import binom

    if not pairs or gain + loss <= 0:
        return 0.0
    changed = np.arange(pairs + 1)[:, None]
    changed = changed[binom.sf(changed[:, 0] - 1, pairs, gain + loss) > 1e-12]
    gained = np.arange(int(changed.max()) + 1)[None, :]
    lost = changed - gained
    alarm = (
        (lost >= 0) & ((gained - lost) / pairs >= least - 1e-12) & (bdtr(np.maximum(lost, 0), changed, 0.5) <= alpha)
    )
    chance = binom.pmf(changed, pairs, gain + loss) * binom.pmf(gained, changed, gain / (gain + loss))
    return float(chance[alarm].sum())


def kappa(table: np.ndarray) -> np.ndarray:
    """Cohen's kappa of counts by two raters, shape (..., K, K); 0 where neither rater distinguishes anything."""
    table = np.asarray(table, float)
    total = np.maximum(table.sum((-2, -1)), 1e-12)
    agreed = np.trace(table, axis1=-2, axis2=-1) / total
    expected = (table.sum(-1) * table.sum(-2)).sum(-1) / total**2
    return np.where(expected < 1 - 1e-12, (agreed - expected) / np.maximum(1 - expected, 1e-12), 0.0)


def cross_table(first: Sequence[str], second: Sequence[str], kinds: Sequence[str]) -> np.ndarray:
    """How often one rater says a kind and the other one another, shape (K, K)."""
    place = {kind: number for number, kind in enumerate(kinds)}
    table = np.zeros((len(kinds), len(kinds)))
    for one, other in zip(first, second, strict=True):
        table[place[one], place[other]] += 1
    return table
