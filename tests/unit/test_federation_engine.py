"""The classifier behind Serve without HTTP: pictures it takes, files it refuses by name, cards it needs."""

import base64
import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rayworks.core.errors import DataError
from rayworks.systems.federation.config import Config
from rayworks.systems.federation.exported import CARD, DESCRIPTION, exported_model, read_export, write_export
from rayworks.systems.federation.training.classifiers import classifier_of
from rayworks.systems.federation.training.local_training import weights_of
from serve.apps.federation_engine import Classifying
from serve.apps.federation_schemas import ClassifyBody, ModelCard
from serve.common.pictures import Limits

FILLED = {
    "source": "made up", "method": "balanced", "rounds": 3, "clients": 4, "accuracy": 0.5, "accuracies": [0.5],
    "epsilon": None, "epsilon_updates": None, "statement": "nothing is promised",
}  # fmt: skip


def export(folder: Path, channels: int = 1, card: dict[str, Any] | None = None) -> str:
    """An untrained model of three labels."""
    config, shape = Config(), (channels, 8, 8)
    weights = weights_of(classifier_of(config, shape, 3, 7))
    folder.mkdir(exist_ok=True)
    values = FILLED if card is None else card
    exported = exported_model(config, weights, shape, ("a", "b", "c"), values)
    write_export(exported, lambda name, data: (folder / name).write_bytes(data))
    return str(folder)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(side: int, bits: int, *chunks: bytes) -> bytes:
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, bits, 0, 0, 0, 0)) + b"".join(chunks)
    )


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def saved(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return encoded(file.getvalue())


ROWS = zlib.compress(
    b"".join(b"\x00" + row.tobytes() for row in np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8))
)
WHOLE = png(8, 8, chunk(b"IDAT", ROWS), chunk(b"IEND", b""))
BAD = {
    "bomb": (png(50_000, 8, chunk(b"IDAT", b"")), "images.0: has far too many pixels; send 8 by 8"),
    "bad checksum": (WHOLE[:37] + b"\x00" * 4 + WHOLE[41:], "images.0: is not a PNG"),
    "bad chunk amid the data": (
        png(8, 8, chunk(b"IDAT", ROWS[:20]), struct.pack(">I", 5) + b"\x00\x01\x02\x03hello" + bytes(4)),
        r"images.0: is not a PNG file in base64 \(SyntaxError",
    ),
    "cut in a header": (png(8, 8, chunk(b"IDAT", ROWS[:20])) + b"\x00\x00\x00", "images.0: is not a PNG"),
    "no data": (png(8, 8), "images.0: is not a PNG"),
    "cut short": (WHOLE[:-40], "images.0: is not a PNG"),
    "not compressed": (png(8, 8, chunk(b"IDAT", b"no rows"), chunk(b"IEND", b"")), "images.0: is not a PNG"),
    "broken text": (png(8, 8, chunk(b"zTXt", b"a\x00\x00junk"), chunk(b"IDAT", b"x")), "images.0: is not a PNG"),
    "short header": (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"\x00\x00"), "images.0: is not a PNG"),
    "16 bits": (png(8, 16, chunk(b"IDAT", zlib.compress((b"\x00" + bytes(16)) * 8)), chunk(b"IEND", b"")), "kind I;16"),
    "text": (b"no picture", "images.0: is not a PNG"),
}


@pytest.mark.parametrize(("data", "words"), BAD.values(), ids=BAD.keys())
def test_files_that_are_no_picture_of_the_model_are_refused(tmp_path: Path, data: bytes, words: str) -> None:
    classifying = Classifying(export(tmp_path / "m"), Limits())
    with pytest.raises(DataError, match=words):
        classifying.inputs(ClassifyBody(images=[encoded(data)]))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_eight_bits_are_taken(tmp_path: Path, mode: str, channels: int) -> None:
    grey = Image.fromarray(np.where(np.arange(64).reshape(8, 8) % 3 == 0, 255, 0).astype(np.uint8))
    classifying = Classifying(export(tmp_path / "m", channels), Limits())
    found = classifying.inputs(ClassifyBody(images=[saved(grey.convert(mode))]))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.repeat(np.asarray(grey)[None, None], channels, 1))


def test_a_card_must_have_what_serve_shows(tmp_path: Path) -> None:
    assert {*CARD, "classes", "shape", "limits"} == set(ModelCard.model_fields)
    assert Classifying(export(tmp_path / "whole"), Limits()).card().statement == "nothing is promised"
    for name in CARD:
        card = {key: value for key, value in FILLED.items() if key != name}
        with pytest.raises(DataError, match=f"its card lacks {name}"):
            read_export(Path(export(tmp_path / name, card=card)))
    with pytest.raises(DataError, match="accuracies"):
        Classifying(export(tmp_path / "wrong", card={**FILLED, "accuracies": "many"}), Limits())
    described = json.loads((tmp_path / "whole" / DESCRIPTION).read_text())
    described["card"]["shape"] = [1, 2]
    (tmp_path / "whole" / DESCRIPTION).write_text(json.dumps(described))
    assert Classifying(str(tmp_path / "whole"), Limits()).card().shape == [1, 8, 8]
