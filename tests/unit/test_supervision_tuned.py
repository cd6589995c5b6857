from pathlib import Path

import numpy as np
import pytest
import torch

from rayworks.core.errors import ConfigError, DataError
from rayworks.lm.checkpoints import load_model, load_tokenizer
from rayworks.lm.fine_tuning import Example
from rayworks.lm.scoring import EncodedResponse
from rayworks.lm.training import TuningOptions
from rayworks.systems.supervision.boosting.votes import ensembles
from rayworks.systems.supervision.config import StudentSection, WeakSection
from rayworks.systems.supervision.exported import AdapterVoters, ExportedEnsemble, read_export, write_export
from rayworks.systems.supervision.students.losses import class_offsets
from rayworks.systems.supervision.students.tuned import LossAim, tune_on_classes, tune_on_texts
from rayworks.systems.supervision.weak import class_tuning
from rayworks.systems.supervision.weak.adapters import Adapter, AdapterBase, ClassExperts
from rayworks.systems.supervision.weak.class_tuning import Aim, ClassTuner
from rayworks.systems.supervision.weak.class_words import class_ids, class_probabilities, class_prompts, parameters

CLASSES = ("good", "bad")
TEXTS = [f"a {thing}: {word} {n}" for n in range(12) for thing in ("dress", "shirt") for word in ("lovely", "torn")]
TRUTH = np.array([[1.0, 0.0] if "lovely" in text else [0.0, 1.0] for text in TEXTS])


def section(model: str, **changes: object) -> StudentSection:
    settings = {
        "learner": "tuned",
        "model": model,
        "layers": 2,
        "tuning": "full",
        "learning_rate": 3e-3,
        "batch_size": 8,
    }
    return StudentSection(**{**settings, "epochs": 4, **changes})


def tuner(
    model: str, loss: str, padded_tokens: int = 4096, labels: np.ndarray = TRUTH, batch_size: int = 8
) -> ClassTuner:
    tokenizer = load_tokenizer(model)
    prompts, ids = class_prompts(tokenizer, TEXTS), class_ids(tokenizer, CLASSES)
    options, aim = TuningOptions(learning_rate=3e-3, total_steps=18), LossAim(labels, loss, section(model))
    own = {"batch_size": batch_size, "seed": 3, "padded_tokens": padded_tokens}
    return ClassTuner(load_model(model), prompts, ids, aim, options, **own)


def gradients(one: ClassTuner, step: int) -> torch.Tensor:
    one.model.zero_grad()
    one.accumulate(step)
    return torch.cat([value.grad.flatten() for value in one.model.parameters() if value.grad is not None])


# classes -------------------------------------------------------------------------------------------------------------
def test_a_student_learns_soft_labels(tiny_model: str) -> None:
    soft = 0.8 * TRUTH + 0.1
    student = tune_on_classes(section(tiny_model, epochs=12), TEXTS, soft, CLASSES, "cross-entropy", 0)
    said = student.probabilities(TEXTS)
    assert said.sum(axis=1) == pytest.approx(np.ones(len(TEXTS)))
    assert np.abs(said - soft).max() < 0.1
    tokens = sum(len(prompt) for prompt in class_prompts(load_tokenizer(tiny_model), TEXTS))
    assert student.tuned.flops == 6 * parameters(load_model(tiny_model)) * tokens * 12


@pytest.mark.parametrize("loss", ["cross-entropy", "logconf", "product"])
def test_the_gradient_does_not_depend_on_how_a_batch_is_cut(tiny_model: str, loss: str) -> None:
    soft = 0.6 * TRUTH + 0.2
    whole, cut = (tuner(tiny_model, loss, padded, soft) for padded in (4096, 40))
    for step in (0, 4):
        assert torch.allclose(gradients(whole, step), gradients(cut, step), atol=1e-6)
    # One batch of everything learns what its parts do on average.
    parts = [gradients(whole, step) for step in range(6)]
    everything = tuner(tiny_model, loss, 4096, soft, batch_size=48)
    everything.total_steps = 10**9
    whole.total_steps = 10**9
    parts = [gradients(whole, step) for step in range(6)]
    assert torch.allclose(gradients(everything, 0), torch.stack(parts).mean(dim=0), atol=1e-6)


def test_rows_count_by_their_weights(tiny_model: str) -> None:
    one = tuner(tiny_model, "cross-entropy", batch_size=len(TEXTS))
    weights = np.arange(len(TEXTS)) % 3.0
    # A row of weight 2 counts as much as the row twice.
    one.aim = Aim(TRUTH, weights)
    weighed = gradients(one, 0)
    repeated = np.repeat(np.arange(len(TEXTS)), weights.astype(int))
    other = tuner(tiny_model, "cross-entropy", batch_size=len(TEXTS))
    other._prompts = [one._prompts[row] for row in repeated]
    other.aim = Aim(TRUTH[repeated])
    assert len(repeated) == len(TEXTS)
    assert torch.allclose(weighed, gradients(other, 0), atol=1e-6)


def test_the_threshold_is_that_of_all_labels_and_keeps_up(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_tuning, "RENEWAL_STEPS", 6)
    one = tuner(tiny_model, "logconf", labels=0.6 * TRUTH + 0.2)
    for _ in range(2):
        said = class_probabilities(one.model.eval(), one._prompts, one._ids)
        one.train(1)
        assert one.aim.offsets == pytest.approx(class_offsets(one.aim.labels, said), abs=1e-4)
        before = one.aim.offsets.copy()
        one.train(5)
        assert (one.aim.offsets == before).all()


def test_training_resumes_bit_for_bit_in_the_middle_of_an_epoch(tiny_model: str, tmp_path: Path) -> None:
    straight = tuner(tiny_model, "logconf")
    straight.train(8)
    straight.save(tmp_path)
    straight.train(10)
    again = tuner(tiny_model, "logconf")
    again.load(tmp_path)
    again.train(10)
    for one, other in zip(straight.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_classes_are_letters_where_their_names_begin_alike(tiny_model: str) -> None:
    tokenizer = load_tokenizer(tiny_model)
    alike = class_ids(tokenizer, ("good a", "good b"))
    assert tokenizer.convert_ids_to_tokens(alike) == ["A", "B"]
    assert tokenizer.convert_ids_to_tokens(class_ids(tokenizer, ("good", "dress"))) == ["Ġgood", "Ġdress"]
    assert len(set(class_ids(tokenizer, ["same"] * 100))) == 100
    with pytest.raises(DataError, match="no different tokens for 400 classes"):
        class_ids(tokenizer, ["same"] * 400)


def test_labels_must_fit_the_texts(tiny_model: str) -> None:
    with pytest.raises(DataError, match="for 48 texts"):
        tuner(tiny_model, "cross-entropy", labels=TRUTH[:5])
    with pytest.raises(ConfigError, match="MODEL@LAYERS"):
        tune_on_classes(section(tiny_model), TEXTS, TRUTH, CLASSES, "cross-entropy", 0, "tfidf")


def test_a_student_in_between_is_another_cut(tiny_model: str) -> None:
    student = tune_on_classes(section(tiny_model), TEXTS, TRUTH, CLASSES, "cross-entropy", 0, f"{tiny_model}@1")
    assert student.tuned.model.config.num_hidden_layers == 1


# texts ---------------------------------------------------------------------------------------------------------------
def test_a_student_learns_answers(tiny_model: str) -> None:
    from rayworks.lm.engine import GenerationRequest
    from rayworks.lm.transformers_engine import TransformersEngine

    answers = [" good" if "lovely" in text else " bad fit" for text in TEXTS]
    student = tune_on_texts(section(tiny_model, epochs=12), TEXTS, answers, 0)
    engine = TransformersEngine.holding(student.model, student.tokenizer)
    found = engine.generate([GenerationRequest(prompt=text, max_new_tokens=8, temperature=0.0) for text in TEXTS[:8]])
    assert [one.text for one in found] == answers[:8]


# experts of classes ---------------------------------------------------------------------------------------------------
def weak(model: str, **changes: object) -> WeakSection:
    settings = {"learner": "adapter", "model": model, "layers": 2, "learning_rate": 0.02, "batch_size": 8, "epochs": 6}
    return WeakSection(**{**settings, **changes})


def test_adapters_learn_classes_by_their_weights(tiny_model: str, tmp_path: Path) -> None:
    experts = ClassExperts(AdapterBase(weak(tiny_model)), TEXTS, CLASSES)
    rows, labels = np.arange(len(TEXTS)), TRUTH.argmax(axis=1)
    right = experts.fit(rows, labels, np.ones(len(rows)), 1)
    # What weighs nothing is not learned from: all that is left says bad.
    one_sided = experts.fit(rows, labels, np.where(labels == 1, 2.0, 0.0), 1)
    said = experts.probabilities([right, one_sided], rows)
    assert said.shape == (2, len(TEXTS), 2)
    assert (said[0].argmax(axis=1) == labels).mean() > 0.9
    assert (said[1].argmax(axis=1) == 1).all()
    right.save(tmp_path)
    again = Adapter.load(tmp_path)
    assert again.name == right.name != one_sided.name
    other = ClassExperts(AdapterBase(weak(tiny_model)), TEXTS, CLASSES)
    assert other.probabilities([again], rows)[0] == pytest.approx(said[0], abs=1e-5)


def test_exported_adapters_label_as_they_did_where_their_base_is_trusted(tiny_model: str, tmp_path: Path) -> None:
    def write(name: str, data: bytes) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)

    base, rows, labels = AdapterBase(weak(tiny_model, epochs=2)), np.arange(len(TEXTS)), TRUTH.argmax(axis=1)
    experts = ClassExperts(base, TEXTS, CLASSES)
    adapters = tuple(experts.fit(rows, labels, np.ones(len(rows)), seed) for seed in (1, 2))
    write_export(ExportedEnsemble(CLASSES, "linear", (1.5, 0.5), AdapterVoters(base, adapters, CLASSES)), write)
    said = experts.probabilities(adapters, rows)
    found = read_export(tmp_path, [f"{tiny_model}@2"]).label(TEXTS)
    mixed = ensembles(said, np.array([1.5, 0.5]), "linear")[-1]
    assert [list(one.probabilities.values()) for one in found] == [pytest.approx(row, abs=1e-5) for row in mixed]
    assert [one.votes for one in found] == [[CLASSES[best] for best in said[:, row].argmax(-1)] for row in rows]
    for trusted in ([], [tiny_model]):
        with pytest.raises(DataError, match="name it in trusted"):
            read_export(tmp_path, trusted)
    (tmp_path / "experts/00001/adapter_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(DataError, match="cannot be read"):
        read_export(tmp_path, [f"{tiny_model}@2"])


def test_the_seed_alone_decides_an_adapter(tiny_model: str) -> None:
    base = AdapterBase(weak(tiny_model, epochs=1))
    examples = [Example(EncodedResponse((5, 6, n % 9 + 7), (n % 3 + 50,))) for n in range(16)]
    names = [base.adapter(base.fit(examples, seed)).name for seed in (1, 1, 2)]
    assert names[0] == names[1] != names[2]


def test_an_expert_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no adapter_config.json"):
        Adapter.load(tmp_path)


def test_more_adapters_than_fit_are_loaded_anew(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayworks.systems.supervision.weak.adapters.MOST", 2)
    base = AdapterBase(weak(tiny_model, epochs=1))
    examples = [Example(EncodedResponse((5, 6, n % 9 + 7), (n % 3 + 50,))) for n in range(8)]
    one, two, three = (base.adapter(base.fit(examples, seed)) for seed in range(3))
    assert base.beside([one, two])[1] == [1, 2]
    assert base.beside([two, one])[1] == [2, 1]
    assert base.beside([three])[1] == [1]
    with pytest.raises(ConfigError, match="3 adapters vote, at most 2"):
        base.beside([one, two, three])
