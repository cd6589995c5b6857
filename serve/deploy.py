"""Deploy a Serve config on the running cluster: ``python -m serve.deploy FILE [--only NAME ...]``.

Ray's own schema accepts unknown keys silently; here a key that nothing reads is an error. Exports and keys are read before
anything is replaced, so that a deploy that lacks one leaves what serves as it is.
"""

import argparse
import importlib
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from rayworks.core import config as configs
from rayworks.core.errors import ConfigError, DataError, InfrastructureError, RayworksError
from rayworks.core.yaml_reading import load
from rayworks.systems import REGISTRY

from .common.keys import ApiKeys

DEPLOY_SECONDS = 300
WITHDRAW_SECONDS = 60
DEFAULT_PORT = 8000


def load_config(file: Path) -> dict[str, Any]:
    """Read and check a Serve config: every key known to Ray's schema, every ``args`` valid for its builder.

    Raises:
        ConfigError: naming the key.
    """
    from ray.serve.schema import ServeDeploySchema

    try:
        values = load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: can not be read ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: must hold a mapping")
    _require_known_keys(values, ServeDeploySchema, str(file))
    try:
        ServeDeploySchema.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{file}: {configs.explain(error, ServeDeploySchema)}") from None
    for application in values["applications"]:
        _check_args(application, file)
    return values


def require_files(applications: Sequence[dict[str, Any]], file: Path) -> None:
    """Read each application's export and keys, as its replicas will.

    Raises:
        DataError: naming every application that lacks one.
    """
    lacking = {}
    for application in applications:
        module = _module(application, file)
        system = module.__name__.rpartition(".")[2]
        if system not in REGISTRY:
            continue
        args = module.Args.model_validate(application.get("args", {}))
        try:
            if args.export is not None:
                exported = importlib.import_module(f"rayworks.systems.{system}.exported")
                exported.read_export(args.export, **args.model_dump(include={"trusted"}))
            ApiKeys(args.api_keys, application["name"])
        except DataError as error:
            lacking[application["name"]] = str(error)
    if lacking:
        told = "; ".join(f"application {name}: {reason}" for name, reason in lacking.items())
        others = [application["name"] for application in applications if application["name"] not in lacking]
        without = f"; to deploy the others: --only {' '.join(others)}" if others else ""
        raise DataError(f"{file}: {told}; nothing was replaced{without}")


def require_same_http(running: Mapping[str, Any], values: Mapping[str, Any], file: Path) -> None:
    """Refuse other ``http_options`` than Serve has begun with: it would keep its own without a word.

    Args:
        running: the details of Serve; empty but for a few while it does not run.
        values: the config.
        file: of the config.

    Raises:
        ConfigError: naming the option.
    """
    kept = running.get("http_options", {})
    for name, value in {"port": DEFAULT_PORT, **values.get("http_options", {})}.items():
        if kept.get(name, value) != value:
            fix = f"write {kept[name]}, or start the cluster again"
            raise ConfigError(
                f"{file}: http_options.{name}: Serve runs with {kept[name]}, not {value}, and keeps it; {fix}"
            )


def deploy(file: Path, only: Sequence[str] = (), *, files_elsewhere: bool = False) -> list[str]:
    """Deploy and wait until every application runs; their URLs.

    Args:
        file: the Serve config.
        only: names of the applications to deploy; empty for all.
        files_elsewhere: exports and keys lie where the cluster's nodes read them and this machine does not.

    Raises:
        ConfigError: the file is wrong, or has no application of such a name.
        DataError: an application lacks its export or its keys.
        InfrastructureError: no cluster answers, or an application does not come up.
    """
    from cluster import local

    try:
        address = local.join()
    except LookupError as error:
        raise InfrastructureError(str(error)) from None
    values = _only(load_config(file), only, file)
    if not files_elsewhere:
        require_files(values["applications"], file)
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
    from ray.exceptions import AuthenticationError

    try:
        client = ServeSubmissionClient(address)
        require_same_http(client.get_serve_details(), values, file)
        _withdraw_failed(client, values)
        client.deploy_applications(values)
    except (OSError, RuntimeError, AuthenticationError) as error:
        reason = str(error).strip().splitlines()[0].partition(". ")[0]
        fix = "" if isinstance(error, RuntimeError) else f"; {local.remedy(address)}"
        raise InfrastructureError(f"RAY_DASHBOARD_ADDRESS {address}: can not deploy ({reason}){fix}") from None
    _wait(client, [application["name"] for application in values["applications"]])
    http = values.get("http_options", {})
    root = f"http://{http.get('host', '127.0.0.1').replace('0.0.0.0', '127.0.0.1')}:{http.get('port', DEFAULT_PORT)}"
    return [root + application["route_prefix"] for application in values["applications"]]


def _only(values: dict[str, Any], only: Sequence[str], file: Path) -> dict[str, Any]:
    known = [application["name"] for application in values["applications"]]
    unknown = [name for name in only if name not in known]
    if unknown:
        raise ConfigError(f"--only {unknown[0]}: is no application of {file}; known here: {', '.join(known)}")
    kept = [application for application in values["applications"] if not only or application["name"] in only]
    return {**values, "applications": kept}


def _withdraw_failed(client: Any, values: dict[str, Any]) -> None:
    """Take away what failed before with the same arguments: Serve would leave it as it is.

    With others Serve replaces it itself, and what still runs of it goes on meanwhile.
    """
    found = client.get_serve_details().get("applications", {})
    failed = {
        application["name"]
        for application in values["applications"]
        if (state := found.get(application["name"], {})).get("status") == "DEPLOY_FAILED"
        and (state.get("deployed_app_config") or {}).get("args", {}) == application.get("args", {})
    }
    kept = [application for application in values["applications"] if application["name"] not in failed]
    if len(kept) == len(values["applications"]):
        return
    client.deploy_applications({**values, "applications": kept})
    deadline = time.monotonic() + WITHDRAW_SECONDS
    while failed & client.get_serve_details().get("applications", {}).keys() and time.monotonic() < deadline:
        time.sleep(0.2)


def _wait(client: Any, names: list[str]) -> None:
    deadline = time.monotonic() + DEPLOY_SECONDS
    while True:
        applications = client.get_serve_details().get("applications", {})
        states = {name: applications.get(name, {}) for name in names}
        failed = {
            name: state for name, state in states.items() if state.get("status") in ("DEPLOY_FAILED", "UNHEALTHY")
        }
        if failed and all(state.get("status") not in ("DEPLOYING", "NOT_STARTED", None) for state in states.values()):
            reasons = {name: _reason(state) for name, state in failed.items()}
            running = ", ".join(name for name in names if name not in failed) or "none"
            told = "; ".join(
                f"application {name}: {state['status']}: {reasons[name]}" for name, state in failed.items()
            )
            # What an application lacks it lacks the next time too.
            kind = DataError if all("DataError" in reason for reason in reasons.values()) else InfrastructureError
            raise kind(f"{told}; running: {running}")
        if all(state.get("status") == "RUNNING" for state in states.values()):
            return
        if time.monotonic() > deadline:
            waiting = "; ".join(f"{name} {state.get('status')}: {_reason(state)}" for name, state in states.items())
            raise InfrastructureError(f"not running after {DEPLOY_SECONDS} s: {waiting}")
        time.sleep(0.5)


def _reason(state: dict[str, Any]) -> str:
    messages = [state.get("message", ""), *(d.get("message", "") for d in state.get("deployments", {}).values())]
    lines = [line.strip() for message in messages for line in message.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line]
    return str((errors or lines or ["no message"])[-1])


def _require_known_keys(values: Any, schema: Any, path: str) -> None:
    model = next(
        (kind for kind in (schema, *get_args(schema)) if isinstance(kind, type) and issubclass(kind, BaseModel)), None
    )
    if isinstance(values, list):
        for index, entry in enumerate(values):
            _require_known_keys(entry, model, f"{path}[{index}]")
    elif isinstance(values, dict) and model is not None:
        for key, value in values.items():
            if key not in model.model_fields:
                raise ConfigError(f"{path}: {key} is not a key; known here: {', '.join(sorted(model.model_fields))}")
            _require_known_keys(value, model.model_fields[key].annotation, f"{path}: {key}")


def _module(application: dict[str, Any], file: Path) -> Any:
    name = application["import_path"].partition(":")[0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        told = f"application {application['name']}: import_path {application['import_path']}: {error}"
        raise ConfigError(f"{file}: {told}; write serve.apps.SYSTEM:build") from None


def _check_args(application: dict[str, Any], file: Path) -> None:
    module = _module(application, file)
    try:
        module.Args.model_validate(application.get("args", {}))
    except ValidationError as error:
        raise ConfigError(
            f"{file}: application {application['name']}: args: {configs.explain(error, module.Args)}"
        ) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Deploy one file and print the URLs."""
    parser = argparse.ArgumentParser(prog="python -m serve.deploy", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="applications of the file to deploy")
    parser.add_argument(
        "--files-elsewhere",
        action="store_true",
        help="do not read exports and keys first: the nodes of the cluster have them, this machine has not",
    )
    options = parser.parse_args(arguments)
    try:
        for url in deploy(options.file, options.only, files_elsewhere=options.files_elsewhere):
            print(f"serving {url}")
    except RayworksError as error:
        print(f"{error.kind} error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
