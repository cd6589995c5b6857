"""The library alone: what it imports is declared, and its wheel works in an environment that has no repository."""

import ast
import importlib
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from rayworks.command import CLOSED_PIPE
from rayworks.systems import REGISTRY

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "lib" / "rayworks"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FOLDERS = ("jobs", "serve", "cluster", "benchmarks", "tests")
OURS = {"rayworks", *FOLDERS}
PEERS = {"betty", "obp", "py_irt", "recbole", "vmas"}
"""Installed by benchmarks/peers.py into environments of their own."""
REPOSITORY = ("tools",)
BEYOND_BASE = {
    "jobs": REPOSITORY,
    "serve": REPOSITORY,
    "cluster": REPOSITORY,
    "benchmarks": ("bench",),
    "tests": ("dev",),
}


def declared(*extras: str) -> set[str]:
    """Names of the distributions that the base and some extras ask for."""
    found = set()
    for requirement in [*PROJECT["dependencies"], *(r for e in extras for r in PROJECT["optional-dependencies"][e])]:
        name, inner = re.match(r"([A-Za-z0-9_.-]+)(?:\[([^\]]*)\])?", requirement).groups()  # type: ignore[union-attr]  # it matches any name
        if name == "rayworks":
            found |= declared(*inner.split(","))
        else:
            found.add(canonical(name))
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Third-party modules that a file imports, and whether inside a function."""
    tree = ast.parse(path.read_text())
    lazy = {id(inner) for outer in ast.walk(tree) if isinstance(outer, ast.FunctionDef) for inner in ast.walk(outer)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        else:
            continue
        for name in {name.partition(".")[0] for name in names} - OURS - PEERS - sys.stdlib_module_names:
            yield name, id(node) in lazy


def may_use(path: Path, lazy: bool) -> set[str]:
    """A module named after a system or an extra may use that extra; what waits inside a function may be in any."""
    if lazy:
        return declared(*PROJECT["optional-dependencies"])
    parts = path.relative_to(ROOT).with_suffix("").parts
    own = [name for name in (*REGISTRY, "vllm") if any(part == name or part.startswith(f"{name}_") for part in parts)]
    extras = {name for found in own for name in (found, f"{found}-cpu")} & PROJECT["optional-dependencies"].keys()
    return declared(*BEYOND_BASE.get(parts[0], ()), *extras)


@pytest.mark.parametrize("folder", ["lib", *FOLDERS])
def test_every_import_is_declared(folder: str) -> None:
    carriers = packages_distributions()
    for path in sorted((ROOT / folder).rglob("*.py")):
        for name, lazy in imports(path):
            found = {canonical(carrier) for carrier in carriers.get(name, [name])}
            assert found & may_use(path, lazy), f"{path.relative_to(ROOT)} imports {name}: declare {sorted(found)}"


@pytest.mark.parametrize("name", REGISTRY)
def test_public_names_are_there(name: str) -> None:
    package = importlib.import_module(f"rayworks.systems.{name}")
    assert {"SPEC", "Config"} <= set(package.__all__)
    for public in package.__all__:
        assert getattr(package, public) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = package.nothing


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has the wheel, and of ours only the dependencies."""
    folder = tmp_path_factory.mktemp("alone")
    run(sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT))
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    into = run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # A line of a .pth file puts a folder on the path and reads no .pth file there: our editable install stays behind.
    (Path(into) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    wheel = next(folder.glob("rayworks-*.whl"))
    run(sys.executable, "-m", "pip", "--python", str(python), "install", "-qq", "--no-deps", "--no-index", str(wheel))
    return python


def run(*command: str, cwd: Path = ROOT) -> str:
    """What a command prints, with none of our paths in its environment."""
    done = subprocess.run(command, cwd=cwd, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_wheel_holds_the_library_and_nothing_else(alone: Path, tmp_path: Path) -> None:
    code = (
        "import importlib.util, pathlib, rayworks\n"
        "home = pathlib.Path(rayworks.__file__).parent\n"
        f"print(home, (home / 'py.typed').exists(), [n for n in {FOLDERS!r} if importlib.util.find_spec(n)])"
    )
    home, typed, others = run(str(alone), "-c", code, cwd=tmp_path).strip().split(" ", 2)
    assert Path(home).is_relative_to(alone.parent.parent)
    assert typed == "True"
    assert others == "[]"
    shipped = {path.relative_to(home) for path in Path(home).rglob("*.py")}
    assert shipped == {path.relative_to(LIBRARY) for path in LIBRARY.rglob("*.py")}


def test_the_installed_command_lists_and_explains(alone: Path, tmp_path: Path) -> None:
    command = str(alone.parent / "rayworks")
    listed = run(command, "systems", cwd=tmp_path)
    assert [line.split()[0] for line in listed.splitlines()] == list(REGISTRY)
    assert "seed: 7" in run(command, "run", "regulation", "--smoke", "--print-config", "--run.seed", "7", cwd=tmp_path)
    assert "smollm2-135m-instruct" in run(command, "models", cwd=tmp_path)
    assert "movielens-100k" in run(command, "datasets", "list", cwd=tmp_path)


def test_a_sweep_outside_the_repository_asks_for_its_file(alone: Path, tmp_path: Path) -> None:
    command = [str(alone.parent / "rayworks"), "sweep", "regulation", "--dry-run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--config" in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error(alone: Path, tmp_path: Path) -> None:
    command = [str(alone.parent / "rayworks"), "datasets"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as listing:
        assert listing.stdout is not None
        assert listing.stderr is not None
        listing.stdout.close()
        assert listing.wait(60) == CLOSED_PIPE
        assert not listing.stderr.read()


def snippets() -> list[tuple[str, str]]:
    """Each Python block of docs/library.md with the output that the block after it shows."""
    page = (ROOT / "docs" / "library.md").read_text()
    found: list[tuple[str, str]] = re.findall(r"```python\n(.*?)```\n+```text\n(.*?)```", page, re.DOTALL)
    assert len(found) == page.count("```python\n")
    return found


@pytest.mark.parametrize(("code", "shown"), snippets(), ids=["fit", "curve"])
def test_five_lines_of_python_give_what_the_page_shows(alone: Path, tmp_path: Path, code: str, shown: str) -> None:
    assert len([line for line in code.splitlines() if line]) <= 5
    guard = "\nimport sys\nassert not {'ray', 'torch'} & set(sys.modules)\n"
    assert run(str(alone), "-c", code + guard, cwd=tmp_path) == shown
