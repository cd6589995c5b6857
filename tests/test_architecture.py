"""The law of the land: who may import whom, where files may lie, how long they may be, what they may be called."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from rayworks.systems import REGISTRY

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "lib" / "rayworks"
MAX_LINES = 420
FORBIDDEN_NAMES = re.compile(r"^(utils?|helpers?|misc|common_utils|.*_?v\d+)$")
STANDARD = set(sys.stdlib_module_names)

MAY_IMPORT = {
    "core": {
        "pydantic",
        "numpy",
        "scipy",
        "yaml",
        "matplotlib",
        "cycler",
        "fsspec",
        "pandas",
        "PIL",
        "datasets",
        "rayworks.core",
    },
    "runtime": {"pydantic", "numpy", "psutil", "ray", "rayworks.core", "rayworks.runtime"},
    "learning": {"torch", "rayworks.core", "rayworks.learning"},
    "lm": {
        *{"numpy", "torch", "transformers", "peft", "safetensors", "vllm"},
        *{"rayworks.core", "rayworks.learning", "rayworks.lm"},
    },
}
"""Beside the standard library."""
ONLY_WHERE_USED = {"matplotlib", "scipy", "fsspec", "cycler", "pandas", "PIL", "datasets"}
"""Imported by core inside functions only."""
WIRED_TO_RAY = ("system.py", "actors.py")
"""Ends of the names of the modules of a system that may import ray, beside those of a folder ``rllib/``."""
FLAT_SYSTEM = 26
"""Modules beyond which a system has folders by idea."""
NEVER_IMPORTED = {"jobs", "serve", "benchmarks", "tests", "cluster"}


def modules(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def imports(path: Path, *, top_level_only: bool = False, for_type_checkers: bool = False) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    nodes: Iterable[ast.AST] = _top_level(tree.body) if top_level_only else ast.walk(tree)
    if for_type_checkers:
        guards = [n for n in tree.body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)]
        nodes = (node for guard in guards for node in ast.walk(guard))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _top_level(body: list[ast.stmt]) -> Iterator[ast.AST]:
    for node in body:
        if isinstance(node, ast.If):
            yield from _top_level([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            yield from _top_level([*node.body, *(s for handler in node.handlers for s in handler.body)])
        else:
            yield node


def is_allowed(name: str, allowed: set[str]) -> bool:
    return name.split(".")[0] in STANDARD or any(name == entry or name.startswith(f"{entry}.") for entry in allowed)


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_layers_import_only_what_lies_below_them(layer: str) -> None:
    for path in modules(LIBRARY / layer):
        wrong = [name for name in imports(path) if not is_allowed(name, MAY_IMPORT[layer])]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_core_loads_heavy_packages_only_where_they_are_used() -> None:
    for path in modules(LIBRARY / "core"):
        for_types = set(imports(path, for_type_checkers=True))
        found = [name for name in imports(path, top_level_only=True) if name not in for_types]
        wrong = [name for name in found if name.split(".")[0] in ONLY_WHERE_USED]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong} at its top"


def test_systems_do_not_know_each_other() -> None:
    for path in modules(LIBRARY / "systems"):
        own = path.relative_to(LIBRARY / "systems").parts[0]
        others = [n for n in imports(path) if n.startswith("rayworks.systems.") and n.split(".")[2] != own]
        assert not others, f"{path.relative_to(ROOT)} imports {others}"


def test_mathematics_never_imports_ray() -> None:
    for path in modules(LIBRARY / "systems"):
        if path.name.endswith(WIRED_TO_RAY) or path.parent.name == "rllib":
            continue
        wrong = [n for n in imports(path) if n.split(".")[0] == "ray" or n.startswith("rayworks.runtime")]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}; wire it in system.py or actors.py"


def test_nothing_in_the_library_imports_what_stands_on_it() -> None:
    for path in modules(LIBRARY):
        wrong = [name for name in imports(path) if name.split(".")[0] in NEVER_IMPORTED]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_the_library_has_no_relative_imports_which_the_tests_here_would_not_see() -> None:
    for path in modules(LIBRARY):
        nodes = ast.walk(ast.parse(path.read_text()))
        wrong = [node.lineno for node in nodes if isinstance(node, ast.ImportFrom) and node.level]
        assert not wrong, f"{path.relative_to(ROOT)}: lines {wrong}"


def test_serve_imports_its_own_relatively() -> None:
    for path in modules(ROOT / "serve"):
        wrong = [name for name in imports(path) if name.split(".")[0] == "serve"]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}; inside serve/ the word means ray.serve"


def known_imports(folder: Path, package: str) -> dict[str, set[str]]:
    """Module to the modules of the same tree that it imports at its top, those for type checkers too."""
    names = {path: ".".join((package, *path.relative_to(folder).with_suffix("").parts)) for path in modules(folder)}
    known = {name.removesuffix(".__init__") for name in names.values()}
    return {
        name.removesuffix(".__init__"): {
            target
            for imported in imports(path, top_level_only=True)
            for target in (imported, imported.rpartition(".")[0])
            if target in known and target != name.removesuffix(".__init__")
        }
        for path, name in names.items()
    }


def cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """Names that lead back to the first; empty where there is no cycle."""
    done: set[str] = set()

    def visit(name: str, above: list[str]) -> list[str]:
        if name in above:
            return [*above[above.index(name) :], name]
        if name in done:
            return []
        for target in sorted(graph.get(name, ())):
            # A module that imports from its own package is Python's order, not a cycle.
            found = [] if name.startswith(f"{target}.") else visit(target, [*above, name])
            if found:
                return found
        done.add(name)
        return []

    return next((found for name in graph if (found := visit(name, []))), [])


def test_there_are_no_import_cycles() -> None:
    found = cycle(known_imports(LIBRARY, "rayworks"))
    assert not found, " -> ".join(found)


def test_a_cycle_would_be_found_also_one_that_only_type_checkers_see(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.two import b\n")
    (tmp_path / "two.py").write_text("import p.three\n")
    (tmp_path / "three.py").write_text("import os\n")
    assert cycle(known_imports(tmp_path, "p")) == []
    (tmp_path / "three.py").write_text("from p import one\n")
    assert cycle(known_imports(tmp_path, "p")) == ["p.one", "p.two", "p.three", "p.one"]


RUN = "run"


def folder_arrows(system: Path) -> dict[str, set[str]]:
    """Folder to the folders it imports from; modules beside the folders are the run, but for the config."""

    def place(parts: Sequence[str]) -> str:
        return parts[0] if (system / parts[0]).is_dir() or parts[0] == "config" else RUN

    package = f"rayworks.systems.{system.name}."
    arrows: dict[str, set[str]] = {}
    for path in modules(system):
        own = place(path.relative_to(system).with_suffix("").parts)
        if path == system / "__init__.py":
            continue
        for imported in imports(path):
            if imported.startswith(package) and imported.rpartition(".")[2] not in ("SPEC", "Config"):
                arrows.setdefault(own, set()).add(place(imported.removeprefix(package).split(".")))
    return {own: targets - {own} for own, targets in arrows.items()}


@pytest.mark.parametrize("system", REGISTRY)
def test_arrows_between_the_folders_of_a_system_go_one_way(system: str) -> None:
    folder = LIBRARY / "systems" / system
    arrows = folder_arrows(folder)
    back = [name for name, targets in arrows.items() if RUN in targets]
    assert not back, f"{back} import what wires the run together"
    found = cycle(arrows)
    assert not found, " -> ".join(found)
    beside = [path for path in modules(folder) if path.parent == folder]
    assert len(beside) <= FLAT_SYSTEM, f"{len(beside)} modules in one folder; make folders by idea"


@pytest.mark.parametrize("folder", ["lib", "jobs", "cluster", "serve", "benchmarks", "tests"])
def test_files_are_short_and_named_for_what_they_hold(folder: str) -> None:
    for path in modules(ROOT / folder):
        lines = len(path.read_text().splitlines())
        assert lines <= MAX_LINES, f"{path.relative_to(ROOT)} has {lines} lines; split it by idea"
        assert not FORBIDDEN_NAMES.match(path.stem), f"{path.relative_to(ROOT)}: name it for what it holds"


def test_the_library_is_no_deeper_than_a_folder_of_a_system() -> None:
    for path in modules(LIBRARY):
        parts = path.relative_to(LIBRARY).parts
        assert len(parts) <= (4 if parts[0] == "systems" else 2), path


def test_every_public_definition_of_the_library_is_documented() -> None:
    for path in modules(LIBRARY):
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), f"{path.relative_to(ROOT)} has no docstring"
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.relative_to(ROOT)}: {node.name} has no docstring"


def test_the_registry_is_a_literal_in_alphabetical_order() -> None:
    tree = ast.parse((LIBRARY / "systems" / "__init__.py").read_text())
    literal = next(node.value for node in tree.body if isinstance(node, ast.AnnAssign))
    assert literal is not None
    assert ast.literal_eval(literal) == REGISTRY
    assert list(REGISTRY) == sorted(REGISTRY)
    packages = {path.name for path in (LIBRARY / "systems").iterdir() if (path / "__init__.py").exists()}
    assert packages == set(REGISTRY)


def test_vllm_waits_until_it_is_used() -> None:
    for path in modules(LIBRARY):
        # Which vLLM loads itself.
        if path.name != "vllm_processors.py":
            wrong = [name for name in imports(path, top_level_only=True) if name.split(".")[0] == "vllm"]
            assert not wrong, f"{path.relative_to(ROOT)} imports {wrong} at its top"


@pytest.mark.parametrize("command", [["--help"], *([name, "--print-config"] for name in REGISTRY)])
def test_help_and_configs_load_neither_ray_nor_torch(command: list[str]) -> None:
    code = (
        "import sys\n"
        "from jobs.run import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "loaded = {'ray', 'torch', 'transformers', 'matplotlib'} & set(sys.modules)\n"
        "print('LOADED', sorted(loaded))"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stdout


def test_versions_agree_between_pyproject_and_lock() -> None:
    lock = dict(re.findall(r"^([a-z0-9-]+)==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    pinned = re.findall(r'"([a-z0-9-]+)(?:\[[^\]]*\])?==([^"]+)"', (ROOT / "pyproject.toml").read_text())
    assert pinned
    for name, version in pinned:
        if name != "vllm":
            assert lock[name] == version, f"{name}: pyproject {version}, lock {lock.get(name)}"
    assert not {"torchvision", "torchaudio", "torchcodec", "triton"} & lock.keys()


def test_no_registry_host_is_named() -> None:
    hosts = re.compile(r"pypi\.org|pythonhosted|registry\.npmjs|deb\.debian")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in tracked:
        if name != "tests/test_architecture.py":
            assert not hosts.search((ROOT / name).read_text(errors="ignore")), name
