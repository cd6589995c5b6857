"""The augmentation application over real HTTP on the shared cluster, against the library's own answers."""

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from rayworks.systems.augmentation.exported import read_export
from serve.apps.augmentation_engine import Scoring
from serve.common.pictures import Limits
from tests.serve.deployment import Deployment

LABELS: list[Any] = ["3", {"1": 0.25, "7": 0.75}, "0"]


def ask(deployment: Deployment, app: str, what: str, **body: Any) -> httpx.Response:
    return deployment.ask(f"augmentation-{app}", f"v1/augmentation/{what}", method="POST", **body)


def pixels(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 1, 8, 8)).astype(np.uint8)


def png(image: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(image[0]).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def distributions() -> np.ndarray:
    found = np.zeros((3, 10), np.float32)
    found[0, 3], found[1, 1], found[1, 7], found[2, 0] = 1, 0.25, 0.75, 1
    return found


def test_images_are_predicted_and_scored_as_by_the_library(deployment: Deployment) -> None:
    app, images = "digits", pixels()
    exported = read_export(deployment.folder / "augmentation" / app)
    expected = exported.probabilities(images / np.float32(255))
    scored = exported.score(images / np.float32(255), distributions())
    for body in ({"images": [png(image) for image in images]}, {"pixels": images.tolist()}):
        answers = ask(deployment, app, "predict", top=2, **body).json()["answers"]
        assert [one[0]["label"] for one in answers] == [exported.classes[at] for at in expected.argmax(1)]
        assert answers[0][0]["probability"] == pytest.approx(expected[0].max())
        found = ask(deployment, app, "score", labels=LABELS, **body).json()["scores"]
        assert [one["given"] for one in found] == pytest.approx(scored.given.tolist(), abs=1e-5)
        assert [one["score"] for one in found] == pytest.approx(scored.scores.tolist(), abs=1e-5)
        assert [one["weight"] for one in found] == scored.weights.tolist()
        assert list(found[1]["labels"].values()) == pytest.approx(scored.labels[1].tolist(), abs=1e-5)
        assert sum(found[1]["labels"].values()) == pytest.approx(1)


def test_a_score_is_the_same_whatever_stands_beside_it(deployment: Deployment) -> None:
    images = pixels().tolist()
    together = ask(deployment, "digits", "score", labels=LABELS, pixels=images).json()["scores"]

    def alone(at: int) -> Any:
        return ask(deployment, "digits", "score", labels=[LABELS[at]], pixels=[images[at]]).json()["scores"][0]

    with ThreadPoolExecutor(3) as pool:
        for one, other in zip(pool.map(alone, range(3)), together, strict=True):
            assert one["given"] == pytest.approx(other["given"], abs=1e-5)
            assert one["labels"] == pytest.approx(other["labels"], abs=1e-5)


def test_rows_are_taken_in_their_own_units(deployment: Deployment) -> None:
    exported = read_export(deployment.folder / "augmentation" / "table")
    rows = [list(exported.mean), [one + 3 * other for one, other in zip(exported.mean, exported.spread, strict=True)]]
    found = ask(deployment, "table", "predict", rows=rows).json()["answers"]
    expected = exported.probabilities(np.array(rows))
    assert [one[0]["probability"] for one in found] == pytest.approx(expected.max(1).tolist(), abs=1e-5)
    assert not np.allclose(expected[0], expected[1])


def test_classes_that_are_numbers_may_be_sent_as_numbers(deployment: Deployment) -> None:
    body = {"pixels": pixels(2).tolist()}
    as_words, as_numbers = (
        ask(deployment, "digits", "score", labels=labels, **body) for labels in (["3", "0"], [3, 0])
    )
    assert as_numbers.status_code == 200 and as_numbers.json() == as_words.json()
    for odd in (3.0, True, None, [3]):
        assert ask(deployment, "digits", "score", labels=[odd, 0], **body).status_code == 422


@pytest.mark.parametrize(
    ("app", "what", "body", "says"),
    [
        ("digits", "predict", {}, "exactly one of images and pixels"),
        ("digits", "predict", {"rows": [[1.0]]}, "8 by 8 pixels of 1 channel"),
        ("table", "predict", {"pixels": [[[[1]]]]}, "exactly one of rows"),
        ("table", "predict", {"rows": [[1.0, 2.0]]}, "rows.0: has shape [2]; send 6 features"),
        ("digits", "predict", {"pixels": pixels(1).tolist() * 5}, "at most 4"),
        ("digits", "score", {"pixels": pixels(2).tolist(), "labels": ["3"]}, "1 for 2 samples"),
        ("digits", "score", {"pixels": pixels(1).tolist(), "labels": ["x"]}, "labels.0: 'x' is no class"),
        ("digits", "score", {"pixels": pixels(1).tolist(), "labels": [{"3": 0.5}]}, "sum to 0.5"),
    ],
)
def test_bad_samples_are_named(deployment: Deployment, app: str, what: str, body: dict[str, Any], says: str) -> None:
    answer = ask(deployment, app, what, **body)
    assert answer.status_code == 422
    assert says in answer.text.replace("\\", "")


def test_the_card_says_what_it_is(deployment: Deployment) -> None:
    card = deployment.ask("augmentation-table", "v1/augmentation/card").json()
    assert card["classes"] == ["one", "three", "two"]
    assert (card["kind"], card["shape"], card["noise_auc"]) == ("table", [6], None)
    assert (card["accuracy"], card["accuracy_of_model"]) == (0.5, 0.4)
    assert httpx.get(f"{deployment.url('augmentation-table')}/healthz").json()["status"] == "ok"


def test_answers_at_once_are_those_of_one_after_the_other(deployment: Deployment) -> None:
    """Derivatives of one thread are seen by all, and a pass takes the parameters out of the module."""
    scoring = Scoring(str(deployment.folder / "augmentation" / "digits"), (), Limits())
    inputs = pixels() / np.float32(255)
    question = (inputs, distributions())
    chances, [scored] = scoring.predict([inputs])[0], scoring.score([question])
    with ThreadPoolExecutor(3) as pool:
        checks = [pool.submit(scoring.check) for _ in range(40)]
        scores = [pool.submit(scoring.score, [question]) for _ in range(40)]
        guesses = [pool.submit(scoring.predict, [inputs]) for _ in range(40)]
        assert all(np.array_equal(one.result()[0].given, scored.given) for one in scores)
        assert all(np.array_equal(one.result()[0], chances) for one in guesses)
        assert not any(one.result() for one in checks)
