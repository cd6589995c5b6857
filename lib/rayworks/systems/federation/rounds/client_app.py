"""A federation's clients as a Flower ``ClientApp``: usable in Flower's simulation, in a deployment, and by our engine.

It answers ``query.describe``, ``query.state``, ``train.pool``, ``train.receive``, ``train.restore``, ``train`` and
``evaluate``. An exception inside becomes an error reply.
"""

from collections.abc import Callable, Sequence
from typing import Any

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from rayworks.core.errors import DataError
from rayworks.lm.threads import limit_torch_threads
from rayworks.systems.federation.config import Config
from rayworks.systems.federation.messages.records import ARRAYS, CONFIG, METRICS, arrays_of, number, numbers, to_record
from rayworks.systems.federation.privacy.secure_aggregation import secure_mods
from rayworks.systems.federation.privacy.update_clipping import clipped
from rayworks.systems.federation.rounds.clients import MEANS, TRAINED_STATE, Client, task_of

ROUND, EDITION, BOUND = "server-round", "edition", "clip-bound"
Handler = Callable[[Client, Message, Context], RecordDict]


def client_app(config: Config, seed: int, mods: Sequence[Mod] = ()) -> ClientApp:
    """The app of all clients; which one answers is the node's ``partition-id``.

    Args:
        config: config of one method.
        seed: seed of the federation: the partition, batches and pseudo-images follow from it.
        mods: Flower mods around every answer, inside those of secure aggregation where privacy.secure_aggregation is set.
    """
    secure = secure_mods(config.strategy.weighting == "equal") if config.privacy.secure_aggregation else []
    app, written = ClientApp(mods=[*secure, *mods]), config.model_dump_json()

    def answering(handler: Handler) -> Callable[[Message, Context], Message]:
        def answer(message: Message, context: Context) -> Message:
            limit_torch_threads()
            task = task_of(written, seed)
            client = Client(task, _partition(context, len(task.parts)), context.state)
            return Message(handler(client, message, context), reply_to=message)

        return answer

    app.query("describe")(answering(_describe))
    app.query("state")(answering(_state))
    app.train("pool")(answering(_pool))
    app.train("receive")(answering(_receive))
    app.train("restore")(answering(_restore))
    app.train()(answering(_train))
    app.evaluate()(answering(_evaluate))
    return app


def _partition(context: Context, parts: int) -> int:
    found = context.node_config.get("partition-id")
    if not isinstance(found, int) or not 0 <= found < parts:
        raise DataError(f"partition-id: {found!r} is none of the {parts} partitions; give the node one in its config")
    return found


def _describe(client: Client, message: Message, context: Context) -> RecordDict:
    counts, partition = [int(count) for count in client.counts()], int(context.node_config["partition-id"])
    described: dict[str, Any] = {"partition": partition, "num-examples": sum(counts), "counts": counts}
    return RecordDict({METRICS: MetricRecord({**described, "shape": list(client.real.shape)})})


def _state(client: Client, message: Message, context: Context) -> RecordDict:
    """What training left in the client, for a checkpoint of the federation."""
    return RecordDict({name: context.state[name] for name in TRAINED_STATE if name in context.state})


def _restore(client: Client, message: Message, context: Context) -> RecordDict:
    for name in TRAINED_STATE:
        if name in message.content:
            context.state[name] = message.content[name]
    return RecordDict({METRICS: MetricRecord({"num-examples": 0})})


def _pool(client: Client, message: Message, context: Context) -> RecordDict:
    content, edition = message.content, int(number(message.content.config_records[CONFIG], EDITION))
    if content.config_records[CONFIG].get("means"):
        return RecordDict({ARRAYS: to_record(client.shared_means())})
    labels, counts = numbers(content, CONFIG, "labels"), numbers(content, CONFIG, "counts")
    return RecordDict({ARRAYS: to_record(client.encodings(labels, counts, edition))})


def _receive(client: Client, message: Message, context: Context) -> RecordDict:
    content = message.content
    if MEANS in content:
        context.state[MEANS] = content[MEANS]
    mixups = arrays_of(content) if ARRAYS in content else None
    local, noise, copies = (numbers(content, CONFIG, name) for name in ("local-mixups", "noise", "copies"))
    made = client.receive(mixups, local, noise, copies, int(number(content.config_records[CONFIG], EDITION)))
    return RecordDict({METRICS: MetricRecord({"num-examples": made})})


def _train(client: Client, message: Message, context: Context) -> RecordDict:
    content, config = message.content, message.content.config_records[CONFIG]
    before = arrays_of(content)
    variate, gradient = (arrays_of(content, name) if name in content else None for name in ("variate", "gradient"))
    result, change, straggles = client.train(before, int(number(config, ROUND)), variate, gradient)
    weights, within = result.weights, 1
    if BOUND in config:
        bound = number(config, BOUND)
        weights, norm = clipped(weights, before, bound)
        within = int(norm <= bound)
    metrics: dict[str, Any] = {
        "num-examples": len(client.real.labels),
        "loss": result.loss,
        "steps": result.steps,
        "normaliser": result.normaliser,
        "straggler": int(straggles),
        "within-bound": within,
    }
    reply = RecordDict({ARRAYS: to_record(weights), METRICS: MetricRecord(metrics)})
    if change is not None:
        reply["variate"] = to_record(change)
    return reply


def _evaluate(client: Client, message: Message, context: Context) -> RecordDict:
    examples, accuracy, loss = client.evaluate(arrays_of(message.content))
    return RecordDict({METRICS: MetricRecord({"num-examples": examples, "accuracy": accuracy, "loss": loss})})
