"""Pairs out of trees, and learning from them in order: the CPL properties of the specification."""

import copy
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rayworks.lm.pair_training import EncodedPair, PairObjective, score_pairs
from rayworks.lm.scoring import EncodedResponse
from rayworks.lm.training import TuningOptions
from rayworks.systems.reasoning.config import CurriculumSection, LearningSection, PairsSection, SearchSection
from rayworks.systems.reasoning.learning.arms import Material, Plan, drift, new_trainer, pair_logprobs, tokens_read
from rayworks.systems.reasoning.learning.curriculum import kendall_tau, order
from rayworks.systems.reasoning.learning.outcome_head import area_under_curve, held_out, outcome_texts
from rayworks.systems.reasoning.learning.pairs import StepPair, audit, best_paths, extract
from rayworks.systems.reasoning.learning.training import CurriculumTrainer
from rayworks.systems.reasoning.search import records
from tests.reasoning_policies import TOKENIZER, DigitPolicy, Digits, Reward, ids, search_all

TASK = Digits()
VERIFIER = Reward(lambda text: float(TASK.verify(text.question, text.text).correct))
END = int(TOKENIZER.eos_token_id)


@pytest.fixture(scope="module")
def trees() -> list[dict[str, Any]]:
    section = SearchSection(response_tokens=16, simulations=30)
    found = search_all(section, DigitPolicy(TASK), [VERIFIER], TASK.questions("test", 20), TASK)
    return [records.as_record(search, TOKENIZER, "p") for search in found]


def prefixes(tree: dict[str, Any]) -> dict[int, tuple[int, ...]]:
    """By node, the ids of question and answer up to its end."""
    found: dict[int, tuple[int, ...]] = {}
    for node in tree["nodes"]:
        before = found[node["parent"]] if node["parent"] is not None else tuple(tree["prompt"])
        found[node["id"]] = before + tuple(node["tokens"])
    return found


@pytest.mark.parametrize("selection", ["best-worst", "best-each", "all"])
@pytest.mark.parametrize("changes", [{}, {"score": "visits", "threshold": 2}, {"per_parent": 50, "per_question": 50}])
def test_pairs_are_siblings_that_differ_enough(
    trees: list[dict[str, Any]], selection: str, changes: dict[str, Any]
) -> None:
    section = PairsSection(selection=selection, **changes)
    pairs = extract(trees, section)
    assert pairs
    by_uid = {tree["uid"]: tree for tree in trees}
    parents = Counter()
    for pair in pairs:
        tree = by_uid[pair.uid]
        assert pair.gap >= section.threshold and pair.gap > 0 and pair.chosen != pair.rejected
        [parent] = [number for number, prefix in prefixes(tree).items() if prefix == pair.context]
        assert {pair.chosen, pair.rejected} <= {
            tuple(node["tokens"]) for node in tree["nodes"] if node["parent"] == parent
        }
        parents[pair.uid, parent] += 1
    assert max(parents.values()) <= section.per_parent
    keys = [(pair.context, pair.chosen, pair.rejected) for pair in pairs]
    assert len(set(keys)) == len(keys)
    assert max(sum(pair.uid == uid for pair in pairs) for uid in by_uid) <= section.per_question


def test_all_pairs_are_those_that_brute_force_finds(trees: list[dict[str, Any]]) -> None:
    section = PairsSection(selection="all", per_parent=1000, per_question=1000, threshold=0.25, min_visits=2)
    found = {(pair.uid, pair.context, pair.chosen, pair.rejected) for pair in extract(trees, section)}
    expected = set()
    for tree in trees:
        prefix = prefixes(tree)
        for one, other in itertools.permutations(tree["nodes"], 2):
            same = one["parent"] is not None and one["parent"] == other["parent"]
            if same and min(one["visits"], other["visits"]) >= 2 and one["value"] - other["value"] >= 0.25:
                expected.add((tree["uid"], prefix[one["parent"]], tuple(one["tokens"]), tuple(other["tokens"])))
    assert found == expected and expected


def test_an_endless_threshold_leaves_no_pair(trees: list[dict[str, Any]]) -> None:
    assert extract(trees, PairsSection(threshold=1e9)) == []


def test_losers_that_a_right_answer_goes_through_can_be_left_out(trees: list[dict[str, Any]]) -> None:
    pairs = extract(trees, PairsSection(losers="never-correct", selection="all", per_parent=99, threshold=0.01))
    answers = {tree["uid"]: [tuple(a["tokens"]) for a in tree["answers"] if a["correct"]] for tree in trees}
    prompts = {tree["uid"]: len(tree["prompt"]) for tree in trees}
    for pair in pairs:
        loser = (pair.context + pair.rejected)[prompts[pair.uid] :]
        assert not any(answer[: len(loser)] == loser for answer in answers[pair.uid])
    assert len(pairs) < len(extract(trees, PairsSection(selection="all", per_parent=99, threshold=0.01)))


def test_whole_answers_are_paired_from_where_they_differ(trees: list[dict[str, Any]]) -> None:
    pairs = [pair for pair in extract(trees, PairsSection(paths_per_question=2)) if pair.kind == "path"]
    assert pairs and all(pair.kind == "path" and pair.chosen[0] != pair.rejected[0] for pair in pairs)
    for pair in pairs:
        encoded = pair.encoded(END)
        assert encoded.chosen.response[-1] == END
        assert encoded.chosen.prompt == encoded.rejected.prompt == pair.context


def answered(text: str, correct: bool, outcome: float, **more: Any) -> dict[str, Any]:
    said = text if correct else None
    return {"tokens": list(ids(text)), "said": said, "correct": correct, "ended": True, "outcome": outcome, **more}


def tree_of(*answers: dict[str, Any]) -> dict[str, Any]:
    return {"uid": "q", "prompt": list(ids("?")), "nodes": [], "answers": list(answers)}


def test_whole_answers_are_paired_once_and_only_where_the_better_scores_higher() -> None:
    same, higher, near = answered("8", False, 0.1), answered("9", False, 2.0), answered("7", False, 0.9)
    tree = tree_of(answered("5", True, 1.0), same, same, answered("6", False, 0.2), higher, near)
    section = PairsSection(paths_per_question=2)
    assert [pair.rejected for pair in extract([tree], section)] == [ids("8"), ids("6")]
    assert len(extract([tree], PairsSection(paths_per_question=9, threshold=0.0))) == 3
    equal = tree_of(answered("5", True, 1.0), answered("6", False, 1.0))
    assert extract([equal], PairsSection(paths_per_question=9, threshold=0.0)) == []


def test_an_answer_that_nobody_can_read_has_ended_all_the_same() -> None:
    tree = tree_of(answered("5", True, 1.0), answered("6", False, 0.0), answered("7", False, 0.0, ended=False))
    read, cut = extract([tree], PairsSection(paths_per_question=2))
    assert read.encoded(END).rejected.response == (*ids("6"), END) and cut.encoded(END).rejected.response == ids("7")
    ends = {text.text.response[-1] == END for text in outcome_texts([tree], END, 10, 0) if text.label == 0}
    assert ends == {True, False}


def test_a_side_without_a_token_makes_no_pair() -> None:
    cut = tree_of(answered("56", True, 1.0), answered("5", False, 0.0, ended=False))
    assert extract([cut], PairsSection(paths_per_question=1)) == []
    [whole] = extract(
        [tree_of(answered("56", True, 1.0), answered("5", False, 0.0))], PairsSection(paths_per_question=1)
    )
    assert (whole.chosen, whole.encoded(END).rejected.response) == (ids("6"), (END,))


def test_the_audit_finds_false_winners_and_ties() -> None:
    def pair(chosen: tuple[int, ...], gap: float) -> StepPair:
        return StepPair("q", "step", (1, 2), chosen, (9,), False, False, gap, 0.0, 1, 1, 1)

    found = audit([pair((3,), 1.0), pair((4,), 1.0), pair((3, 5), 0.5)], {"q": (1, 2, 3, 5)})
    assert (found["false_winners"], found["tied_gaps"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert audit([], {})["false_winners"] is None and audit([pair((3,), 1.0)], {})["false_winners"] is None


def test_pairs_survive_being_written(trees: list[dict[str, Any]]) -> None:
    import json

    for pair in extract(trees, PairsSection()):
        assert StepPair.from_dict(json.loads(json.dumps(pair.as_dict()))) == pair


@pytest.fixture
def model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=160, tie_word_embeddings=True, bos_token_id=None, eos_token_id=END,
        pad_token_id=TOKENIZER.pad_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(shape)


def trainer_of(
    model: Any, trees: list[dict[str, Any]], curriculum: CurriculumSection, anchors: bool = True
) -> CurriculumTrainer:
    paths = [EncodedResponse(path.prompt, (*path.response, END)) for _, path in best_paths(trees)]
    pairs = extract(trees, PairsSection())
    return CurriculumTrainer(
        model,
        pairs,
        paths if anchors else (),
        PairObjective(beta=0.1, reward="dpo", language_weight=1.0),
        curriculum,
        TuningOptions(learning_rate=3e-3, total_steps=3 * -(-len(pairs) // 8), train_embeddings=True),
        end=END,
        pairs_per_step=8,
        pairs_per_pass=8,
        anchors_per_step=4,
        anchor_weight=1.0,
        seed=0,
        name="both",
    )


def test_pairs_are_learned_in_the_given_order(
    model: Any, trees: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(model, trees, CurriculumSection())
    taken: list[int] = []
    at = trainer._batches.at
    monkeypatch.setattr(trainer._batches, "at", lambda step: (taken.extend(found := at(step)), found)[1])
    before = trainer.prediction_gaps()
    gaps = np.array([pair.gap for pair in trainer._sources])
    uids = [pair.uid for pair in trainer._sources]
    trainer.train(trainer.steps_per_epoch)
    assert taken == trainer.orders[0] == order(CurriculumSection(), gaps, before, uids, batch=8, seed=0, epoch=0)
    now = trainer.prediction_gaps()
    trainer.train(trainer.steps_per_epoch)
    assert trainer.orders[1] == order(CurriculumSection(), gaps, now, uids, batch=8, seed=0, epoch=1)
    assert trainer.orders[1] != trainer.orders[0]
    assert trainer.taus() == [kendall_tau(trainer.orders[0], trainer.orders[1])]


def test_an_order_by_reward_alone_stays(model: Any, trees: list[dict[str, Any]]) -> None:
    trainer = trainer_of(model, trees, CurriculumSection(order="reward"))
    trainer.train(3 * trainer.steps_per_epoch)
    assert trainer.taus() == [pytest.approx(1.0)] * 2


@pytest.mark.parametrize("cut", [1, 4])
def test_learning_resumes_bit_for_bit_in_the_middle_of_an_epoch(
    model: Any, trees: list[dict[str, Any]], tmp_path: Path, cut: int
) -> None:
    straight = trainer_of(copy.deepcopy(model), trees, CurriculumSection())
    straight.train(straight.total_steps)
    first = trainer_of(copy.deepcopy(model), trees, CurriculumSection())
    first.train(cut)
    first.save(tmp_path)
    second = trainer_of(copy.deepcopy(model), trees, CurriculumSection())
    second.load(tmp_path)
    second.train(second.total_steps)
    assert second.orders == straight.orders
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_dpo_on_a_step_is_dpo_on_the_answer_up_to_it(model: Any) -> None:
    context, shared, chosen, rejected = (1, 2, 3), (4, 5), (6, 7), (8,)
    split = [EncodedPair(EncodedResponse(context + shared, chosen), EncodedResponse(context + shared, rejected))]
    whole = [EncodedPair(EncodedResponse(context, shared + chosen), EncodedResponse(context, shared + rejected))]
    with torch.no_grad():
        one, other = (score_pairs(model, pairs) for pairs in (split, whole))
    assert torch.allclose(one[:, 0] - one[:, 1], other[:, 0] - other[:, 1], atol=1e-6)
    means = [found / torch.tensor([[2.0, 1.0]]) for found in (one,)] + [other / torch.tensor([[4.0, 3.0]])]
    gaps = [float(found[0, 0] - found[0, 1]) for found in means]
    assert abs(gaps[0] - gaps[1]) > 1e-3, "what both share does not cancel in means per token"


SMALL_STEPS = LearningSection(pairs_per_step=8, anchors_per_step=8, learning_rate=1e-3, plain_learning_rate=1e-3)


def material_of(trees: list[dict[str, Any]]) -> Material:
    paths = [EncodedResponse(path.prompt, (*path.response, END)) for _, path in best_paths(trees)]
    pairs = extract(trees, PairsSection())
    assert len(pairs) % SMALL_STEPS.pairs_per_step, "an epoch of pairs ends with a smaller batch"
    return Material(pairs, paths, [EncodedResponse(path.prompt * 5, path.response) for path in paths], END)


def watch_tokens(trainer: Any) -> list[int]:
    """What a trainer reads from now on: a list that grows."""
    read: list[int] = []

    def watch(batches: Any, lengths: list[int]) -> None:
        at = batches.at

        def watched(step: int) -> list[int]:
            found: list[int] = at(step)
            read.extend(lengths[place] for place in found)
            return found

        batches.at = watched

    if isinstance(trainer, CurriculumTrainer):
        watch(trainer._batches, [len(pair.chosen) + len(pair.rejected) for pair in trainer._pairs])
        if trainer._anchors:
            watch(trainer._anchor_batches, [len(anchor.text) for anchor in trainer._anchors])
    else:
        watch(trainer._batches, [len(example.text) for example in trainer._examples])
    return read


def test_all_anchored_arms_see_the_same_anchors(model: Any, trees: list[dict[str, Any]]) -> None:
    material = material_of(trees)
    drawn = [
        [trainer._anchor_batches.at(step) for step in range(4)]
        for arm in ("shuffled", "both", "reward", "anchor")
        for trainer in [new_trainer(arm, copy.deepcopy(model), material, SMALL_STEPS, 0)]
    ]
    assert all(one == drawn[0] for one in drawn)


@pytest.mark.parametrize("arm", LearningSection().arms)
def test_every_arm_learns_for_as_many_steps_and_tokens(arm: Any, model: Any, trees: list[dict[str, Any]]) -> None:
    material, section = material_of(trees), SMALL_STEPS
    plan = Plan.of(material, section, 0)
    encoded = [pair.encoded(END) for pair in material.pairs]
    before = pair_logprobs(model, encoded)
    trainer = new_trainer(arm, copy.deepcopy(model), material, section, 0)
    assert trainer.total_steps == plan.epochs * plan.steps_per_epoch
    read = watch_tokens(trainer)
    found = trainer.train(trainer.total_steps)
    assert np.isfinite(found["loss"])
    assert sum(read) == tokens_read(arm, material, section, 0)
    anchored = tokens_read("both", material, section, 0)
    text = max(map(len, [*material.paths, *material.traces]))
    if arm == "plain":
        assert sum(read) == section.epochs * sum(len(one.chosen) + len(one.rejected) for one in encoded) < anchored
    else:
        assert abs(sum(read) - anchored) <= trainer.total_steps * text
    moved = drift(trainer.tuned(copied=True), encoded, before)
    if arm != "plain":
        assert moved["chosen"] > 0
    if arm != "traces":
        assert moved["chosen"] > moved["rejected"]


def test_what_an_arm_needs_to_learn(trees: list[dict[str, Any]]) -> None:
    pairs, path = extract(trees, PairsSection()), EncodedResponse((1,), (2,))
    arms = LearningSection().arms
    without_paths = {arm for arm in arms if Material(pairs, (), (path,), END).suffices(arm)}
    assert without_paths == set(arms) - {"paths"}
    assert not any(Material((), (path,), (path,), END).suffices(arm) for arm in arms)
    assert not Material(pairs, (path,), (), END).suffices("traces")


def test_the_head_learns_from_answers_and_what_leads_to_them(trees: list[dict[str, Any]]) -> None:
    texts = outcome_texts(trees, END, 10_000, 0)
    assert all(0 <= text.label <= 1 for text in texts)
    whole = [text for text in texts if text.whole]
    assert {text.label for text in whole} == {0.0, 1.0} and all(text.text.response[-1] == END for text in whole)
    assert any(0 < text.label < 1 for text in texts if not text.whole)
    assert len(outcome_texts(trees, END, 50, 0)) == 50
    learned, kept = held_out(texts, 0.2, 0)
    assert kept and not {text.uid for text in learned} & {text.uid for text in kept}
    assert len(learned) + len(kept) == len(texts)
    alone = [text for text in texts if text.uid == texts[0].uid]
    assert held_out(alone, 0.2, 0) == ([], alone) and held_out([], 0.2, 0) == ([], [])


def test_area_under_the_curve_by_counting() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.choice([0.1, 0.2, 0.3, 0.4], 40).tolist(), rng.integers(0, 2, 40).tolist()
    rights = [score for score, label in zip(scores, labels, strict=True) if label]
    wrongs = [score for score, label in zip(scores, labels, strict=True) if not label]
    expected = np.mean([(right > wrong) + 0.5 * (right == wrong) for right in rights for wrong in wrongs])
    assert area_under_curve(scores, labels) == pytest.approx(expected)
    assert area_under_curve([0.1, 0.2], [1, 1]) is None
