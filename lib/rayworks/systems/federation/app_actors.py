"""Run Flower apps that know nothing of us on the engine: ``run`` in place of ``flwr.simulation.run_simulation``."""

from collections.abc import Callable, Mapping
from typing import Any

from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from rayworks.core.config import ComputeSection
from rayworks.core.errors import ConfigError
from rayworks.core.registry import of_the_user
from rayworks.runtime import launch
from rayworks.systems.federation.actors import RayGrid, client_pool

Values = Mapping[str, Any]


def run(
    server_app: ServerApp | str,
    client_app: ClientApp | str,
    num_supernodes: int,
    run_config: Values | None = None,
    node_config: Callable[[int], Values] | None = None,
    compute: ComputeSection | None = None,
    clients_per_task: int | None = None,
) -> Context:
    """Run a server app to its end, with its clients on persistent actors of this Ray, or of one that lives as long.

    Args:
        server_app: the app, or ``module:attribute``.
        client_app: the app, or ``module:attribute``, which every node must be able to import.
        num_supernodes: number of clients; client i has ``partition-id`` i of ``num-partitions``.
        run_config: what the contexts of server and clients have as ``run_config``.
        node_config: from the partition to what its client's ``node_config`` has beside these two.
        compute: workers, and what each takes of a node.
        clients_per_task: clients of one call; four calls per worker if None.

    Returns:
        The server's context at the end.

    Raises:
        ConfigError: no clients; an app that is none, or cannot be imported.
        Exception: whatever the server app raises. A client's is an error in its reply.
    """
    if num_supernodes < 1:
        raise ConfigError(f"num_supernodes is {num_supernodes}; give at least 1")
    server = _app("server_app", server_app, ServerApp)
    _app("client_app", client_app, ClientApp)
    compute = compute or ComputeSection()
    launch.attach([{"CPU": compute.cpus_per_worker * compute.workers}])
    pool = client_pool(compute, "flower-app")
    try:
        grid = RayGrid(
            pool,
            compute.workers,
            _made,
            client_app,
            clients=num_supernodes,
            clients_per_task=clients_per_task,
            run_config=run_config,
            node_config=node_config,
        )
        context = Context(grid.run.run_id, 0, {}, RecordDict(), dict(run_config or {}))
        server(grid, context)
        return context
    finally:
        pool.shutdown()


def _made(app: ClientApp | str) -> ClientApp:
    """The client app inside an actor."""
    found: ClientApp = _app("client_app", app, ClientApp)
    return found


def _app(field: str, app: Any, kind: type[Any]) -> Any:
    found = of_the_user(field, app, "is no Flower app; name it as module:attribute") if isinstance(app, str) else app
    if not isinstance(found, kind):
        raise ConfigError(f"{field}: is a {type(found).__name__}, not a {kind.__name__}; name Flower's app object")
    return found
