"""The federation application over real HTTP on the shared cluster, against the library's own answers."""

import base64
import io
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from rayworks.systems.federation.exported import read_export
from tests.serve.applications import CARD, SHAPES
from tests.serve.deployment import Deployment

Send = Callable[..., httpx.Response]


@pytest.fixture
def send(deployment: Deployment) -> Send:
    """Posts to ``classify`` of one of the applications."""
    return lambda app, **body: deployment.ask(f"federation-{app}", "v1/federation/classify", method="POST", **body)


def pictures(shape: tuple[int, ...], count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape)).astype(np.uint8)


def bomb() -> str:
    """A PNG whose header promises 50,000 by 50,000 pixels."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    parts = [struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
             for name, body in ((b"IHDR", header), (b"IDAT", b""))]  # fmt: skip
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(parts)).decode()


def torn(picture: str) -> str:
    """The same with a broken chunk after its header."""
    data = bytearray(base64.b64decode(picture))
    data[37:41] = b"\x00\x00\x00\x00"
    return base64.b64encode(bytes(data)).decode()


def png(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    values = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    Image.fromarray(values).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize("app", ["grey", "coloured"])
def test_images_and_their_pixels_get_the_librarys_answer(send: Send, deployment: Deployment, app: str) -> None:
    images = pictures(SHAPES[app], 3)
    expected = read_export(deployment.folder / "federation" / app).probabilities(images)
    for body in ({"images": [png(image) for image in images]}, {"pixels": images.tolist()}):
        answer = send(app, top=3, **body)
        assert answer.status_code == 200, answer.text
        for row, labels in zip(expected, answer.json()["answers"], strict=True):
            assert [label["label"] for label in labels] == ["abc"[at] for at in np.argsort(-row)]
            np.testing.assert_allclose([label["probability"] for label in labels], np.sort(row)[::-1], rtol=1e-5)


def test_features_are_taken_by_a_model_of_features(send: Send, deployment: Deployment) -> None:
    features = np.random.default_rng(1).random((2, 5), np.float32)
    expected = read_export(deployment.folder / "federation" / "tabular").probabilities(features).argmax(1)
    answer = send("tabular", features=features.tolist())
    assert [labels[0]["label"] for labels in answer.json()["answers"]] == ["abc"[at] for at in expected]


def test_requests_at_once_get_their_own_answers(send: Send) -> None:
    images = pictures(SHAPES["grey"], 12)
    alone = [send("grey", pixels=[image.tolist()]).json() for image in images]
    with ThreadPoolExecutor(12) as threads:
        together = list(threads.map(lambda image: send("grey", pixels=[image.tolist()]).json(), images))
    for one, other in zip(alone, together, strict=True):
        assert one["answers"][0][0]["label"] == other["answers"][0][0]["label"]
        assert one["answers"][0][0]["probability"] == pytest.approx(other["answers"][0][0]["probability"], rel=1e-5)


def test_the_card_says_what_is_known(deployment: Deployment) -> None:
    card = deployment.ask("federation-coloured", "v1/federation/card").json()
    assert card["shape"] == [3, 16, 16]
    assert card["classes"] == ["a", "b", "c"]
    assert {name: card[name] for name in CARD} == CARD
    assert httpx.get(f"{deployment.url('federation-coloured')}/healthz").json()["status"] == "ok"


@pytest.mark.parametrize(
    ("app", "body", "words"),
    [
        ("grey", {}, "exactly one of"),
        ("grey", {"features": [[0.5] * 64]}, "this model takes 8 by 8 pixels of 1 channel"),
        ("tabular", {"pixels": pictures((1, 8, 8), 1).tolist()}, "5 features"),
        ("grey", {"images": ["no picture"]}, "images.0: is not a PNG"),
        ("grey", {"images": [png(pictures((1, 9, 8), 1)[0])]}, "images.0: is 9 by 8 pixels"),
        ("grey", {"images": [bomb()]}, "images.0: has far too many pixels"),
        ("grey", {"images": [torn(png(pictures((1, 8, 8), 1)[0]))]}, "images.0: is not a PNG"),
        ("grey", {"images": [png(pictures((1, 8, 8), 1).astype(np.uint16)[0])]}, "images.0: is a PNG of kind I;16"),
        ("grey", {"pixels": pictures((1, 8, 7), 1).tolist()}, "pixels.0: has shape"),
        ("grey", {"pixels": [[[[1, 2], [3]]]]}, "pixels.0: its rows differ"),
        ("grey", {"pixels": [[[[256]]]]}, "pixels.0.0.0.0"),
        ("tabular", {"features": [[0.1, 0.2, 0.3, 0.4, 2.0]]}, "features.0.4"),
        ("tabular", {"features": [[0.1] * 5] * 5}, "at most 4"),
        ("grey", {"pixels": pictures((1, 8, 8), 1).tolist(), "bottom": 1}, "bottom"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(send: Send, app: str, body: dict[str, Any], words: str) -> None:
    answer = send(app, **body)
    assert answer.status_code == 422, answer.text
    assert words in answer.json()["detail"]
    assert answer.headers["content-type"] == "application/problem+json"


def test_nobody_is_answered_without_a_key(deployment: Deployment) -> None:
    body = {"pixels": pictures(SHAPES["grey"], 1).tolist()}
    assert httpx.post(f"{deployment.url('federation-grey')}/v1/federation/classify", json=body).status_code == 401
