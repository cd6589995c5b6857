from pathlib import Path

import numpy as np
import pytest
import torch

from rayworks.core.errors import ConfigError, DataError
from rayworks.lm.checkpoints import load_model, load_tokenizer
from rayworks.lm.engine import ScoringRequest
from rayworks.lm.fine_tuning import Example, FineTuner
from rayworks.lm.heads import HeadTrainer, ScalarHead, load_head
from rayworks.lm.scoring import EncodedResponse, hidden_states, last_states
from rayworks.lm.training import Batches, TuningOptions
from rayworks.lm.transformers_engine import TransformersEngine
from tests.tiny_models import save_adapter

TEXTS = [EncodedResponse((5, 6, n % 40 + 7), (n % 30 + 50,)) for n in range(64)]
LABELS = [float(n % 3 == 0) for n in range(64)]
FROZEN = TuningOptions(learning_rate=0.05, total_steps=150, tuning="none")


def random_head(width: int, link: str = "identity") -> ScalarHead:
    torch.manual_seed(4)
    head = ScalarHead(width, link)
    torch.nn.init.normal_(head.linear.weight)
    return head


# reading -------------------------------------------------------------------------------------------------------------
def test_heads_and_answers_are_read_in_the_forward_that_scores(tiny_model: str, tmp_path: Path) -> None:
    engine = TransformersEngine(tiny_model, adapters=1)
    engine.add_adapter("own", save_adapter(tmp_path / "adapter", load_model(tiny_model), 0))
    for name, link in (("value", "identity"), ("reward", "sigmoid")):
        random_head(48, link).save(tmp_path / name)
        engine.add_head(name, tmp_path / name)
    requests = [
        ScoringRequest("the fabric", " is good", heads=("value",), answers=(" a", " good")),
        ScoringRequest("a dress: lovely", "", ends=False, heads=("reward", "value")),
        ScoringRequest("a", " good"),
        ScoringRequest("a shirt", "", ends=False, answers=(" good",), adapter="own"),
    ]
    forwards = []
    engine.model.model.base_model.register_forward_hook(lambda *_: forwards.append(1))
    scores = engine.score(requests)
    assert len(forwards) == 1
    for request, found in zip(requests, scores, strict=True):
        alone = engine.score([request])[0]
        assert found.values == pytest.approx(alone.values, abs=1e-4)
        assert found.answers == pytest.approx(alone.answers, abs=1e-4)
        assert set(found.values) == set(request.heads)
    whole, tokenizer = load_model(tiny_model), load_tokenizer(tiny_model)
    ids = [*tokenizer("the fabric")["input_ids"], *tokenizer(" is good")["input_ids"], tokenizer.eos_token_id]
    with torch.inference_mode():
        output = whole(torch.tensor([ids]), output_hidden_states=True)
        expected = random_head(48)(output.hidden_states[-1][0, -1])
    assert scores[0].values["value"] == pytest.approx(float(expected), abs=1e-3)
    behind = output.logits[0, -1].log_softmax(-1)
    answers = [tokenizer(text)["input_ids"][0] for text in (" a", " good")]
    assert scores[0].answers == pytest.approx(behind[answers].tolist(), abs=1e-4)
    assert scores[1].logprobs == ()
    assert 0 < scores[1].values["reward"] < 1


def test_what_cannot_be_read_is_refused(tiny_model: str, tmp_path: Path) -> None:
    engine = TransformersEngine(tiny_model)
    for request, error, words in (
        (ScoringRequest("a", " b", heads=("value",)), ConfigError, "head 'value': is not loaded"),
        (ScoringRequest("a", " b", answers=("no such token",)), DataError, "'no such token' is .* must be one"),
        (ScoringRequest("a", "", ends=False), DataError, "nothing is to be read"),
        (ScoringRequest((1, 9999), (2,)), DataError, "token id 9999, the model has 320 ids"),
        (ScoringRequest("a" * 600, " b"), DataError, "exceed the model's 256"),
    ):
        with pytest.raises(error, match=words):
            engine.score([request])
    for options in ({"heads": "value"}, {"answers": " so"}):
        with pytest.raises(DataError, match="must be a tuple of texts"):
            ScoringRequest("a", " b", **options)
    random_head(32).save(tmp_path / "narrow")
    with pytest.raises(DataError, match=r"reads 32 numbers, the model's hidden state has 48"):
        engine.add_head("x", tmp_path / "narrow")
    with pytest.raises(DataError, match="cannot be read"):
        engine.add_head("x", tmp_path)


# training ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("link", ["sigmoid", "identity"])
def test_a_head_learns_what_the_hidden_state_tells(tiny_model: str, link: str) -> None:
    model = load_model(tiny_model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    head = ScalarHead(48, link)
    trainer = HeadTrainer(model, head, TEXTS, LABELS, FROZEN, batch_size=16, seed=0)
    first = trainer.train(1)["loss"]
    trainer.train(200)
    with torch.inference_mode():
        read = head.read(last_states(hidden_states(model, TEXTS), TEXTS)).numpy()
    assert float(np.mean((read > 0.5) == (np.array(LABELS) > 0.5))) > 0.9
    assert trainer.train(1) == {}
    assert first > 0.1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("tuning", ["none", "lora", "full"])
def test_training_of_a_head_resumes_bit_for_bit(tiny_model: str, tmp_path: Path, tuning: str) -> None:
    options = TuningOptions(learning_rate=1e-3, total_steps=6, tuning=tuning, lora_dropout=0.1 * (tuning == "lora"))

    def new() -> HeadTrainer:
        return HeadTrainer(load_model(tiny_model), ScalarHead(48), TEXTS, LABELS, options, batch_size=8, seed=1)

    straight, halves = new(), new()
    straight.train(6)
    halves.train(3)
    halves.save(tmp_path)
    resumed = new()
    resumed.load(tmp_path)
    resumed.train(3)
    for module, other in ((straight.head, resumed.head), (straight.model, resumed.model)):
        for name, value in module.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name


def test_a_saved_head_is_the_same_head(tiny_model: str, tmp_path: Path) -> None:
    head = random_head(48, "sigmoid")
    head.save(tmp_path)
    again, states = load_head(tmp_path, load_model(tiny_model)), torch.randn(5, 48)
    assert torch.equal(again.read(states), head.read(states))


def test_a_trained_head_is_exported_beside_its_model(tiny_model: str, tmp_path: Path) -> None:
    options = TuningOptions(learning_rate=1e-3, total_steps=3)
    trainer = HeadTrainer(load_model(tiny_model), ScalarHead(48), TEXTS, LABELS, options, batch_size=8, seed=1)
    trainer.train(3)
    with torch.inference_mode():
        expected = trainer.head.read(last_states(hidden_states(trainer.model.eval(), TEXTS), TEXTS))
    trainer.export(str(tmp_path), load_tokenizer(tiny_model))
    engine = TransformersEngine(str(tmp_path))
    engine.add_head("value", str(tmp_path))
    found = engine.score([ScoringRequest(text.prompt, text.response, ends=False, heads=("value",)) for text in TEXTS])
    assert [score.values["value"] for score in found] == pytest.approx(expected.tolist(), abs=1e-4)
    with pytest.raises(ConfigError, match="head 'value': is loaded already"):
        engine.add_head("value", tmp_path)


@pytest.mark.parametrize(
    ("labels", "link", "words"),
    [
        ([float("nan"), 1.0], "identity", "number 0 is nan, must be a finite number"),
        ([0.0, float("inf")], "identity", "number 1 is inf"),
        ([0.0, 1.5], "sigmoid", "number 1 is 1.5, must be a number from 0 to 1"),
        ([0.0], "identity", "1 for 2 examples"),
    ],
)
def test_labels_that_teach_nothing_are_refused(tiny_model: str, labels: list[float], link: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        HeadTrainer(load_model(tiny_model), ScalarHead(48, link), TEXTS[:2], labels, FROZEN, batch_size=2, seed=0)


# the order of examples -----------------------------------------------------------------------------------------------
def test_every_example_comes_once_per_epoch_and_batches_are_full() -> None:
    batches = Batches(7, 3, 5, "x")
    drawn = [index for step in range(7) for index in batches.at(step)]
    assert len(drawn) == 21
    assert all(sorted(drawn[epoch * 7 : epoch * 7 + 7]) == list(range(7)) for epoch in range(3))
    assert drawn[:7] != drawn[7:14]
    assert Batches(7, 3, 5, "x").at(4) == batches.at(4)


def test_a_curriculum_is_followed(tiny_model: str) -> None:
    batches = Batches(4, 3, 0, "x", order=lambda epoch: [3, 2, 1, 0] if epoch else [0, 1, 2, 3])
    assert [batches.at(step) for step in range(3)] == [[0, 1, 2], [3, 3, 2], [1, 0, 3]]
    with pytest.raises(DataError, match="epoch 0 does not hold each of 4 examples once"):
        Batches(4, 2, 0, "x", order=lambda epoch: [0, 0, 1, 2]).at(0)
    options = TuningOptions(learning_rate=1e-3, total_steps=4)
    seen: list[int] = []

    def order(epoch: int) -> list[int]:
        seen.append(epoch)
        return list(range(8))

    FineTuner(
        load_model(tiny_model), [Example(text) for text in TEXTS[:8]], options, batch_size=4, seed=0, order=order
    ).train(4)
    assert seen == [0, 1]
