"""The engine over steps: when it begins and stops, what it keeps, what it refuses."""

import copy
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.augmentation.engine.gain_averages import GainAverages
from rayworks.systems.augmentation.engine.losses import Classification, Contrastive, MultiLabel, Regression
from rayworks.systems.augmentation.engine.saflex import Saflex
from rayworks.systems.augmentation.engine.settings import Backend, EngineSettings, l2rw, meta_weight_net
from rayworks.systems.augmentation.engine.validation import ValidationBatches, check_leakage, leaked
from rayworks.systems.augmentation.plug_in.sources import weigher
from tests.blobs import Blobs, blobs, perceptron

AT_ONCE: dict[str, Any] = {"warm_up": 0, "progress": 0.0}


@pytest.fixture
def data() -> Blobs:
    return blobs(rows=400, wrong=0.3, seed=0)


def engine(data: Blobs, settings: EngineSettings, **more: Any) -> Saflex:
    return Saflex(settings, ValidationBatches(*data.validation, batch=16, seed=0), **more)


def train(saflex: Saflex, model: nn.Module, data: Blobs, steps: int, first: int = 0) -> list[Tensor]:
    """Steps of SGD; the weights of each."""
    optimiser = torch.optim.SGD(model.parameters(), 0.05)
    found = []
    for step in range(first, first + steps):
        rows = torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(step))[:32]
        weighed = saflex.weigh(model, data.inputs[rows], data.labels[rows], rows)
        optimiser.zero_grad()
        weighed.mean_loss().backward()
        optimiser.step()
        found.append(weighed.weights)
    return found


def test_weights_find_wrong_labels(data: Blobs) -> None:
    saflex, model = engine(data, EngineSettings(warm_up=30)), perceptron(data)
    train(saflex, model, data, 150)
    weighed = saflex.weigh(model, data.inputs, data.labels)
    assert weighed.scores is not None
    order = weighed.scores.argsort().argsort().double()
    sound = int((~data.wrong).sum())
    area = (order[~data.wrong].sum() - sound * (sound - 1) / 2) / (sound * int(data.wrong.sum()))
    assert float(area) > 0.85
    assert float(weighed.weights.mean()) == pytest.approx(1, abs=1e-5)
    assert {"dropped", "relabelled", "entropy"} == weighed.measures().keys()


def test_a_warm_up_trains_as_the_upstream_does(data: Blobs) -> None:
    saflex, model = engine(data, EngineSettings(warm_up=5, progress=0.0)), perceptron(data)
    plain = copy.deepcopy(model)
    weights = train(saflex, model, data, 5)
    assert all(torch.equal(one, torch.ones(32)) for one in weights) and not saflex.acting
    optimiser = torch.optim.SGD(plain.parameters(), 0.05)
    for step in range(5):
        rows = torch.randperm(400, generator=torch.Generator().manual_seed(step))[:32]
        optimiser.zero_grad()
        F.cross_entropy(plain(data.inputs[rows]), data.labels[rows]).backward()
        optimiser.step()
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    train(saflex, model, data, 1)
    assert saflex.acting and saflex.events == ["began at step 5"]


def test_a_warm_up_waits_for_learning(data: Blobs) -> None:
    waiting, still = engine(data, EngineSettings(warm_up=0, progress=0.5)), perceptron(data)
    for _ in range(40):
        waiting.weigh(still, data.inputs[:8], data.labels[:8])
    assert not waiting.begun, "a model that does not learn is left alone"
    train(waiting, perceptron(data), data, 200)
    assert waiting.begun


@pytest.mark.parametrize("settings", [EngineSettings(**AT_ONCE), l2rw(), meta_weight_net()])
def test_it_goes_on_where_it_stopped(data: Blobs, settings: EngineSettings) -> None:
    """k steps, a state through a file, k steps, are 2k steps."""
    whole, model = engine(data, settings), perceptron(data)
    expected = train(whole, model, data, 20)
    first, other = engine(data, settings), perceptron(data)
    train(first, other, data, 10)
    state = torch.load(_file(first.state_dict()), weights_only=True)
    second = engine(data, settings)
    second.load_state_dict(state)
    found = train(second, other, data, 10, first=10)
    assert all(torch.equal(one, two) for one, two in zip(expected[10:], found, strict=True))
    assert second.steps == 20


def _file(state: dict[str, Any]) -> Any:
    import io

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def test_gains_are_averaged_by_source_over_views_and_steps() -> None:
    averages = GainAverages(4, 0.8)
    first = torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 5.0]])
    assert torch.equal(averages.smoothed(first, torch.tensor([2, 2, 0])), first), "the first are taken as they are"
    found = averages.smoothed(torch.zeros(3, 2), torch.tensor([2, 0, 1]))
    torch.testing.assert_close(found, torch.tensor([[1.6, 0.0], [4.0, 4.0], [0.0, 0.0]]))
    twin = GainAverages(4, 0.8)
    twin.load_state_dict(averages.state_dict())
    again = torch.ones(2, 2), torch.tensor([2, 3])
    assert torch.equal(twin.smoothed(*again), averages.smoothed(*again))
    for ids in (torch.tensor([4, 0]), torch.tensor([-1, 0]), torch.tensor([0]), torch.tensor([0.0, 1.0])):
        with pytest.raises(DataError, match="give each row a whole number of 0 to 3"):
            averages.smoothed(torch.zeros(2, 2), ids)


def test_refresh_keeps_a_gradient_for_some_steps(data: Blobs) -> None:
    drawn = []

    def validation(draw: int) -> tuple[Tensor, Tensor]:
        drawn.append(draw)
        return data.validation

    saflex = Saflex(EngineSettings(refresh=4, **AT_ONCE), validation)
    train(saflex, perceptron(data), data, 9)
    assert drawn == [0, 1, 2]


def test_only_one_of_both_is_learned_where_asked(data: Blobs) -> None:
    model, rows = perceptron(data), slice(0, 50)
    labels = engine(data, EngineSettings(learn="labels", **AT_ONCE)).weigh(model, data.inputs[rows], data.labels[rows])
    assert torch.equal(labels.weights, torch.ones(50)) and not torch.equal(labels.labels, labels.upstream)
    weights = engine(data, EngineSettings(learn="weights", **AT_ONCE)).weigh(
        model, data.inputs[rows], data.labels[rows]
    )
    assert torch.equal(weights.labels, weights.upstream) and (weights.weights == 0).any()
    torch.testing.assert_close(weights.targets().sum(1), weights.weights)
    by_target = -(weights.targets() * weights.outputs.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(by_target, weights.mean_loss())


def test_samples_can_be_scored_and_trained_on_as_they_come(data: Blobs) -> None:
    model, rows = perceptron(data), slice(0, 50)
    saflex = engine(data, EngineSettings(learn="nothing", collapse=1.01, **AT_ONCE))
    found = saflex.weigh(model, data.inputs[rows], data.labels[rows])
    assert torch.equal(found.labels, found.upstream) and torch.equal(found.weights, torch.ones(50))
    assert found.scores is not None and (found.scores > 0).any() and (found.scores < 0).any()
    scored, plain = perceptron(data), perceptron(data)
    train(engine(data, EngineSettings(learn="nothing", **AT_ONCE)), scored, data, 20)
    train(engine(data, EngineSettings(warm_up=1000, progress=0.0)), plain, data, 20)
    for one, other in zip(scored.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("seed", range(4))
def test_batches_of_two_rows_do_not_end_it_but_a_rise_does(data: Blobs, seed: int) -> None:
    """A model that is not trained further: its loss on two rows is scattered, and then other labels are asked of it."""
    model, rows, turned = perceptron(data), slice(0, 50), []
    train(engine(data, EngineSettings(warm_up=1000, progress=0.0)), model, data, 200)
    held = ValidationBatches(*data.validation, batch=2, seed=seed)

    def validation(draw: int) -> tuple[Any, Tensor]:
        inputs, labels = held(draw)
        return inputs, (labels + len(turned)) % 5

    saflex = Saflex(EngineSettings(collapse=1.5, learn="labels", beta=50.0, **AT_ONCE), validation)
    for _ in range(300):
        saflex.weigh(model, data.inputs[rows], data.labels[rows])
    assert not saflex.collapsed, saflex.events
    turned.append(1)
    for _ in range(100):
        saflex.weigh(model, data.inputs[rows], data.labels[rows])
    assert saflex.collapsed and "validation loss rose" in saflex.events[-1]


def test_trusted_rows_keep_label_and_weight(data: Blobs) -> None:
    trusted = torch.arange(50) < 10
    found = engine(data, EngineSettings(**AT_ONCE)).weigh(
        perceptron(data), data.inputs[:50], data.labels[:50], trusted=trusted
    )
    assert torch.equal(found.labels[:10], found.upstream[:10])
    assert (found.weights[:10] == found.weights.max()).all()


def test_batches_that_only_hurt_are_trained_on_as_they_are(data: Blobs) -> None:
    """Eight copies of a validation row with another label than it has there."""
    rows = data.validation[0][:1].expand(8, -1)
    saflex = Saflex(l2rw(), lambda _: (rows, torch.zeros(8, dtype=torch.long)))
    found = saflex.weigh(perceptron(data), rows, torch.ones(8, dtype=torch.long))
    assert found.scores is not None and (found.scores <= 0).all()
    assert torch.equal(found.weights, torch.ones(8)) and saflex.vanished == 1


def test_greedy_labels_collapse_and_are_stopped(data: Blobs) -> None:
    """The combination that settings refuse, allowed on purpose: labels feed back on themselves."""
    greedy: dict[str, Any] = {"mode": "lp", "gradient_average": 0.0, "allow_greedy": True, **AT_ONCE}
    held = blobs(rows=400, wrong=0.3, seed=0, tilt=0.95)
    saflex = Saflex(EngineSettings(**greedy), ValidationBatches(*held.validation, batch=4, seed=0))
    train(saflex, perceptron(data), data, 300)
    assert saflex.collapsed and saflex.events[-1].startswith("stopped at step")
    weighed = saflex.weigh(perceptron(data), data.inputs[:5], data.labels[:5])
    assert torch.equal(weighed.labels, weighed.upstream) and not saflex.acting


@pytest.mark.parametrize("backend", get_args(Backend))
def test_batch_statistics_move_once_a_step(backend: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3))
    plain, inputs, labels = copy.deepcopy(model), torch.randn(8, 4), torch.arange(8) % 3
    saflex = Saflex(EngineSettings(backend=backend, **AT_ONCE), lambda _: (inputs + 1, labels))
    saflex.weigh(model, inputs, labels)
    plain(inputs)
    for one, other in zip(model.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(one, other)
    saflex.weigh(model, inputs, labels, apart=True)
    assert int(model[1].num_batches_tracked) == 1


def test_rows_may_come_in_any_order_and_runs_repeat(data: Blobs) -> None:
    model, order = perceptron(data).double(), torch.randperm(60)
    held = data.validation[0].double(), data.validation[1]

    def weigh(rows: Tensor) -> Tensor:
        saflex = Saflex(EngineSettings(rule="soft", **AT_ONCE), lambda _: held)
        found = saflex.weigh(model, data.inputs[rows].double(), data.labels[rows])
        return torch.cat([found.labels, found.weights[:, None]], 1)

    straight = weigh(torch.arange(60))
    torch.testing.assert_close(weigh(order), straight[order], atol=1e-12, rtol=0)
    assert torch.equal(weigh(torch.arange(60)), straight)


@pytest.mark.parametrize("loss", [MultiLabel(), Regression(), Contrastive()])
def test_other_losses_run_and_lower_theirs(loss: Any) -> None:
    torch.manual_seed(0)
    model, inputs = nn.Linear(5, 4), torch.randn(4, 5)
    labels = torch.arange(4) if isinstance(loss, Contrastive) else torch.rand(4, 4)
    saflex = Saflex(EngineSettings(**AT_ONCE), lambda _: (inputs, labels), loss)
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for _ in range(30):
        weighed = saflex.weigh(model, inputs, labels)
        optimiser.zero_grad()
        weighed.mean_loss().backward()
        optimiser.step()
        losses.append(float(loss.per_sample(model(inputs), loss.prepared(labels, model(inputs))).mean().detach()))
    assert losses[-1] < losses[0]


def test_what_cannot_be_weighed_is_named(data: Blobs) -> None:
    model = perceptron(data)
    with pytest.raises(ConfigError, match="give the engine the number of sources"):
        engine(data, EngineSettings(gain_average=0.8))
    with pytest.raises(ConfigError, match="give the engine the optimiser"):
        engine(data, EngineSettings(precondition=True))
    averaging = engine(data, EngineSettings(gain_average=0.8, **AT_ONCE), sources=400)
    with pytest.raises(DataError, match="has no source ids"):
        averaging.weigh(model, data.inputs[:4], data.labels[:4])
    broken = data.inputs[:4].clone()
    broken[2, 0] = float("nan")
    with pytest.raises(DataError, match=r"row 2, of source 12, for label 0 in step 1 is not finite"):
        engine(data, EngineSettings(**AT_ONCE)).weigh(model, broken, data.labels[:4], torch.arange(10, 14))
    with pytest.raises(DataError, match="is no class"):
        engine(data, EngineSettings()).weigh(model, data.inputs[:1], torch.tensor([99]))
    adam = torch.optim.Adam(model.parameters())
    engine(data, EngineSettings(precondition=True, **AT_ONCE), optimiser=adam).weigh(
        model, data.inputs[:4], data.labels[:4]
    )
    assert engine(data, EngineSettings(**AT_ONCE)).weigh(model, data.inputs[:1], data.labels[:1]).weights.tolist() == [
        1
    ]


def test_validation_batches_have_the_targets_shares_or_equal_ones() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    inputs = torch.arange(100.0)[:, None]
    plain = ValidationBatches(inputs, labels, 20, seed=1)
    passed = torch.cat([plain(draw)[0] for draw in range(5)]).flatten()
    assert sorted(passed.tolist()) == list(range(100)), "five draws of twenty are one pass"
    assert torch.equal(plain(7)[0], ValidationBatches(inputs, labels, 20, seed=1)(7)[0])
    assert not torch.equal(plain(0)[0], plain(5)[0])
    odd = ValidationBatches(inputs, labels, 30, seed=1)
    assert sorted(torch.cat([odd(draw)[0] for draw in range(10)]).flatten().tolist()) == sorted([*range(100)] * 3)
    balanced = ValidationBatches(inputs, labels, 20, seed=1, balanced=True)
    assert [int(balanced(draw)[1].sum()) for draw in range(3)] == [10, 10, 10]
    assert len(ValidationBatches(inputs, labels, 1000, seed=1)(3)[1]) == 100
    named = ValidationBatches({"x": inputs, "y": (inputs,)}["y"], F.one_hot(labels), 2, seed=0)
    assert named(0)[0][0].shape == (2, 1)


def test_bad_validation_rows_are_named() -> None:
    rows = torch.zeros(3, 2)
    with pytest.raises(DataError, match=r"all rows are of class 1; give rows of two classes"):
        ValidationBatches(rows, torch.ones(3, dtype=torch.long), 2, 0)
    with pytest.raises(DataError, match=r"3 labels, inputs of \[2\] rows"):
        ValidationBatches(rows[:2], torch.arange(3), 2, 0)
    odd: list[tuple[Any, Any, str]] = [
        (rows, [0, 1, 0], "list"),
        (rows.numpy(), torch.arange(3), "ndarray"),
        ({"x": rows, "training": True}, torch.arange(3), "bool"),
        ((rows, torch.tensor(1.0)), torch.arange(3), "Tensor"),
    ]
    for inputs, labels, kind in odd:
        with pytest.raises(DataError, match=f"holds a {kind} without rows of its own; give tensors"):
            ValidationBatches(inputs, labels, 2, 0)
    with pytest.raises(DataError, match="0 labels"):
        ValidationBatches(rows[:0], torch.arange(0), 2, 0)
    with pytest.raises(ConfigError, match="validation batch: is 0"):
        ValidationBatches(rows, torch.arange(3), 0, 0)
    with pytest.raises(ConfigError, match="balanced"):
        ValidationBatches(rows, rows, 2, 0, balanced=True, classes=False)


def test_validation_rows_among_training_rows_are_counted_and_refused() -> None:
    training = torch.tensor([[1.0, 2], [0.0, 3], [5, 6], [1, 2]])
    validation = torch.tensor([[1.0, 2], [-0.0, 3], [9, 9]])
    assert leaked(training, validation).tolist() == [True, True, False, True]
    with pytest.raises(DataError, match=r"3 of 4 training rows.*the first is row 0"):
        check_leakage(training, validation)
    with pytest.raises(DataError, match=r"1 of 4 training rows.*the first is row 3"):
        check_leakage(training, validation, torch.tensor([True, True, False, False]))
    assert check_leakage(training, validation, torch.tensor([True, True, False, True])) == 3
    assert check_leakage(training[2:3], validation) == 0
    assert check_leakage(torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.ones(1, 1, 3, 3, dtype=torch.uint8)) == 0
    assert check_leakage(torch.zeros(0, 2), validation) == 0


def test_classification_is_the_default_loss(data: Blobs) -> None:
    assert isinstance(engine(data, EngineSettings()).loss, Classification)


class Shared(nn.Module):
    """A layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(20, 16)
        self.encoder = nn.Sequential(self.embed, nn.ReLU())
        self.out = nn.Linear(16, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.out(self.encoder(inputs))


@pytest.mark.parametrize("backend", get_args(Backend))
def test_a_layer_with_two_names_stays_the_optimisers(backend: Any) -> None:
    data = blobs(rows=64, wrong=0.3, seed=0)
    model = Shared()
    before = dict(model.named_parameters())
    saflex = weigher(data.validation, EngineSettings(warm_up=0, progress=0.0, backend=backend))
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    start = model.embed.weight.detach().clone()
    for _ in range(3):
        targets = saflex.targets(model, data.inputs, data.labels)
        optimiser.zero_grad()
        F.cross_entropy(model(data.inputs), targets).backward()
        optimiser.step()
    assert all(value is before[name] for name, value in model.named_parameters())
    assert model.encoder[0].weight is model.embed.weight
    assert not torch.equal(model.embed.weight, start)


def test_source_ids_are_asked_for_from_the_first_step() -> None:
    data = blobs(rows=64, wrong=0.3, seed=0)
    saflex = weigher(data.validation, EngineSettings(gain_average=0.8), sources=64)
    with pytest.raises(DataError, match="has no source ids"):
        saflex.targets(perceptron(data), data.inputs, data.labels)


def test_a_loss_that_fell_once_and_rose_again_has_fallen(monkeypatch: pytest.MonkeyPatch) -> None:
    data = blobs(rows=64, wrong=0.3, seed=0)
    losses = iter([1.0, 0.2, 0.2, 3.0, 3.0, 3.0, 3.0, 3.0])
    saflex = weigher(data.validation, EngineSettings(warm_up=40))
    monkeypatch.setattr(saflex, "_validation_loss", lambda outputs, labels: torch.tensor(next(losses)))
    model = perceptron(data)
    for _ in range(40):
        saflex.targets(model, data.inputs, data.labels)
    assert not saflex.acting
    saflex._begin_when_due(model)
    assert saflex.acting and saflex.events == ["began at step 40"]


def test_an_engine_that_waits_says_so() -> None:
    data = blobs(rows=64, wrong=0.3, seed=0)
    saflex = weigher(data.validation, EngineSettings(warm_up=16))
    model = perceptron(data)
    for _ in range(20):
        saflex.targets(model, data.inputs, data.labels)
    assert not saflex.acting
    assert saflex.events == ["waits from step 16 on: the validation loss has not fallen by progress"]


@pytest.mark.parametrize(
    "changes",
    [
        {"normalise": "foo"},
        {"backend": "foo"},
        {"beta": float("inf")},
        {"tau": "1"},
        {"refresh": 1.5},
        {"warm_up": True},
    ],
)
def test_settings_that_are_none_are_refused_by_name(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        EngineSettings(**changes)
