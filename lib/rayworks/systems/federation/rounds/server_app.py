"""A federation's server as a Flower ``ServerApp``; with :func:`client_app` all that stock Flower needs."""

from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from rayworks.systems.federation.config import Config
from rayworks.systems.federation.rounds.federated_training import Federation, RoundRecord

Watch = Callable[[Federation, Grid, RoundRecord], None]


def server_app(
    config: Config, seed: int, watch: Watch | None = None, federation: Federation | None = None
) -> ServerApp:
    """The app that trains all rounds of ``config.strategy``, of a loaded federation or a new one; ``watch`` sees each."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        training = federation or Federation(config, seed)
        training.start(grid)
        while training.rounds_done < config.strategy.rounds:
            record = training.round(grid)
            if watch is not None:
                watch(training, grid, record)

    return app
