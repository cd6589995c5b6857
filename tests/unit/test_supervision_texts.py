import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.supervision.boosting.chain import Chain, ChainOptions, grow
from rayworks.systems.supervision.boosting.votes import VOTES
from rayworks.systems.supervision.boosting.weighting import rule_of
from rayworks.systems.supervision.config import Config
from rayworks.systems.supervision.generation.tokens import CLIP, Tokens, Written, packed, prior_error, unpacked
from rayworks.systems.supervision.tasks.examples import TextExample
from rayworks.systems.supervision.tasks.texts import checked, read_texts
from rayworks.systems.supervision.text_track import TextPool, TextTrack, surest
from rayworks.systems.supervision.tracks import Lesson

THINGS = ("dress", "shirt", "coat", "sock")
WORDS = ("warm", "lovely", "torn", "thin")
OPTIONS = tuple(f" {thing} {word}" for thing in ("wool", "silk") for word in ("soft", "stiff"))


def pool(count: int = 160, options: bool = False) -> list[TextExample]:
    """What a garment is made of depends on its name, how it feels on a word."""
    examples = []
    for number in range(count):
        thing, word = THINGS[number % 4], WORDS[number // 4 % 4]
        answer = OPTIONS[2 * (number % 4 > 1) + (number // 4 % 4 > 1)]
        prompt = f"a {thing} that is {word} number {number}:"
        examples.append(TextExample(f"n{number}", prompt, answer, OPTIONS if options else ()))
    return examples


ADAPTERS = {
    "learner": "adapter",
    "layers": 2,
    "lora_rank": 4,
    "epochs": 8,
    "batch_size": 8,
    "learning_rate": 0.03,
}
COUNTS = {"count_labelled": 40, "count_validation": 20, "count_unlabelled": 60, "count_test": 40}


def config(model: str = "", **changes: dict[str, object]) -> Config:
    settings = {
        "task": {"kind": "texts", "count": 160, "split": "random", "hardness": "length", **COUNTS},
        "weak": ADAPTERS | {"model": model} if model else {"features": "words:20", "depth": 3, "leaf": 1},
        "student": {"features": "tfidf", "penalty": 30.0},
    }
    return Config.model_validate(
        {name: settings.get(name, {}) | changes.get(name, {}) for name in {*settings, *changes}}
    )


def track_of(settings: Config, examples: list[TextExample], seed: int = 0) -> TextTrack:
    return TextTrack(settings, TextPool(settings, examples), seed)


def grown(track: TextTrack, rounds: int = 4, window: int | None = 1) -> tuple[Chain, list[object]]:
    learner, experts = track.learner(), list[object]()
    chain = Chain.begin("boosting", len(learner.owners))
    options = ChainOptions(rule_of("prior", track.classes, track.prior_error()))
    grow(chain, learner, options, rounds=rounds, seed=0, keep=lambda number, expert: experts.append(expert))
    return chain, [experts[one.number] for one in chain.kept]


# tokens --------------------------------------------------------------------------------------------------------------
def test_tokens_know_their_answers_places_and_what_is_before_them() -> None:
    tokens = Tokens.of([(5, 6, 0), (0,), (5, 0)])
    assert tokens.owners.tolist() == [0, 0, 0, 1, 2, 2]
    assert tokens.places.tolist() == [0, 1, 2, 0, 0, 1]
    assert tokens.previous.tolist() == [-1, 5, 6, -1, -1, 5]
    assert [tokens[at] for at in range(len(tokens))] == [(5, 6, 0), (0,), (5, 0)]


def test_the_prior_predicts_each_token_from_the_others_alone() -> None:
    # First come 1 1 1 2: each 1 is predicted, 2 is not. After 1 come 7 7 8: for one 7 there are 7 and 8, each as good as the
    # other; 8 is not predicted. After 2 nothing else is known than that second come 7 7 8, so that 9 is not predicted.
    tokens = Tokens.of([(1, 7), (1, 7), (1, 8), (2, 9)])
    assert prior_error(tokens) == pytest.approx(1 - (3 + 2 * 0.5) / 8)
    # Of two that differ, each is predicted to be the other.
    assert prior_error(Tokens.of([(1,), (2,)])) == CLIP[1]
    # Among the three others of each there are two of the other kind.
    assert prior_error(Tokens.of([(1,), (1,), (2,), (2,)])) == CLIP[1]
    # Two others are as common as its own two.
    assert prior_error(Tokens.of([(1,)] * 3 + [(2,)] * 2)) == pytest.approx(1 - 3 * 0.5 / 5)
    assert prior_error(Tokens.of([(1, 2, 3)] * 9)) == CLIP[0]


def test_the_prior_of_many_tokens_is_that_of_a_count_of_the_others() -> None:
    draw = np.random.default_rng(0)
    tokens = Tokens.of([tuple(draw.integers(0, 4, size)) for size in draw.integers(1, 5, 60).tolist()])
    keys, right = list(zip(tokens.places, tokens.previous, strict=True)), 0.0
    for own, token in enumerate(tokens.values.tolist()):
        others = [at for at in range(len(keys)) if at != own and keys[at] == keys[own]]
        others = others or [at for at in range(len(keys)) if at != own and tokens.places[at] == tokens.places[own]]
        counts = Counter(tokens.values[others].tolist()).most_common()
        best = [value for value, count in counts if count == counts[0][1]]
        right += (token in best) / len(best)
    assert prior_error(tokens) == pytest.approx(1 - right / len(keys))


@pytest.mark.parametrize("count", [1, 8, 13])
def test_misses_travel_as_bits(count: int) -> None:
    misses = np.random.default_rng(count).integers(0, 2, count).astype(float)
    assert len(packed(misses)) == -(-count // 8)
    assert (unpacked(packed(misses), count) == misses).all()


# examples ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("example", "reason"),
    [
        (TextExample("a", "what?", "  "), "example a has the answer '  ', of no length"),
        (TextExample("a", "", "yes"), "example a has the prompt ''"),
        (TextExample("a", "what?", "yes", ("no", "maybe")), "its answer 'yes' must be one of them"),
        (TextExample("a", "what?", "yes", ("yes", "yes")), "all must differ"),
    ],
)
def test_examples_that_cannot_be_used_are_refused(example: TextExample, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        checked([TextExample("b", "what?", "no"), example])


def test_a_file_of_texts_is_read(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    rows = [
        {"uid": "x", "prompt": "one?", "answer": "a", "options": ["a", "b"], "hard": 2},
        {"uid": "y", "prompt": "two?"},
    ]
    path.write_text(
        json.dumps(rows[0]) + "\n" + json.dumps(rows[1] | {"answer": "b", "options": ["b", "c"], "hard": 3})
    )
    found = read_texts(str(path))
    assert found[0] == TextExample("x", "one?", "a", ("a", "b"))
    assert found[1].columns["hard"] == 3
    path.write_text(json.dumps(rows[1] | {"answer": ""}) + "\n")
    with pytest.raises(DataError, match="row 1, column answer"):
        read_texts(str(path))
    path.write_text(json.dumps(rows[1] | {"answer": "b", "options": 5}) + "\n")
    with pytest.raises(DataError, match="5 is no list of texts"):
        read_texts(str(path))
    with pytest.raises(DataError, match="no examples"):
        checked([])


# words ---------------------------------------------------------------------------------------------------------------
def test_trees_write_together_what_none_of_them_can() -> None:
    track = track_of(config(), pool())
    chain, experts = grown(track, rounds=8)
    assert len(experts) > 3
    labels = track.label(experts, chain.alphas, "unlabelled", "linear", [1, len(experts), 99])
    right = {number: track.rights(answers, "unlabelled").mean() for number, answers in labels.items()}
    assert right[len(experts)] > right[1] + 0.2
    assert labels[99].texts == labels[len(experts)].texts
    [student], _ = track.learn(Lesson(track.truth("unlabelled")), ["test"], 0)
    assert track.rights(student, "test").mean() > 0.9


def test_weight_is_told_by_its_place_in_the_answer() -> None:
    track = track_of(config(), pool())
    tokens = track._tokens
    even = track.by_place(np.full(len(tokens.values), 1 / len(tokens.values)))
    # Two words and the end, as often as each other.
    assert even == [(pytest.approx(1 / 3), pytest.approx(1 / 3))] * 3
    first = (tokens.places == 0) / (tokens.places == 0).sum()
    assert [weight for _, weight in track.by_place(first)] == pytest.approx([1, 0, 0])


@pytest.mark.parametrize("vote", VOTES)
def test_one_round_is_the_single_expert_whatever_the_vote(vote: str) -> None:
    track = track_of(config(), pool())
    chain, experts = grown(track)
    alone = track.label(experts[:1], np.ones(1), "unlabelled", "linear", [1])[1]
    found = track.label(experts, chain.alphas, "unlabelled", vote, [1])[1]
    assert found.texts == alone.texts
    assert (found.confidence == alone.confidence).all()
    assert (track.wrong(experts, "unlabelled")[0] == ~track.rights(alone, "unlabelled")).all()


def test_the_error_of_an_expert_is_the_prior_under_the_next_weights() -> None:
    track = track_of(config(), pool())
    learner = track.learner()
    chain, experts = Chain.begin("boosting", len(learner.owners)), list[object]()
    options = ChainOptions(rule_of("prior", track.classes, track.prior_error()))
    grow(chain, learner, options, rounds=1, seed=0, keep=lambda number, expert: experts.append(expert))
    assert chain.distribution @ learner.misses(experts[0]) == pytest.approx(track.prior_error())


def test_tokens_of_a_window_are_weighed_as_one() -> None:
    for window, units in ((1, 3), (2, 2), (None, 1)):
        track = track_of(config(boosting={"window": window}), pool())
        chain, _ = grown(track, rounds=2)
        by_answer = chain.distribution.reshape(-1, 3)
        assert max(len(np.unique(row.round(12))) for row in by_answer) <= units
        assert (track.learner().owners == np.repeat(np.arange(40), 3)).all()


def test_what_has_no_weight_is_not_learned_from() -> None:
    track = track_of(config(), pool())
    learner = track.learner()
    wool = np.array([" wool" in answer for answer in track.known("labelled").texts])[learner.owners]
    expert = learner.fit(np.where(wool, 1.0, 0.0), 0)
    answers = track.label([expert], np.ones(1), "test", "linear", [1])[1]
    assert all("wool" in answer for answer in answers.texts)


@pytest.mark.parametrize("vote", VOTES)
def test_options_are_chosen_from_where_there_are_some(vote: str) -> None:
    track = track_of(config(), pool(options=True))
    chain, experts = grown(track)
    chosen = track.label(experts, chain.alphas, "test", vote, [len(experts)])[len(experts)]
    assert set(chosen.texts) <= set(OPTIONS)
    written = track_of(config(task={"answered_by": "writing"}), pool(options=True))
    answers = written.label(experts, chain.alphas, "test", vote, [len(experts)])[len(experts)]
    assert not set(answers.texts) & set(OPTIONS)
    # Answers are compared word for word: a space before the first does not count.
    assert (written.rights(answers, "test") == track.rights(chosen, "test")).mean() > 0.9


def test_labels_pass_through_a_file_and_the_surest_are_learned_from() -> None:
    track = track_of(config(), pool())
    labels = Written(("é a", "", "b"), np.array([-0.5, -3.0, 0.0]))
    again = track.unpack(track.pack(labels))
    assert again.texts == labels.texts
    assert (again.confidence == labels.confidence).all()
    assert surest(np.array([-1.0, -3.0, -0.5, -2.0]), 0.5).tolist() == [0, 2]
    assert surest(np.array([-1.0, -3.0]), 0.01).tolist() == [0]
    # Where the doubtful half is wrong, a student of the sure half alone is right.
    truth = track.truth("unlabelled").texts
    mixed = Written(tuple(truth[:30]) + tuple(truth[:30]), np.repeat([-0.1, -5.0], 30))
    filtered = track_of(config(student={"confidence": 0.5}), pool())
    gains = [t.rights(t.learn(Lesson(mixed), ["test"], 0)[0][0], "test").mean() for t in (track, filtered)]
    assert gains[1] > gains[0] + 0.2


def test_noise_changes_known_answers_alone() -> None:
    track = track_of(config(task={"label_noise": 0.4}), pool(options=True))
    told, true = track.known("labelled").texts, track.truth("labelled").texts
    assert 0.2 < np.mean([one != other for one, other in zip(told, true, strict=True)]) < 0.6
    assert set(told) <= set(OPTIONS)
    assert track.known("validation").texts == track.truth("validation").texts


def test_what_does_not_fit_texts_is_refused() -> None:
    track = track_of(config(), pool())
    with pytest.raises(ConfigError, match=r"student.taught: logconf is a loss of classes"):
        track.learn(Lesson(track.truth("unlabelled"), loss="logconf"), "test", 0)
    many = checked([TextExample(str(n), f"what is {n}?", f"{n}") for n in range(160)])
    with pytest.raises(DataError, match="160 different ones, more than 100"):
        TextPool(config(task={"hardness": "tfidf", "split": "easy-to-hard", "count": 200}), many)


# language models -----------------------------------------------------------------------------------------------------
def test_adapters_are_boosted_and_write_together(tiny_model: str, tmp_path: Path) -> None:
    changes = {"learner": "tuned", "model": tiny_model, "layers": 2, "tuning": "full", "epochs": 12, "batch_size": 8}
    track = track_of(config(tiny_model, student=changes | {"learning_rate": 5e-3}), pool(options=True))
    assert track.classes == 320
    chain, experts = grown(track, rounds=2)
    labels = track.label(experts, chain.alphas, "test", "linear", [1, 2])
    assert all(set(answers.texts) <= set(OPTIONS) for answers in labels.values())
    assert track.rights(labels[1], "test").mean() > 0.3
    track.save_expert(experts[0], tmp_path)
    again = track.load_expert(tmp_path)
    assert track.label([again], np.ones(1), "test", "linear", [1])[1].texts == labels[1].texts
    assert (track.learner().misses(again) == track.learner().misses(experts[0])).all()
    cost = track.cost(2)
    assert cost["train"] > cost["label"] > 0
    [student], spent = track.learn(Lesson(track.truth("unlabelled")), ["test"], 0)
    assert track.rights(student, "test").mean() > 0.6
    assert spent["flops"] > 0
    written = track_of(config(tiny_model, task={"answered_by": "writing"}), pool(options=True))
    free = written.label(experts, chain.alphas, "test", "linear", [2])[2]
    assert written.rights(free, "test").mean() > 0.3
    assert (free.confidence <= 0).all()
