"""What clients disclose beside their updates: the formal guarantee of encodings, and attacks on them."""

import math
from typing import Any

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from rayworks.core.seeds import stream
from rayworks.systems.federation.config import Config, MixupSection
from rayworks.systems.federation.data.examples import Examples, scaled
from rayworks.systems.federation.data.mixup_encodings import draw_mixtures, encode
from rayworks.systems.federation.images.noise_images import noise_images
from rayworks.systems.federation.privacy import decoding_attacks, mixing_accountant
from rayworks.systems.federation.rounds.clients import Client, Task
from rayworks.systems.federation.rounds.pool_exchange import Demand, demand

ATTACKED = 300
"""Encodings that each attack tries."""
LEAST_FITTED, MOST_FITTED = 2000, 5000
"""Others from which the linear decoder is fitted: five for each value of an input, within these bounds."""
PAIR_CANDIDATES = 200


def shared_by_owner(wanted: Demand, shape: tuple[int, int]) -> NDArray[np.int64]:
    """``(C, K)`` encodings of each label that each client gives away in one edition of the pool."""
    released = np.zeros(shape, np.int64)
    np.add.at(released, (wanted.orders[:, 0], wanted.orders[:, 2]), wanted.orders[:, 3])
    return released


def disclosure(config: Config, task: Task) -> dict[str, Any]:
    """Epsilon of the client that loses most, its statement, and what attacks on its encodings find.

    Returns:
        plain values: ``epsilon`` (None where it is infinite, as with FedMix, whose means carry no noise), ``statement``,
        ``encodings``, ``attacks``, the label counts ``owned`` and ``filled`` (C, K) before and after; for uniform mixtures
        under Laplace noise also ``with replacement``: epsilon had partners been drawn so.
    """
    owned = np.stack([task.train.take(part).counts() for part in task.parts])
    described = np.stack([Client(task, at, RecordDict()).counts() for at in range(len(task.parts))])
    wanted = demand(config, described, task.seed)
    refresh = config.balance.refresh
    editions = -(-config.strategy.rounds // refresh) if refresh else 1
    released = editions * shared_by_owner(wanted, owned.shape)
    features = int(np.prod(task.shape))
    reach = _distance(config, features)
    promises = [
        mixing_accountant.guarantee(counts, shared, config.mixup, features, config.privacy.delta, distance=reach)
        for counts, shared in zip(owned, released, strict=True)
    ]
    worst = max(range(len(promises)), key=lambda at: promises[at].total)
    found = promises[worst]
    means = config.local.objective == "fedmix"
    filled = owned + wanted.local + wanted.noise + wanted.copies
    np.add.at(filled, (wanted.orders[:, 1], wanted.orders[:, 2]), wanted.orders[:, 3])
    result: dict[str, Any] = {
        "epsilon": found.total if math.isfinite(found.total) and not means else None,
        "statement": _statement(config, found),
        "client": worst,
        "encodings": found.encodings,
        "attacks": _attacks(config, task, worst, found),
        "owned": owned.tolist(),
        "filled": filled.tolist(),
    }
    if config.mixup.weights == "uniform" and config.mixup.noise == "laplace":
        total = max(
            mixing_accountant.total_with_replacement(counts, shared, config.mixup, features, distance=reach)
            for counts, shared in zip(owned, released, strict=True)
        )
        result["with replacement"] = total if math.isfinite(total) else None
    return result


def _distance(config: Config, features: int) -> float | None:
    """The largest distance of two examples, where it is known to be below that of any values in [0, 1].

    Hashed reviews are not negative and have an l2 norm of at most 1, so two are at most the root of 2 apart, and ``sqrt(F)``
    times that in l1.
    """
    if config.data.source != "clothing-departments":
        return None
    return math.sqrt(2) if config.mixup.noise == "gaussian" else math.sqrt(2 * features)


def _statement(config: Config, found: mixing_accountant.Guarantee) -> str:
    """All that clients send beside the model, in sentences."""
    means = config.local.objective == "fedmix"
    sentences = [] if means and not found.encodings else [mixing_accountant.statement(found)]
    if means:
        sentences.append(
            f"Means of {config.local.fedmix_batch} examples and of their labels are shared without noise, so epsilon is "
            "infinite."
        )
    noise = config.privacy.histogram_epsilon
    counts = f"Label counts are sent with epsilon {noise:g}" if noise else "Label counts are sent exactly"
    sentences.append(f"{counts}, and every training reply carries the exact number of examples.")
    if noise and not any(mixing_accountant.SEED_SCOPE in said for said in sentences):
        sentences.append(mixing_accountant.SEED_SCOPE)
    return " ".join(sentences)


def samples(config: Config, task: Task, count: int) -> dict[str, NDArray[np.float32]]:
    """Examples to look at, ``(count, ...)`` in [0, 1]: real ones of all clients, their mixups, noise images.

    Real ones come more than once where there are fewer.
    """
    draw = stream(task.seed, "samples")
    real = task.train.take(np.sort(draw.choice(len(task.train), count, replace=count > len(task.train))))
    owners, mixups = [part for part in task.parts if len(part)], []
    for number in range(count):
        own = task.train.take(owners[number % len(owners)])
        label = int(own.labels[number % len(own)])
        mixups.append(encode(own, label, 1, config.mixup, stream(task.seed, "samples", "mixup", number))[0])
    return {
        "real": scaled(real.inputs),
        "mixups": np.concatenate(mixups),
        "noise": scaled(noise_images(config.noise, count, task.shape, task.seed, "samples")),
    }


def _attacks(config: Config, task: Task, client: int, found: mixing_accountant.Guarantee) -> dict[str, float]:
    """On encodings of the client's most frequent label by an attacker who knows all of its examples but which were mixed."""
    own = task.train.take(task.parts[client])
    if not found.encodings or len(own) < 2:
        return {}
    label = int(own.counts().argmax())
    candidates = scaled(own.inputs).reshape(len(own), -1)
    features = candidates.shape[1]
    fitted = min(max(5 * features, LEAST_FITTED), MOST_FITTED)
    sources, seen = _known(own, label, config.mixup, task.seed, fitted + ATTACKED)
    originals = candidates[sources[:, 0]]
    known, attacked = (seen[:fitted], originals[:fitted]), (seen[fitted:], originals[fitted:])
    found_again = decoding_attacks.reidentification_rate(attacked[0], candidates, sources[fitted:])
    decoder = "best linear decoder" if fitted > 4 * features else "linear decoder"
    rates = {
        "sources re-identified, nearest of all": found_again,
        "by chance": sources.shape[1] / len(own),
        f"{decoder}, PSNR dB": decoding_attacks.linear_decoder_psnr(known, attacked),
        "guessing the mean image, PSNR dB": decoding_attacks.mean_image_psnr(known[1], attacked[1]),
    }
    few = own.take(np.arange(min(len(own), PAIR_CANDIDATES)))
    label = int(few.counts().argmax())
    pairs, encodings = _known(few, label, config.mixup.model_copy(update={"images": 2}), task.seed, ATTACKED)
    if pairs.shape[1] == 2:
        candidates = scaled(few.inputs).reshape(len(few), -1)
        rates["pairs decoded, if two were mixed"] = decoding_attacks.pair_decoding_rate(encodings, candidates, pairs)
    return rates


def _known(
    own: Examples, label: int, section: MixupSection, seed: int, count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Sources ``(m, k)`` and flat encodings ``(m, F)``: the same generator gives both."""
    path = ("attack", section.images)
    sources = draw_mixtures(own, label, count, section, stream(seed, *path)).sources
    inputs, _ = encode(own, label, count, section, stream(seed, *path))
    return sources, inputs.reshape(len(inputs), -1)
