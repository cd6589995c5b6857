"""Trainings of language models: their losses in closed form, any number of workers, any place to stop."""

import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import LlamaForCausalLM

from rayworks.core.errors import ConfigError, DataError, InfrastructureError
from rayworks.lm.fine_tuning import Example, FineTuner, negative_log_likelihood
from rayworks.lm.pair_training import EncodedPair, PairObjective, PairTrainer, score_pairs
from rayworks.lm.preference_losses import bradley_terry_loss, rewards
from rayworks.lm.scoring import EncodedResponse
from rayworks.lm.training import ALONE, Shard, TuningOptions
from tests.conftest import ROOT

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
from trl.experimental.cpo import CPOTrainer  # it warns unless it is told not to

PAIRS = [
    EncodedPair(EncodedResponse((1, n % 5), (n % 7 + 2, 3)), EncodedResponse((1, n % 5), (n % 3 + 8, 4, 5)))
    for n in range(11)
]


def trainer(model: LlamaForCausalLM, objective: PairObjective, steps: int = 6, **changes: object) -> PairTrainer:
    settings = {"pairs_per_step": 4, "pairs_per_pass": 3, "seed": 3, "name": "toy", **changes}
    return PairTrainer(model, PAIRS, objective, TuningOptions(learning_rate=1e-3, total_steps=steps), **settings)


numbers = st.lists(st.tuples(st.floats(-80, -0.1), st.floats(-80, -0.1)), min_size=1, max_size=6)


@given(numbers, st.floats(0.1, 4.0), st.floats(0, 2.0), st.integers(1, 30), st.integers(1, 30))
def test_simpo_is_that_of_trl(values: list[tuple[float, float]], beta: float, gamma: float, one: int, two: int) -> None:
    logprobs = torch.tensor(values, dtype=torch.double)
    lengths = torch.tensor([[one, two]], dtype=torch.double).expand_as(logprobs)
    settings = types.SimpleNamespace(
        alpha=0.0,
        beta=beta,
        label_smoothing=0.0,
        loss_type="simpo",
        simpo_gamma=gamma,
        accelerator=types.SimpleNamespace(device=torch.device("cpu")),
    )
    # TRL divides by lengths before it calls its loss.
    expected = CPOTrainer.cpo_loss(settings, *(logprobs / lengths).T)[0]
    chosen, rejected = rewards("simpo", logprobs, lengths).T
    assert torch.allclose(bradley_terry_loss(chosen, rejected, beta=beta, margin=gamma), expected, atol=1e-10)


def test_dpo_starts_at_log_two_and_keeps_its_reference(random_llama: Callable[..., LlamaForCausalLM]) -> None:
    model = random_llama(seed=1)
    start = torch.cat([score_pairs(model, [pair]) for pair in PAIRS]).detach()
    learning = trainer(model, PairObjective(beta=0.5, reward="dpo"))
    assert learning.train(1)["loss"] == pytest.approx(float(torch.tensor(2.0).log()), abs=1e-5)
    learning.train(4)
    at = learning._batches.at(5)
    now = torch.cat([score_pairs(model, [PAIRS[n]]) for n in at]).detach() - start[at]
    expected = -logsigmoid(0.5 * (now[:, 0] - now[:, 1])).mean()
    assert learning.train(1)["loss"] == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("reward", ["arm", "dpo", "simpo"])
def test_every_objective_learns_to_prefer(random_llama: Callable[..., LlamaForCausalLM], reward: str) -> None:
    learning = trainer(random_llama(seed=2), PairObjective(beta=1.0, reward=reward), steps=60)
    before = learning.evaluate(PAIRS)["lead"]
    losses = [learning.train(20)["loss"] for _ in range(3)]
    assert losses[2] < losses[0]
    assert learning.evaluate(PAIRS)["lead"] > before
    assert learning.evaluate(PAIRS)["accuracy"] > 0.9


def test_dpo_resumes_bit_for_bit(random_llama: Callable[..., LlamaForCausalLM], tmp_path: Path) -> None:
    objective = PairObjective(beta=0.3, reward="dpo", language_weight=0.1)
    straight, halves = trainer(random_llama(seed=4), objective), trainer(random_llama(seed=4), objective)
    straight.train(6)
    halves.train(3)
    halves.save(tmp_path)
    resumed = trainer(random_llama(seed=4), objective)
    resumed.load(tmp_path)
    resumed.train(3)
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_a_state_of_other_settings_or_another_model_is_refused(
    random_llama: Callable[..., LlamaForCausalLM], tmp_path: Path
) -> None:
    saved = trainer(random_llama(seed=4), PairObjective(beta=0.3))
    saved.train(2)
    saved.save(str(tmp_path))
    for objective, changes, words in (
        (PairObjective(beta=0.5), {}, "beta: is 0.5, the state in .* is of 0.3; train with that"),
        (PairObjective(beta=0.3), {"seed": 4}, "seed: is "),
        (PairObjective(beta=0.3), {"pairs_per_step": 2}, "pairs_per_step: is 2, the state in .* is of 4"),
        (PairObjective(beta=0.3), {"steps": 7}, "total_steps: is 7, the state in .* is of 6"),
    ):
        with pytest.raises(ConfigError, match=words):
            trainer(random_llama(seed=4), objective, **changes).load(str(tmp_path))
    with pytest.raises(ConfigError, match=r"shape of model.layers.2\..*: is \[.*\], the state in .* is of not there"):
        trainer(random_llama(seed=4, layers=3), PairObjective(beta=0.3)).load(tmp_path)
    with pytest.raises(DataError, match=r"state '.*': cannot be read"):
        saved.load(tmp_path / "nowhere")
    (tmp_path / "state.pt").write_bytes(b"no state")
    with pytest.raises(DataError, match=r"state '.*': cannot be read"):
        saved.load(tmp_path)


def test_a_training_that_diverges_names_itself(random_llama: Callable[..., LlamaForCausalLM]) -> None:
    for changes, words in (({}, "^toy: loss is nan"), ({"label": "critics.toy"}, r"^critics\.toy: loss is nan")):
        learning = trainer(random_llama(seed=4), PairObjective(beta=0.3), **changes)
        learning.model.model.norm.weight.data.fill_(torch.nan)
        with pytest.raises(DataError, match=words):
            learning.train(1)


def test_pairs_of_different_prompts_are_scored_apart(random_llama: Callable[..., LlamaForCausalLM]) -> None:
    model = random_llama(seed=5)
    mixed = EncodedPair(EncodedResponse((1, 2), (3,)), EncodedResponse((4,), (5, 6)))
    swapped = EncodedPair(mixed.rejected, mixed.chosen)
    assert torch.allclose(score_pairs(model, [mixed]), score_pairs(model, [swapped]).flip(-1), atol=1e-5)


# soft labels and weights ---------------------------------------------------------------------------------------------
def test_soft_labels_are_cross_entropy_with_distributions(random_llama: Callable[..., LlamaForCausalLM]) -> None:
    model = random_llama(seed=6)
    text = EncodedResponse((1, 2, 3), (4, 5))
    soft = (((4, 0.7), (6, 0.3)), ((5, 0.25), (0, 0.75)))
    found = negative_log_likelihood(model, [Example(text, (2.0, 0.5), soft), Example(EncodedResponse((7,), (8,)))])
    wanted = torch.zeros(2, 12)
    wanted[0, [4, 6]], wanted[1, [5, 0]] = torch.tensor([0.7, 0.3]), torch.tensor([0.25, 0.75])
    logits = model(torch.tensor([[1, 2, 3, 4]])).logits[0, 2:]
    expected = (torch.tensor([2.0, 0.5]) * cross_entropy(logits, wanted, reduction="none")).sum()
    alone = cross_entropy(model(torch.tensor([[7]])).logits[0, -1:], torch.tensor([8]))
    assert float(found.detach()) == pytest.approx(float((expected + alone).detach()), abs=1e-4)


def test_hard_labels_are_soft_ones_of_all_mass(random_llama: Callable[..., LlamaForCausalLM]) -> None:
    texts = [pair.chosen for pair in PAIRS]
    losses = []
    for soft in (False, True):
        examples = [
            Example(text, soft=tuple(((token, 1.0),) for token in text.response) if soft else ()) for text in texts
        ]
        options = TuningOptions(learning_rate=1e-3, total_steps=4)
        losses.append(FineTuner(random_llama(seed=7), examples, options, batch_size=5, seed=0).train(4)["loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text": EncodedResponse((), (1,))}, "at least one token"),
        ({"text": EncodedResponse((1,), ())}, "at least one token"),
        ({"weights": (1.0,)}, "give a number of at least 0 for each"),
        ({"weights": (1.0, float("nan"))}, "give a number of at least 0 for each"),
        ({"soft": (((1, 1.0),),)}, "1 soft labels for 2 tokens"),
        ({"soft": (((1, 0.5),), ((2, 1.0),))}, "must add up to 1"),
        ({"soft": (((1, 1.5), (2, -0.5)), ((2, 1.0),))}, "must add up to 1"),
    ],
)
def test_examples_that_teach_nothing_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(DataError, match=words):
        Example(**{"text": EncodedResponse((1,), (2, 3)), **changes})


def test_what_cannot_be_trained_is_refused(random_llama: Callable[..., LlamaForCausalLM]) -> None:
    for wrong in ({"reward": "ipo"}, {"loss": "ipo"}, {"beta": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            PairObjective(**{"beta": 0.5, **wrong})
    for options, words in (({"tuning": "qlora"}, "full, lora or none"), ({"total_steps": 0}, "at least 1")):
        with pytest.raises(ConfigError, match=words):
            TuningOptions(**{"learning_rate": 0.1, "total_steps": 1, **options})
    model, text = random_llama(), PAIRS[0].chosen
    with pytest.raises(ConfigError, match="nothing to train"):
        FineTuner(
            model, [Example(text)], TuningOptions(learning_rate=0.1, total_steps=1, tuning="none"), batch_size=1, seed=0
        )
    options = TuningOptions(learning_rate=0.1, total_steps=1)
    with pytest.raises(DataError, match="batches of 0"):
        FineTuner(model, [Example(text)], options, batch_size=0, seed=0)
    for example in (Example(EncodedResponse((1,), (99,))), Example(text, soft=(((3, 1.0),), ((77, 1.0),)))):
        with pytest.raises(DataError, match="token id"):
            FineTuner(model, [example], options, batch_size=1, seed=0).train(1)
    with pytest.raises(DataError, match="from 0 examples"):
        PairTrainer(model, [], PairObjective(beta=1.0), options, pairs_per_step=1, pairs_per_pass=1, seed=0, name="x")
    with pytest.raises(ConfigError, match="pairs_per_pass"):
        trainer(model, PairObjective(beta=1.0), pairs_per_pass=0)
    with pytest.raises(DataError, match="none to measure on"):
        trainer(model, PairObjective(beta=1.0)).evaluate([])


# several workers -----------------------------------------------------------------------------------------------------
WORKER = """
import sys, torch
from torch import distributed
from rayworks.lm.checkpoints import load_model
from rayworks.lm.fine_tuning import Example, FineTuner
from rayworks.lm.heads import HeadTrainer, ScalarHead
from rayworks.lm.pair_training import PairObjective, PairTrainer
from rayworks.lm.training import Shard, TuningOptions
from tests.unit.test_pair_training import PAIRS

model, folder, rank, workers = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
if workers > 1:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=workers)
shard, options = Shard(rank, workers), TuningOptions(learning_rate=1e-3, total_steps=5)
texts, rest = [pair.chosen for pair in PAIRS], {"seed": 1, "shard": shard}
pairs = {"pairs_per_step": 3, "pairs_per_pass": 2, "name": "x", **rest}
trainers = [
    FineTuner(load_model(model), [Example(text, (1.0, 0.5)) for text in texts], options, batch_size=3, **rest),
    PairTrainer(load_model(model), PAIRS, PairObjective(beta=0.5, reward="dpo"), options, **pairs),
    PairTrainer(load_model(model), PAIRS, PairObjective(beta=2.0, reward="simpo", language_weight=0.1), options, **pairs),
    HeadTrainer(load_model(model), ScalarHead(48), texts, [n / 10 for n in range(11)], options, batch_size=1, **rest),
]
found = [(trainer.train(5), trainer.model.state_dict()) for trainer in trainers]
torch.save(found, f"{folder}/{workers}-{rank}")
"""


def test_two_workers_learn_what_one_does(tiny_model: str, tmp_path: Path) -> None:
    runs = [(0, 1), (0, 2), (1, 2)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'lib'}:{ROOT}", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, tiny_model, str(tmp_path), str(rank), str(workers)],
            env=environment,
            cwd=ROOT,
        )
        for rank, workers in runs
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    alone, *shared = (torch.load(tmp_path / f"{workers}-{rank}", weights_only=True) for rank, workers in runs)
    for other in shared:
        for (measures, weights), (others, found) in zip(alone, other, strict=True):
            assert others == pytest.approx(measures, abs=1e-5)
            assert all(torch.allclose(found[name], value, atol=1e-5) for name, value in weights.items())


def test_workers_draw_their_dropout_by_themselves(
    random_llama: Callable[..., LlamaForCausalLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.distributed.all_reduce", lambda part: None)
    drawn: dict[Shard, list[int]] = {ALONE: [], Shard(0, 2): [], Shard(1, 2): []}
    for shard, seeds in drawn.items():
        one = trainer(random_llama(14), PairObjective(beta=1.0), shard=shard)
        while len(seeds) < 4:
            one.train(1)
            seeds.append(torch.initial_seed())
    assert not set(drawn[Shard(0, 2)]) & set(drawn[Shard(1, 2)])
    assert all(len(set(seeds)) == 4 for seeds in drawn.values())


def test_a_worker_that_is_gone_is_no_fault_of_the_data(
    random_llama: Callable[..., LlamaForCausalLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(part: torch.Tensor) -> None:
        raise RuntimeError("Connection closed by peer\nand more")

    monkeypatch.setattr("torch.distributed.all_reduce", gone)
    with pytest.raises(InfrastructureError, match=r"another worker is gone \(Connection closed by peer\)"):
        trainer(random_llama(14), PairObjective(beta=1.0), shard=Shard(1, 2)).train(1)
