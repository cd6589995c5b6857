"""What every registered system has, checked by looping over the registry."""

import importlib
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.disturbed_run import untimed
from rayworks.core import config as configs
from rayworks.core import datasets, models
from rayworks.core.config import Section, SystemConfig
from rayworks.core.errors import DataError
from rayworks.core.registry import SystemSpec, find
from rayworks.systems import REGISTRY
from serve.common.served_run import ServedRun, ServingArgs
from tests import smallest
from tests.conftest import FinishedRun
from tests.killed_runs import KILLED, killed_and_repeated

ROOT = Path(__file__).resolve().parent.parent
SYSTEMS = list(REGISTRY)
SLOW = ("alignment", "federation", "marl", "reasoning", "recommendation")
PREPOSITIONS = frozenset(
    "about above across after against along among around as at before behind below beside between beyond by despite during "
    "for from in inside into like near of off on onto outside over per since through to toward towards under until upon via "
    "with within without".split()
)


@pytest.fixture(params=SYSTEMS)
def spec(request: pytest.FixtureRequest) -> SystemSpec:
    return find(REGISTRY, request.param)


def test_spec_is_complete(spec: SystemSpec) -> None:
    assert spec.name in REGISTRY
    assert issubclass(spec.config, SystemConfig)
    assert spec.title
    assert spec.paper
    assert spec.headline
    assert spec.figures
    from rayworks.runtime.stages import StagedSystem

    assert issubclass(spec.load_system(), StagedSystem)
    assert spec.load_system().spec is spec
    for name in spec.needs:
        assert name in datasets.CATALOGUE or name in models.CATALOGUE


def test_every_setting_is_described_and_has_a_default(spec: SystemSpec) -> None:
    def check(section: type[Section], path: str) -> None:
        for name, field in section.model_fields.items():
            inner = next((kind for kind in _kinds(field.annotation) if issubclass(kind, Section)), None)
            assert not field.is_required(), f"{path}{name} has no default"
            assert inner is not None or field.description, f"{path}{name} has no description"
            first = re.match(r"\w*", field.description or "")
            assert first and first[0] not in PREPOSITIONS, f"{path}{name}: '{field.description}': start with the thing"
            if inner is not None:
                check(inner, f"{path}{name}.")

    check(spec.config, "")


def test_renamed_settings_are_settings_no_more(spec: SystemSpec) -> None:
    paths = [path for path, _ in _leaves(spec.config().model_dump())]
    settings = {".".join(path[:length]) for path in paths for length in range(1, len(path) + 1)}
    assert set(spec.config.renamed.values()) <= settings
    assert not settings & spec.config.renamed.keys()


def _kinds(annotation: object) -> list[type]:
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return [kind for kind in candidates if inspect.isclass(kind)]


def test_smoke_values_are_valid_and_named(spec: SystemSpec) -> None:
    smoke = configs.resolve(spec.config, smoke=spec.smoke)
    assert smoke.run.name == "smoke"


def test_job_configs_hold_only_what_differs(spec: SystemSpec) -> None:
    file = ROOT / "jobs" / "configs" / f"{spec.name}.yaml"
    config = configs.resolve(spec.config, file=file)
    defaults = spec.config().model_dump(mode="json")
    for path, value in _leaves(yaml.safe_load(file.read_text())):
        at = defaults
        for part in path[:-1]:
            at = at.get(part) or {}
        assert at.get(path[-1], object()) != value, f"{file.name}: {'.'.join(path)} is the default"
    assert config.run.name != "smoke"


def _leaves(values: dict[str, object], prefix: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], object]]:
    found = []
    for key, value in values.items():
        found += _leaves(value, (*prefix, key)) if isinstance(value, dict) else [((*prefix, key), value)]
    return found


def test_serve_application_follows_the_shape(spec: SystemSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(f"serve.apps.{spec.name}")
    assert "curl " in (module.__doc__ or "")
    assert inspect.signature(module.build).parameters["args"].annotation is module.Args
    assert issubclass(module.Args, ServingArgs)
    bound: list[tuple[Any, ...]] = []
    monkeypatch.setattr(module, "bind", lambda *given, **more: bound.append(given))
    module.build(args := module.Args())
    [(deployment, given)] = bound
    assert given is args
    assert issubclass(deployment.func_or_class, ServedRun)
    for name in ("config.yaml", "config.smoke.yaml"):
        applications = yaml.safe_load((ROOT / "serve" / name).read_text())["applications"]
        assert any(entry["import_path"] == f"serve.apps.{spec.name}:build" for entry in applications), name


def test_serve_application_documents_keys_and_problems(spec: SystemSpec) -> None:
    document = importlib.import_module(f"serve.apps.{spec.name}").api.openapi()
    assert [scheme["scheme"] for scheme in document["components"]["securitySchemes"].values()] == ["bearer"]
    assert document["paths"]["/healthz"]["get"]["responses"].keys() >= {"200", "500", "503"}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            said = f"{method} {path}"
            assert operation.get("description"), f"{said} is not described"
            assert (path == "/healthz") != bool(operation.get("security")), f"{said}: open, or needs a key?"
            expected = {"401", "403", "429"} if "security" in operation else set()
            # OpenAI's routes answer what is invalid as OpenAI does.
            invalid = "400" if path in ("/v1/completions", "/v1/chat/completions") else "422"
            expected |= {"413", invalid, "504"} if "requestBody" in operation else set()
            answers = operation["responses"]
            assert answers.keys() >= {"500", "503", *expected}, said
            for status in answers.keys() - {"200", "201", "202", "204"}:
                schema = answers[status]["content"]["application/problem+json"]["schema"]
                assert schema["$ref"].rpartition("/")[2] in document["components"]["schemas"], f"{said}: {status}"


def test_readme_and_documentation_have_their_place(spec: SystemSpec) -> None:
    readme = (ROOT / "README.md").read_text()
    assert re.search(rf"^\| \[?\**{spec.name}\b", readme, re.MULTILINE), "no row in the README's table of systems"
    page = (ROOT / "docs" / f"{spec.name}.md").read_text()
    first = re.findall(
        rf"\(\.\./(lib/rayworks/systems/{spec.name}/\S+\.py)\)", page.partition("Read these five files first")[2]
    )
    assert len(first) == 5 and all((ROOT / name).is_file() for name in first), first
    assert hasattr(smallest, spec.name), "tests/smallest.py has no smallest run"


def test_smallest_run_leaves_what_was_promised(
    spec: SystemSpec, finished_runs: Callable[[str], FinishedRun], run_job: Callable[..., object]
) -> None:
    run = finished_runs(spec.name)
    report = json.loads((run.directory / "report.json").read_text())
    assert list(report["headline"]) == list(spec.headline)
    assert all(value is not None for value in report["headline"].values())
    for name in ("manifest.json", "config.yaml", "report.html", *(f"figures/{figure}" for figure in spec.figures)):
        assert (run.directory / name).stat().st_size > 0, name
    assert (run.directory / "export" / "README.md").is_file()
    assert list(run.directory.glob("tune/trial/events.out.tfevents.*"))
    assert json.loads((run.directory / "manifest.json").read_text())["state"] == "done"
    assert str(run.directory / "report.html") in run.output


def test_an_export_survives_being_read_and_written(
    spec: SystemSpec, finished_runs: Callable[[str], FinishedRun], tmp_path: Path
) -> None:
    exported = importlib.import_module(f"rayworks.systems.{spec.name}.exported")
    export = finished_runs(spec.name).directory / "export"
    written: dict[str, bytes] = {}
    exported.write_export(exported.read_export(export), written.__setitem__)
    assert written
    for name, data in written.items():
        assert data == (export / name).read_bytes(), name
    with pytest.raises(DataError, match=f"is not the export of a finished {spec.name} run"):
        exported.read_export(tmp_path)


@pytest.mark.parametrize(
    "spec",
    # The slowest are left to `pytest -m slow`, and the fault matrix kills their drivers too.
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in SYSTEMS],
    indirect=True,
)
def test_a_killed_run_repeated_leaves_what_an_undisturbed_one_does(
    spec: SystemSpec, finished_runs: Callable[[str], FinishedRun], cluster: dict[str, str]
) -> None:
    straight = finished_runs(spec.name)
    directory = killed_and_repeated(spec.name, straight, cluster)
    expected, found = untimed(straight.directory, spec.timed), untimed(directory, spec.timed)
    for part in expected:
        assert found[part] == expected[part], part
    pattern = KILLED[spec.name].models
    files = sorted(straight.directory.glob(pattern)) if pattern else []
    assert bool(files) == bool(pattern)
    for file in files:
        assert file.read_bytes() == (directory / file.relative_to(straight.directory)).read_bytes(), file


def test_repeating_the_command_of_a_finished_run_does_nothing(
    spec: SystemSpec, finished_runs: Callable[[str], FinishedRun], run_job: Callable[..., object]
) -> None:
    run = finished_runs(spec.name)
    again = run_job(*run.arguments)
    assert again.returncode == 0
    assert "finished already" in again.stdout
    changed = run_job(*run.arguments, "--run.seed", "77")
    assert changed.returncode == 3
    assert "run.seed" in changed.stderr
