"""An export whose bytes are changed, cut off, missing or another system's is read, or is a DataError; nothing else."""

import importlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayworks.core.errors import DataError
from rayworks.systems import REGISTRY
from rayworks.systems.alignment.exported import ExportedModels, reward_folder, write_export
from rayworks.systems.reasoning.config import SearchSection, TaskSection
from rayworks.systems.reasoning.exported import ExportedPolicy
from rayworks.systems.reasoning.exported import write_export as write_policy
from tests.conftest import FinishedRun
from tests.serve import applications

EXAMPLES = 60
"""Of each system."""
BYTES = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4)
WHOLE = [b"", b"null", b"[]", b"{}", b"3", b"[" * 9000, b"\xff\xfe", b"\0" * 64]
DAMAGE = (
    st.tuples(st.just("changed"), BYTES)
    | st.tuples(st.just("cut off"), st.floats(0, 1))
    | st.tuples(st.just("missing"), st.none())
    | st.tuples(st.just("replaced"), st.sampled_from(WHOLE))
)


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small export of each system, made without a run."""

    def no_run(system: str) -> FinishedRun:
        raise AssertionError(system)

    found = {"alignment": tmp_path_factory.mktemp("alignment")}
    (found["alignment"] / reward_folder("sentiment")).mkdir(parents=True)
    models = ExportedModels("base", "float32", ["sentiment"], {"sentiment": 0.75}, {"suite": ["a prompt"]})
    write_export(models, lambda name, data: (found["alignment"] / name).write_bytes(data))
    found["reasoning"] = tmp_path_factory.mktemp("reasoning")
    for name in ("policy", "head"):
        (found["reasoning"] / name).mkdir()
    policy = ExportedPolicy("policy", True, "float32", TaskSection(), SearchSection(), 0)
    write_policy(policy, lambda name, data: (found["reasoning"] / name).write_bytes(data))
    for system in set(REGISTRY) - found.keys():
        arguments: Any = getattr(applications, system)(tmp_path_factory.mktemp(system), no_run)
        # Some systems have others beside, which are read by what an operator trusts.
        found[system] = Path(arguments.get(system, next(iter(arguments.values())))["export"])
    return found


def files(export: Path) -> list[Path]:
    return sorted(path for path in export.rglob("*") if path.is_file())


def damage(file: Path, how: str, what: Any) -> None:
    data = bytearray(file.read_bytes())
    if how == "missing":
        file.unlink()
        return
    if how == "replaced":
        data = bytearray(what)
    elif how == "cut off":
        del data[int(what * len(data)) :]
    else:
        for place, value in what:
            data[min(int(place * len(data)), len(data) - 1)] = value
    file.write_bytes(data)


def is_read(system: str, export: Path, **trusted: Any) -> bool:
    """Whether it is, and not refused by the one error there is."""
    try:
        importlib.import_module(f"rayworks.systems.{system}.exported").read_export(export, **trusted)
    except DataError as error:
        assert f"export {export}: " in str(error)  # noqa: PT017  # either is right
        return False
    return True


@pytest.mark.parametrize("system", REGISTRY)
def test_a_damaged_export(system: str, exports: dict[str, Path], tmp_path: Path) -> None:
    assert is_read(system, exports[system])
    damaged(system, exports[system], tmp_path)


def test_damaged_adapters_of_a_trusted_model(tmp_path: Path) -> None:
    arguments = applications.supervision(tmp_path, lambda system: pytest.fail(system))["supervision-adapters"]
    whole, trusted = Path(arguments["export"]), arguments["trusted"]
    assert is_read("supervision", whole, trusted=trusted)
    assert not is_read("supervision", whole)
    damaged("supervision", whole, tmp_path, trusted=trusted)


def damaged(system: str, whole: Path, folder: Path, **trusted: Any) -> None:
    """Read damaged copies of an export; :func:`is_read` lets no error through but the one that names it."""

    @settings(max_examples=EXAMPLES)
    @given(st.integers(0, 20), DAMAGE)
    def read_damaged(number: int, found: tuple[str, Any]) -> None:
        shutil.rmtree(folder / "export", ignore_errors=True)
        export = shutil.copytree(whole, folder / "export")
        chosen = files(export)[number % len(files(export))]
        damage(chosen, *found)
        is_read(system, export, **trusted)

    read_damaged()


@pytest.mark.parametrize("system", REGISTRY)
def test_what_is_missing_or_of_another_system_is_refused(system: str, exports: dict[str, Path], tmp_path: Path) -> None:
    export = shutil.copytree(exports[system], tmp_path / "export")
    others = [file for other in set(REGISTRY) - {system} for file in files(exports[other])]
    needed = 0
    for file in files(export):
        data = file.read_bytes()
        file.unlink()
        # Beside what Serve reads lie tables and cards for people.
        if not is_read(system, export):
            needed += 1
            for theirs in others:
                shutil.copy(theirs, file)
                assert not is_read(system, export), f"{theirs} as {file.name}"
        file.write_bytes(data)
    assert needed and is_read(system, export)
    assert not any(is_read(system, exports[other]) for other in set(REGISTRY) - {system})
