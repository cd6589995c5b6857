"""Federations in one process: what they conserve, how they resume, what they survive, and that stock Flower can run them."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from flwr.serverapp.strategy import FedAvg

from rayworks.core.errors import ConfigError, DataError
from rayworks.core.seeds import stream
from rayworks.systems.federation.config import Config
from rayworks.systems.federation.data.examples import scaled
from rayworks.systems.federation.messages.records import ARRAYS, to_arrays, to_record
from rayworks.systems.federation.rounds.client_app import client_app
from rayworks.systems.federation.rounds.clients import PSEUDO, VARIATE, task_of
from rayworks.systems.federation.rounds.federated_training import Federation, RoundRecord
from rayworks.systems.federation.rounds.pool_exchange import demand, describe
from rayworks.systems.federation.rounds.strategy import FederatedStrategy
from rayworks.systems.federation.training.aggregation import Arrays
from rayworks.systems.federation.training.local_objectives import CrossEntropy
from rayworks.systems.federation.training.local_training import Weighted, train, weights_of
from tests.serial_grid import SerialGrid
from tests.small_federation import small_config, write_images

EVERY_STRATEGY = ("fedavg", "fedprox", "scaffold", "fednova", "moon", "feddyn")
Outcome = tuple[Federation, list[RoundRecord], SerialGrid]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "images.npz")


def run(config: Config, seed: int = 0, rounds: int | None = None, **options: Any) -> Outcome:
    grid = SerialGrid(client_app(config, seed), config.data.clients, **options)
    federation = Federation(config, seed)
    federation.start(grid)
    records = [federation.round(grid) for _ in range(rounds or config.strategy.rounds)]
    return federation, records, grid


def same(first: Arrays, second: Arrays) -> bool:
    return all(np.array_equal(first[name], second[name]) for name in first)


def test_one_client_is_centralised_training(images: Path) -> None:
    config = small_config(images, data={"clients": 1, "partition": "iid"}, balance={"level": 0.0})
    federation, _, _ = run(config)
    task = task_of(config.model_dump_json(), 0)
    own = task.train.take(task.parts[0])
    model = task.model(task.initial_weights(), "centralised")
    for number in range(1, 4):
        draw = stream(0, "client", 0, "batches", number)
        steps = -(-len(own) // 8)
        train(model, Weighted.real(scaled(own.inputs), own.labels, 4), config.local, steps, 0.05, CrossEntropy(), draw)
    assert same(federation.weights(), weights_of(model))


@pytest.mark.parametrize("name", EVERY_STRATEGY)
def test_neither_arrival_nor_node_numbers_change_a_bit(images: Path, name: str) -> None:
    config = small_config(images, strategy={"name": name, "participation": 0.5})
    straight, records, _ = run(config)
    mixed, others, _ = run(config, shuffle_seed=5, first=100, step=17)
    assert same(straight.weights(), mixed.weights())
    assert [replace(r, seconds=0.0) for r in records] == [replace(r, seconds=0.0) for r in others]
    assert not same(straight.weights(), run(config, seed=1)[0].weights())


@pytest.mark.parametrize("name", EVERY_STRATEGY)
def test_a_resumed_training_is_the_one_that_went_through(images: Path, name: str, tmp_path: Path) -> None:
    sections: dict[str, Any] = {"strategy": {"name": name, "rounds": 4}, "balance": {"refresh": 2}}
    if name not in ("scaffold", "feddyn"):
        sections["privacy"] = {"clipping": "adaptive", "clip_norm": 0.5}
    config = small_config(images, **sections)
    straight, records, _ = run(config)
    half, _, grid = run(config, rounds=2)
    half.save(tmp_path, grid)
    resumed = Federation(config, 0)
    resumed.load(tmp_path)
    assert resumed.rounds_done == 2
    fresh = SerialGrid(client_app(config, 0), 4)
    resumed.start(fresh)
    later = [resumed.round(fresh) for _ in range(2)]
    assert same(straight.weights(), resumed.weights())
    assert [replace(r, seconds=0.0) for r in later] == [replace(r, seconds=0.0) for r in records[2:]]


def test_clients_get_the_pseudo_images_that_were_planned(images: Path) -> None:
    plain = small_config(images, balance={"level": 0.0}, strategy={"rounds": 1})
    filled = small_config(images, balance={"mixup_share": 1.0}, strategy={"rounds": 1})
    (_, without, _), (_, with_mixups, grid) = run(plain), run(filled)
    task = task_of(filled.model_dump_json(), 0)
    for partition, node in enumerate(grid.get_node_ids()):
        own = task.train.take(task.parts[partition])
        pseudo = to_arrays(grid.states[node].array_records[PSEUDO])
        assert pseudo["inputs"].dtype == np.uint8
        assert not pseudo["labels"][:, own.counts() > 0].any()
        wanted = int(np.ceil(0.3 * len(own) - 1e-9))
        np.testing.assert_allclose(pseudo["labels"].sum(0)[own.counts() == 0], wanted)
    assert with_mixups[0].pseudo_images == sum(len(pseudo["inputs"]) for _ in range(4))
    assert without[0].pseudo_images == 0
    assert with_mixups[0].bytes_down > without[0].bytes_down + 64 * with_mixups[0].pseudo_images


def test_demand_by_source_and_sharing(images: Path) -> None:
    counts = np.array([[10, 0], [0, 10], [8, 2]])
    owned = demand(small_config(images, balance={"source": "owned", "level": 1.0}), counts, 0)
    assert owned.copies.tolist() == [[0, 0], [0, 0], [0, 6]]
    local = demand(small_config(images, mixup={"sharing": "local"}, balance={"level": 1.0}), counts, 0)
    assert local.noise[:2].tolist() == [[0, 10], [10, 0]]
    assert (local.local + local.noise)[2].tolist() == [0, 6]
    pooled = demand(small_config(images, balance={"mixup_share": 1.0, "level": 1.0}), counts, 0)
    assert len(pooled.orders) > 0
    assert all(owner != client for owner, client, _, _ in pooled.orders.tolist())
    assert pooled.total == local.total == 26


def test_the_sum_of_the_clients_variates_is_the_servers(images: Path) -> None:
    config = small_config(images, strategy={"name": "scaffold", "participation": 0.5}, local={"momentum": 0.0})
    federation, _, grid = run(config)
    own = [to_arrays(s.array_records[VARIATE]) for s in grid.states.values() if VARIATE in s]
    for name, value in federation.strategy.state.variate.items():
        np.testing.assert_allclose(4 * value, sum(variate[name] for variate in own), atol=1e-5)


def test_dropouts_and_stragglers_are_drawn_by_seed_and_counted(images: Path) -> None:
    config = small_config(images, failures={"dropout": 0.4, "stragglers": 0.5}, strategy={"rounds": 6})
    federation, records, _ = run(config)
    assert all(r.asked == 4 and r.answered + r.failed == 4 for r in records)
    assert 4 < sum(r.failed for r in records) < 16
    assert 2 < sum(r.stragglers for r in records) < 16
    assert same(federation.weights(), run(config)[0].weights())


def test_a_broken_update_is_rejected_and_a_broken_client_is_an_error_reply(images: Path) -> None:
    config = small_config(images, balance={"level": 0.0})

    def breaking(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        partition = context.node_config["partition-id"]
        if message.metadata.message_type == "train" and partition == 1:
            raise ValueError("no disk")
        reply = call_next(message, context)
        if message.metadata.message_type == "train" and partition == 2:
            arrays = to_arrays(reply.content.array_records[ARRAYS])
            arrays["head.bias"][0] = np.inf
            reply.content[ARRAYS] = to_record(arrays)
        return reply

    grid = SerialGrid(client_app(config, 0, [breaking]), 4)
    federation = Federation(config, 0)
    federation.start(grid)
    record = federation.round(grid)
    assert (record.answered, record.failed, record.rejected) == (3, 1, 1)
    assert "head.bias" in federation.strategy.tally.rejected[2]
    assert all(np.isfinite(value).all() for value in federation.weights().values())


@pytest.mark.parametrize(
    "strategy", [*({"name": name} for name in EVERY_STRATEGY), {"name": "fedavg", "weighting": "equal"}]
)
def test_clients_without_examples_take_part_and_change_nothing(images: Path, strategy: dict[str, Any]) -> None:
    few = small_config(
        images, data={"train_examples": 3, "partition": "iid"}, balance={"level": 0.0}, strategy=strategy
    )

    def without_the_last(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if message.metadata.message_type == "train" and context.node_config["partition-id"] == 3:
            raise ValueError("away")
        return call_next(message, context)

    federation, records, _ = run(few)
    assert records[-1].answered == 4
    assert records[-1].client_accuracies is not None
    assert records[-1].client_accuracies[3] is None
    others, grid = Federation(few, 0), SerialGrid(client_app(few, 0, [without_the_last]), 4)
    others.start(grid)
    assert [others.round(grid).answered for _ in range(3)] == [3, 3, 3]
    assert same(federation.weights(), others.weights())


def test_fedprox_without_a_proximal_term_is_fedavg(images: Path) -> None:
    shared: dict[str, Any] = {"balance": {"mixup_share": 0.5}, "data": {"labels_per_client": 2}}
    average, _, _ = run(small_config(images, **shared))
    free, held = (
        run(small_config(images, **shared, strategy={"name": "fedprox", "proximal_mu": proximal}))[0]
        for proximal in (0.0, 1.0)
    )
    assert same(free.weights(), average.weights())
    assert not same(held.weights(), average.weights())


@pytest.mark.parametrize("weighting", ["examples", "equal"])
def test_the_secure_sum_is_the_plain_one_to_the_quantisation(images: Path, weighting: str) -> None:
    """With two of four clients gone after they shared their keys, in one of the rounds."""
    shared: dict[str, Any] = {
        "strategy": {"weighting": weighting, "rounds": 1},
        "failures": {"dropout": 0.3},
        "balance": {"mixup_share": 1.0},
        "data": {"clients": 6, "partition": "iid"},
    }
    (plain, expected, _), (secure, found, _) = (
        run(small_config(images, **shared, privacy={"secure_aggregation": on})) for on in (False, True)
    )
    assert (found[0].answered, found[0].loss) == (expected[0].answered, pytest.approx(expected[0].loss))
    assert 2 < found[0].answered < 6
    for name, value in plain.weights().items():
        np.testing.assert_allclose(secure.weights()[name], value, atol=2 * 16 / 2**22)


def test_the_servers_gradient_weighs_pseudo_images(images: Path) -> None:
    shared: dict[str, Any] = {"balance": {"mixup_share": 0.0, "reweighting": "server-gradient", "server_examples": 12}}
    weighed, records, _ = run(small_config(images, **shared))
    plain, _, _ = run(small_config(images, balance={"mixup_share": 0.0}))
    assert not same(weighed.weights(), plain.weights())
    assert records[-1].accuracy is not None
    with pytest.raises(ConfigError, match=r"balance\.reweighting"):
        FederatedStrategy(small_config(images, **shared), 0)
    with pytest.raises(DataError, match=r"balance\.server_examples"):
        Federation(small_config(images, balance={"reweighting": "server-gradient", "server_examples": 10_000}), 0)


def test_noise_on_updates_has_its_epsilon_and_clients_clip(images: Path) -> None:
    privacy = {"clipping": "fixed", "clip_norm": 0.01, "noise_multiplier": 0.5}
    config = small_config(images, privacy=privacy, strategy={"weighting": "equal", "rounds": 2})
    _, records, _ = run(config)
    assert records[0].clip_bound == 0.01
    assert records[0].epsilon is not None
    assert records[1].epsilon is not None
    assert 0 < records[0].epsilon < records[1].epsilon
    quiet = small_config(images, privacy={"clipping": "fixed", "clip_norm": 0.01}, strategy={"rounds": 1})
    federation, _, _ = run(quiet)
    start = task_of(quiet.model_dump_json(), 0).initial_weights()
    moved = sum(float(np.square(federation.weights()[name] - start[name]).sum()) for name in start)
    assert 0 < moved**0.5 <= 0.01 * (1 + 1e-4)


@pytest.mark.parametrize("method", ["fedmix", "vhl", "fedrs", "fedlc", "balanced-softmax", "oversampling"])
def test_every_other_method_trains(images: Path, method: str) -> None:
    config = small_config(images, data={"labels_per_client": 2}, strategy={"rounds": 5}).of_method(method)
    _, records, _ = run(config)
    assert records[-1].failed == 0
    assert records[-1].loss < records[0].loss


def test_histograms_can_be_noised_and_the_pool_still_meets_its_orders(images: Path) -> None:
    config = small_config(images, privacy={"histogram_epsilon": 0.2}, balance={"mixup_share": 1.0})
    federation, records, grid = run(config)
    assert records[-1].failed == 0
    members = federation.strategy.known
    task = task_of(config.model_dump_json(), 0)
    exact = np.stack([task.train.take(part).counts() for part in task.parts])
    assert not np.array_equal(members.counts, exact)
    assert records[0].pseudo_images == demand(config, members.counts, 0).total
    held = [len(to_arrays(state.array_records[PSEUDO])["inputs"]) for state in grid.states.values()]
    assert sum(held) == records[0].pseudo_images > 0


def test_stock_flower_strategies_run_over_our_clients_and_ours_over_stock_flower(images: Path) -> None:
    config = small_config(images, balance={"level": 0.0}, strategy={"rounds": 2})
    initial = to_record(task_of(config.model_dump_json(), 0).initial_weights())
    ours, _, _ = run(config)
    stock = FedAvg(fraction_evaluate=0.0, min_available_nodes=4).start(SerialGrid(client_app(config, 0), 4), initial, 2)
    driven = FederatedStrategy(config, 0).start(SerialGrid(client_app(config, 0), 4), initial, 2)
    for name, value in ours.weights().items():
        np.testing.assert_allclose(to_arrays(stock.arrays)[name], value, atol=1e-6)
        np.testing.assert_array_equal(to_arrays(driven.arrays)[name], value)
    assert driven.evaluate_metrics_clientapp[2]["num-examples"] > 0


def test_settings_and_nodes_that_do_not_fit_are_refused(images: Path) -> None:
    for sections, field in (
        ({"strategy": {"name": "feddyn", "proximal_mu": 0.0}}, r"strategy\.proximal_mu"),
        ({"strategy": {"name": "scaffold"}, "privacy": {"clipping": "fixed"}}, r"privacy\.clipping"),
    ):
        with pytest.raises(ValueError, match=field):
            small_config(images, **sections)
    config = small_config(images)
    for partition in (9, 4, -1, "0", None):
        context = Context(1, 2, {} if partition is None else {"partition-id": partition}, RecordDict(), {})
        with pytest.raises(DataError, match="partition-id"):
            client_app(config, 0)(Message(RecordDict(), 2, "query.describe"), context)
    with pytest.raises(DataError, match="join"):
        FederatedStrategy(config, 0).cohort(1)
    with pytest.raises(DataError, match="checkpoint"):
        Federation(config, 0).load(images.parent / "none")
    grid = SerialGrid(client_app(config, 0), 2)
    assert describe(grid, 2).nodes == {0: 2, 1: 3}
    grid._nodes[3] = 0
    with pytest.raises(DataError, match="0 is that of two nodes"):
        describe(grid, 2)


def test_digits_of_one_label_a_client_are_learned_with_pseudo_images() -> None:
    """The acceptance of specification 2.10, with equal numbers of steps: round 5 for noise, round 15 for mixups."""
    accuracies: dict[str, list[float]] = {}
    for name, rounds in (("fedavg", 5), ("noise", 5), ("mixup", 15)):
        config = Config.model_validate({"noise": {"generator": "spectrum"}}).of_method(name)
        _, records, _ = run(config, rounds=rounds)
        accuracies[name] = [record.accuracy or 0.0 for record in records]
    assert accuracies["noise"][4] >= accuracies["fedavg"][4] + 0.3
    assert accuracies["mixup"][14] >= 0.9


def test_a_round_in_which_nobody_can_train_ends_with_the_reason(images: Path) -> None:
    config = small_config(images, local={"learning_rate": 1e30})
    with pytest.raises(DataError, match=r"round 1: none of 4 clients could train; client 0.*local\.learning_rate"):
        run(config)


def test_clients_drawn_not_to_answer_are_no_problem(images: Path) -> None:
    _, records, _ = run(small_config(images, failures={"dropout": 0.9}, strategy={"rounds": 6}))
    assert sum(record.failed for record in records) > 12
    assert all(record.problem is None for record in records)


def test_a_rejected_client_counts_in_no_mean(images: Path) -> None:
    config = small_config(images, strategy={"rounds": 1}, privacy={"clipping": "adaptive", "clip_norm": 1e6})

    def spoil(message: Message, context: Context, call_next: Any) -> Message:
        reply = call_next(message, context)
        if message.metadata.message_type == "train" and context.node_config["partition-id"] == 1:
            arrays = to_arrays(reply.content.array_records["arrays"])
            reply.content["arrays"] = to_record({name: np.full_like(value, np.nan) for name, value in arrays.items()})
            reply.content.metric_records["metrics"]["loss"] = float("nan")
        return reply

    federation = Federation(config, 0)
    grid = SerialGrid(client_app(config, 0, [spoil]), 4)
    federation.start(grid)
    record = federation.round(grid)
    assert (record.answered, record.failed, record.rejected) == (4, 0, 1)
    assert np.isfinite(record.loss)
    assert record.problem is not None
    assert "client 1" in record.problem
    # All three that count lie within the bound: b = 1.
    assert federation.strategy.bound == pytest.approx(1e6 * np.exp(-0.2 * (1 - 0.5)))


def test_labels_nobody_holds_out_are_unknown_not_wrong(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    labels = np.array([0] * 60 + [1] * 60 + [2])
    pixels = draw.integers(0, 255, (121, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "rare.npz", inputs=pixels, labels=labels)
    _, records, _ = run(small_config(tmp_path / "rare.npz", data={"clients": 3}, balance={"level": 0.0}))
    assert records[-1].recalls is not None
    assert records[-1].client_accuracies is not None
    assert records[-1].recalls[2] is None
    assert records[-1].client_accuracies[2] is None
    assert None not in records[-1].recalls[:2]


@pytest.mark.parametrize(
    ("sections", "field"),
    [
        ({"strategy": {"name": "moon"}, "local": {"objective": "vhl"}}, "local.objective"),
        ({"balance": {"reweighting": "server-gradient"}, "local": {"objective": "vhl"}}, "balance.reweighting"),
        ({"balance": {"gradient_file": "g.safetensors"}}, "balance.gradient_file"),
        ({"strategy": {"name": "feddyn"}, "privacy": {"clipping": "fixed"}}, "privacy.clipping"),
        ({"experiment": {"methods": ["fedavg", "balanced", "balanced"]}}, "experiment.methods"),
        ({"experiment": {"variants": {"../up": {"mixup.images": 2}}}}, "experiment.variants"),
        ({"experiment": {"variants": {"fedavg": {"mixup.images": 2}}}}, "experiment.variants.fedavg"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(images: Path, sections: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=re.escape(field)):
        small_config(images, **sections)


def test_named_methods_are_what_they_say_whatever_the_base(images: Path) -> None:
    base = small_config(images, strategy={"name": "scaffold"}, balance={"source": "owned"}, local={"logits": "fedrs"})
    plain = base.of_method("fedavg")
    assert (plain.strategy.name, plain.balance.level, plain.local.logits) == ("fedavg", 0.0, "plain")
    filled = base.of_method("balanced")
    assert (filled.strategy.name, filled.balance.source, filled.local.logits) == ("scaffold", "pseudo", "plain")
