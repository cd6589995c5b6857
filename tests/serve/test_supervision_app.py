"""The supervision application over real HTTP on the shared cluster, against the library's own answers."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from rayworks.core.errors import DataError
from rayworks.systems.supervision.exported import ExportedEnsemble, read_export
from serve.apps.supervision_schemas import MOST_CHARACTERS, MOST_TEXTS
from tests.serve.deployment import Deployment
from tests.small_headlines import headlines

NARROW = "supervision-narrow"
TEXTS, _ = headlines(24, seed=5)
Send = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def exported(deployment: Deployment) -> ExportedEnsemble:
    """Five trees."""
    return read_export(deployment.folder / "supervision" / "voting")


@pytest.fixture
def send(deployment: Deployment) -> Send:
    """Posts to the one route."""

    def send(app: str = "supervision", key: str = "tester", **body: Any) -> httpx.Response:
        return deployment.ask(app, "v1/supervision/label", key, **body)

    return send


def found(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    values: dict[str, Any] = answer.json()
    return values


def test_labels_are_those_of_the_library(exported: ExportedEnsemble, send: Send) -> None:
    answer = found(send(texts=TEXTS, votes=True))
    assert answer["experts"] == 5
    assert answer["abstained"] == 0
    for one, expected in zip(answer["labels"], exported.label(TEXTS), strict=True):
        assert one["label"] == expected.label == max(one["probabilities"], key=one["probabilities"].__getitem__)
        assert one["probabilities"] == pytest.approx(expected.probabilities)
        assert [vote["label"] for vote in one["votes"]] == expected.votes
        assert [vote["weight"] for vote in one["votes"]] == pytest.approx(
            np.array(exported.alphas) / sum(exported.alphas)
        )
        agreeing = sum(vote["weight"] for vote in one["votes"] if vote["label"] == one["label"])
        assert one["agreement"] == pytest.approx(agreeing)
        masses = [mass for mass in one["probabilities"].values() if mass]
        assert one["entropy"] == pytest.approx(-sum(mass * np.log(mass) for mass in masses))


def test_a_text_has_the_same_label_whatever_is_asked_beside_it(send: Send) -> None:
    together = found(send(texts=TEXTS))["labels"]
    with ThreadPoolExecutor(8) as pool:
        alone = list(pool.map(lambda text: found(send(texts=[text]))["labels"][0], TEXTS))
    assert together == alone
    assert together[0]["votes"] is None


def test_experts_abstain_where_they_disagree(exported: ExportedEnsemble, send: Send) -> None:
    agreements = [one.agreement for one in exported.label(TEXTS)]
    assert min(agreements) < 1
    threshold = float(np.median(agreements))
    answer = found(send(texts=TEXTS, abstain_below=threshold))
    silent = [one["label"] is None for one in answer["labels"]]
    assert silent == [agreement < threshold for agreement in agreements]
    assert answer["abstained"] == sum(silent)
    # One expert agrees with itself, whatever the application's own threshold is.
    assert found(send(NARROW, texts=TEXTS))["abstained"] == 0


def test_what_is_unknown_has_a_label_too(send: Send) -> None:
    answer = found(send(texts=["?", "nothing of this was ever seen"]))
    assert all(np.isfinite(list(one["probabilities"].values())).all() for one in answer["labels"])


def test_adapters_of_a_trusted_base_label(deployment: Deployment, send: Send) -> None:
    trusted = [f"{deployment.folder / 'supervision' / 'tiny'}@2"]
    exported = read_export(deployment.folder / "supervision" / "adapters", trusted)
    answer = found(send("supervision-adapters", texts=TEXTS))
    expected = exported.label(TEXTS)
    assert [one["label"] for one in answer["labels"]] == [one.label for one in expected]
    for one, other in zip(answer["labels"], expected, strict=True):
        assert one["probabilities"] == pytest.approx(other.probabilities, abs=1e-5)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"texts": []}, "texts"),
        ({"texts": [""]}, "texts"),
        ({"texts": ["a"] * (MOST_TEXTS + 1)}, "texts"),
        ({"texts": ["a" * (MOST_CHARACTERS + 1)]}, "texts"),
        ({"texts": ["a"], "abstain_below": 1.5}, "abstain_below"),
        ({"texts": ["a"], "labels": 3}, "labels"),
    ],
)
def test_bad_requests_name_the_field(send: Send, body: dict[str, Any], word: str) -> None:
    answer = send(**body)
    assert answer.status_code == 422
    assert word in answer.text


def test_features_of_a_user_must_be_named(deployment: Deployment, tmp_path: Any) -> None:
    folder = tmp_path / "export"
    shutil.copytree(deployment.folder / "supervision" / "voting", folder)
    (folder / "features.json").write_text(json.dumps({"name": "os.path:exists"}))
    with pytest.raises(DataError, match="name them in trusted"):
        read_export(folder)
