import io
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest

from rayworks.core import cache, datasets
from rayworks.core.cache import PackageSource
from rayworks.core.errors import DataError
from rayworks.systems.difficulty.responses import r_data

BACK_END = """
from pathlib import Path
def prepare_metadata_for_build_wheel(folder, settings=None):
    info = Path(folder, "carrier-1.0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: carrier\\nVersion: 1.0\\n")
    return info.name
"""


def _archive(path: Path, files: dict[str, str]) -> str:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    return cache._sha256(path)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index of one folder, and an empty cache."""
    monkeypatch.setenv("RAYWORKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return tmp_path


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a client of some registry: it gives the file ``archive`` of that folder, or says no."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("apt-get", "npm"):
        script = folder / name
        script.write_text(f"#!/bin/sh\ncp {folder}/archive* .\n")
        script.chmod(0o755)
    monkeypatch.setenv("RAYWORKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def test_source_archive_is_unpacked_like_a_wheel(index: Path) -> None:
    digest = _archive(
        index / "carrier-1.0.tar.gz",
        {
            "carrier-1.0/PKG-INFO": "Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n",
            "carrier-1.0/pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "back_end"\nbackend-path = ["."]\n',
            "carrier-1.0/back_end.py": BACK_END,
            "carrier-1.0/data/table.csv": "a,b\n",
            "carrier-1.0/data2/other.csv": "c\n",
        },
    )
    folder = cache.fetch_package(PackageSource("carrier", "1.0", digest, ("carrier-1.0/data",)))
    assert [str(path.relative_to(folder)) for path in folder.rglob("*.*") if path.is_file()] == [
        "carrier-1.0/data/table.csv"
    ]


def test_npm_tarball_keeps_only_the_named_members_and_no_path_leaves_the_folder(client: Path) -> None:
    files = {"package/a/one.txt": "1", "package/b.txt": "2", "package/c.txt": "3"}
    digest = _archive(client / "archive.tgz", files)
    source = PackageSource("carrier", "1.0", digest, ("package/a/", "package/b.txt"), "npm")
    folder = cache.fetch_package(source)
    assert sorted(path.name for path in folder.rglob("*.txt")) == ["b.txt", "one.txt"]
    other = PackageSource("carrier", "1.0", digest, ("package/a/", "package/c.txt"), "npm")
    assert other.folder != folder
    digest = _archive(client / "archive.tgz", {"package/../../../evil.txt": "!"})
    with pytest.raises(DataError, match="cannot be unpacked"):
        cache.fetch_package(PackageSource("evil", "1.0", digest, ("package",), "npm"))
    assert not list(client.parent.rglob("evil.txt"))


def test_debian_package_is_read_through_its_own_tool(client: Path) -> None:
    tree = client / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: carrier\nVersion: 1.0-1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: data\n"
    )
    (tree / "usr/share/carrier").mkdir(parents=True)
    (tree / "usr/share/carrier/table.csv").write_text("a,b\n")
    (tree / "usr/share/other").write_text("")
    deb = client / "archive.deb"
    subprocess.run(["dpkg-deb", "--build", str(tree), str(deb)], check=True, capture_output=True)
    source = PackageSource("carrier", "1.0-1", cache._sha256(deb), ("usr/share/carrier",), "debian")
    folder = cache.fetch_package(source)
    assert (folder / "usr/share/carrier/table.csv").read_text() == "a,b\n"
    assert not (folder / "usr/share/other").exists()
    missing = PackageSource("another", "1.0-1", source.sha256, ("usr/share/nothing",), "debian")
    with pytest.raises(DataError, match="holds no 'usr/share/nothing'"):
        cache.fetch_package(missing)
    assert not missing.folder.exists()


def test_apt_is_asked_again_with_package_lists_of_our_own(client: Path) -> None:
    deb = client / "archive.deb"
    _archive(deb, {})
    asked = client / "asked"
    (client / "apt-get").write_text(
        f'#!/bin/sh\necho "$@" >> {asked}\ncase "$*" in *lists*) cp {deb} . ;; *) echo "E: none" >&2; exit 100 ;; esac\n'
    )
    with pytest.raises(DataError, match="sha256 is"):
        cache.fetch_package(PackageSource("x", "1", "0" * 64, ("a",), "debian"))
    assert [line.split()[0] for line in asked.read_text().splitlines()] == ["download", "update", "download"]


def test_refusals_say_what_to_do(client: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (client / "apt-get").write_text(
        "#!/bin/sh\necho 'W: a warning' >&2; echo 'E: Unable to locate package x' >&2; exit 100\n"
    )
    with pytest.raises(DataError, match=r"x=1: .*Unable to locate package x.*apt-get update"):
        cache.fetch_package(PackageSource("x", "1", "0" * 64, ("a",), "debian"))
    monkeypatch.setenv("PATH", str(client / "nowhere"))
    for registry, tool in (("debian", "apt-get"), ("npm", "npm")):
        with pytest.raises(DataError, match=f"{tool} is not installed"):
            cache.fetch_package(PackageSource("x", "1", "0" * 64, ("a",), registry))


def test_r_objects_of_both_kinds_of_file(tmp_path: Path) -> None:
    ability = r_data.read_object(datasets.fetch("ability") / "Rdata.rdx", "ability")
    assert ability.shape == (1525, 16)
    assert round(float(np.isnan(ability.values).mean()), 3) == 0.047
    exam = r_data.read_object(datasets.fetch("math-exam"), "MathExam14W")
    assert exam["solved"].shape == (729, 13)
    with pytest.raises(DataError, match="holds no object 'nothing'"):
        r_data.read_object(datasets.fetch("math-exam"), "nothing")
    broken = tmp_path / "broken.rda"
    broken.write_bytes(datasets.fetch("math-exam").read_bytes()[:500])
    for path in (broken, tmp_path / "none.rda", tmp_path / "none.rdx"):
        with pytest.raises(DataError, match="cannot be read as R data"):
            r_data.read_object(path, "x")


def test_every_catalogue_entry_can_be_had_and_says_its_licence() -> None:
    for entry in datasets.CATALOGUE.values():
        assert entry.licence, entry.name
        assert entry.hub or entry.package, entry.name
        assert (entry.package is None) == (entry.path == ""), entry.name
