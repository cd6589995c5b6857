"""Secure aggregation: the server sees only sums of updates, by Flower's SecAgg+ (Bell et al. 2020).

Flower has the protocol for its old interface alone. So both ends are bridged: a mod turns what the protocol hands a client
into our message and back, and the workflow is given the least of a legacy strategy. Sums are quantised with random rounding:
equal seeds give equal bits no longer.

Only a round's arrays are hidden. In the clear travel, of each client: its loss and other metrics, its number of examples, its
label counts (exact, or noised by privacy.histogram_epsilon), and the encodings and means that it shares. Nobody can look into
a masked array, so the client itself refuses what the server rejects elsewhere, and counts as failed.
"""

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.clientapp.typing import ClientAppCallable, Mod
from flwr.common import Code, FitIns, FitRes, Parameters, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.compat.common import recorddict_compat
from flwr.server.client_proxy import ClientProxy
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
from flwr.serverapp import Grid

from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.federation.messages.records import ARRAYS, CONFIG, METRICS, to_arrays, to_record
from rayworks.systems.federation.training.aggregation import Arrays, fault

NAMES, MOST = "names", "most-examples"
CLIPPING, STEPS, MODULUS = 8.0, 2**22, 2**32
"""Arrays lie in -8..8 on a grid of so many steps; sums are taken modulo the last."""
FEWEST_CLIENTS, MOST_CLIENTS = 3, MODULUS // STEPS - 1
"""Each of two could subtract its own update from the sum, and loses the round with the other; more overflow the modulus."""
ALL_TO_ALL = 32
"""Up to so many clients everyone shares its keys with everyone, beyond that with 32 neighbours."""
REBUILT_FROM = 0.5
"""Share of the key shares from which a dropped client's masks are rebuilt."""


def secure_mods(equal: bool) -> list[Mod]:
    """The mods of a client app whose training is aggregated securely; ``equal`` gives all clients with data one weight."""

    def bridge(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Translate between the protocol's legacy content and ours."""
        if message.metadata.message_type != "train":
            return call_next(message, context)
        fit = recorddict_compat.recorddict_to_fitins(message.content, keep_input=True)
        names: list[list[str]] = json.loads(str(fit.config.pop(NAMES)))
        most = int(fit.config.pop(MOST))
        grouped: dict[str, Arrays] = {}
        for (record, name), array in zip(names, parameters_to_ndarrays(fit.parameters), strict=True):
            grouped.setdefault(record, {})[name] = array
        records = {record: to_record(arrays) for record, arrays in grouped.items()}
        message.content = RecordDict({CONFIG: ConfigRecord(dict(fit.config)), **records})
        reply = call_next(message, context)
        metrics: dict[str, Any] = dict(reply.content.metric_records[METRICS])
        found = to_arrays(reply.content.array_records[ARRAYS])
        examples = int(metrics["num-examples"])
        weight = min(examples, 1) if equal else examples
        _require_summable(found, grouped[ARRAYS], weight, most)
        parameters = ndarrays_to_parameters([found[name] for record, name in names if record == ARRAYS])
        result = FitRes(Status(Code.OK, ""), parameters, weight, metrics)
        reply.content = recorddict_compat.fitres_to_recorddict(result, keep_input=False)
        return reply

    return [secaggplus_mod, bridge]


def _require_summable(found: Arrays, sent: Arrays, weight: int, most: int) -> None:
    """Refuse, at the client, what would be masked and spoil the sum.

    Raises:
        DataError: arrays that are not finite, of other names or shapes, or out of range; a weight above ``most``.
    """
    problem = fault(found, sent)
    if problem is not None:
        raise DataError(problem)
    for name, value in found.items():
        if value.size and np.abs(value).max() > CLIPPING:
            raise DataError(
                f"update: array {name!r} goes beyond the clipping range of -{CLIPPING:g}..{CLIPPING:g} of "
                "privacy.secure_aggregation; lower local.learning_rate, or raise local.weight_decay"
            )
    if weight > most:
        raise DataError(
            f"num-examples: {weight} is above the bound of {most} that the server has from noised label counts; set "
            "strategy.weighting to equal, or raise privacy.histogram_epsilon"
        )


class _Cohort(FedAvg):
    """Hands the workflow a round's clients and takes its result."""

    def __init__(self, nodes: Sequence[int], parameters: Parameters, config: dict[str, Any]) -> None:
        super().__init__()
        # All that the workflow wants of a client is its number: it sends messages itself.
        self._instructions: list[tuple[ClientProxy, FitIns]] = [
            (cast(ClientProxy, SimpleNamespace(node_id=node)), FitIns(parameters, dict(config))) for node in nodes
        ]
        self.results: list[tuple[ClientProxy, FitRes]] = []

    def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> Any:
        """The cohort, whatever the manager holds."""
        return self._instructions

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        """All results carry the mean."""
        self.results = results
        return None, {}


def secure_round(
    grid: Grid, messages: Sequence[Message], most_examples: int
) -> tuple[Arrays | None, dict[int, MetricRecord]]:
    """Run the protocol over the clients that ``messages`` of :class:`FederatedStrategy` are meant for.

    Args:
        most_examples: at least the number of examples of any of them, as noised label counts may not be: clients with
            more refuse. The closer, the finer the quantisation: with it as weight 1, arrays lie in -8..8 on a grid of 2^22
            steps.

    Returns:
        the mean weighted by examples, None where too few clients finished, and the metrics of those that did, by node.

    Raises:
        ConfigError: fewer clients than can hide each other, or more than the sum has room for.
    """
    if not FEWEST_CLIENTS <= len(messages) <= MOST_CLIENTS:
        raise ConfigError(
            f"strategy.participation: makes rounds of {len(messages)} clients, privacy.secure_aggregation takes "
            f"{FEWEST_CLIENTS} to {MOST_CLIENTS}; change it or data.clients"
        )
    most = max(most_examples, 1)
    content = messages[0].content
    arrays = [
        (record, name, array)
        for record, values in content.array_records.items()
        for name, array in to_arrays(values).items()
    ]
    settings: dict[str, Any] = dict(content.config_records[CONFIG])
    settings[NAMES] = json.dumps([[record, name] for record, name, _ in arrays])
    settings[MOST] = most
    parameters = ndarrays_to_parameters([array for _, _, array in arrays])
    cohort = _Cohort([message.metadata.dst_node_id for message in messages], parameters, settings)
    numbered = ConfigRecord({Key.CURRENT_ROUND: int(messages[0].metadata.group_id)})
    state = RecordDict({MAIN_CONFIGS_RECORD: numbered, MAIN_PARAMS_RECORD: ArrayRecord()})
    context = LegacyContext(Context(run_id=0, node_id=0, node_config={}, state=state, run_config={}), strategy=cohort)
    shares: float | int = 1.0 if len(messages) <= ALL_TO_ALL else ALL_TO_ALL + 1
    workflow = SecAggPlusWorkflow(
        shares,
        REBUILT_FROM,
        max_weight=float(most),
        clipping_range=CLIPPING,
        quantization_range=STEPS,
        modulus_range=MODULUS,
    )
    workflow(grid, context)
    if not cohort.results:
        return None, {}
    metrics = {proxy.node_id: MetricRecord(cast(Any, result.metrics)) for proxy, result in cohort.results}
    found = parameters_to_ndarrays(cohort.results[0][1].parameters)
    mean = dict(zip([name for record, name, _ in arrays if record == ARRAYS], found, strict=True))
    return mean if all(np.isfinite(value).all() for value in found) else None, metrics
