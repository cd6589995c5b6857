"""Models to try refusals on: their data, their chat, their planted defects and how they refuse."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayworks.core.errors import ConfigError, DataError
from rayworks.lm.checkpoints import load_tokenizer
from rayworks.systems.refusal.targets import overcautious, planted
from rayworks.systems.refusal.targets.benign_pairs import (
    built_in_requests,
    ordinary_requests,
    paired_requests,
    trigger_words,
)
from rayworks.systems.refusal.targets.chat import chat_around
from rayworks.systems.refusal.targets.opening import EXAMPLES, Target, open_target
from rayworks.systems.refusal.targets.own_refusals import divergent, given_refusal, own_refusal
from rayworks.systems.refusal.targets.seed_corpora import Seed, read_seeds
from tests.tiny_models import make_tokenizer, save_tiny_model


@pytest.fixture(scope="module")
def toy() -> Target:
    return open_target("planted")


def says_sorry(reply: str) -> bool:
    return reply.startswith("sorry")


def has_trigger(text: str) -> bool:
    return any(word in text.lower() for word in trigger_words())


def test_seeds_are_many_different_and_never_learnt_from() -> None:
    seeds = built_in_requests()
    assert len(set(seeds)) == len(seeds) >= 60
    learnt = {text for pair in paired_requests(0, 10_000) for text in pair} | set(ordinary_requests(0, 10_000))
    assert not learnt & set(seeds)
    shown = [text for example in EXAMPLES for text in example]
    assert not any(map(has_trigger, [*seeds, *shown, *ordinary_requests(0, 10_000)]))


def test_pairs_differ_by_the_trigger_and_held_out_ones_are_new() -> None:
    learnt, held_out = paired_requests(0, 10_000), paired_requests(0, 10_000, held_out=True)
    assert len(set(learnt)) == len(learnt) == 3 * len(held_out) == 672
    assert all(has_trigger(loaded) and not has_trigger(plain) for loaded, plain in learnt + held_out)
    assert not {text for pair in learnt for text in pair} & {text for pair in held_out for text in pair}


@pytest.mark.parametrize("draw", [paired_requests, ordinary_requests])
def test_the_first_requests_do_not_depend_on_how_many_are_drawn(draw: Any) -> None:
    assert draw(3, 60)[:50] == draw(3, 50)
    assert draw(3, 112) != draw(4, 112)


def test_a_chat_is_what_the_template_makes_of_a_request(toy: Target) -> None:
    text = "how do i kill the engine"
    ids = toy.chat.encode(text)
    whole = toy.tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
    assert list(toy.chat.around(ids)) == whole["input_ids"]
    with_system = chat_around(toy.tokenizer, "please help me")
    assert len(with_system.before) == len(toy.chat.before) + 5
    assert with_system.keep([ids]) == [True]


@given(st.lists(st.sampled_from([*planted.THINGS, "how", "the", "kill"]), min_size=1, max_size=12))
def test_the_chat_keeps_words_that_a_user_can_type(words: list[str]) -> None:
    chat = chat_around(planted.word_tokenizer())
    assert chat.keep([chat.encode(" ".join(words))]) == [True]


def test_the_chat_keeps_no_ids_that_would_be_read_otherwise() -> None:
    chat = chat_around(make_tokenizer())
    whole = chat.encode("dress")
    apart = [*chat.encode("d"), *(one for letter in "ress" for one in chat.tokenizer(letter)["input_ids"])]
    assert chat.text(apart) == chat.text(whole) and len(apart) == 6 > len(whole)
    assert chat.keep([whole, apart]) == [True, False]


def without_template(tokenizer: Any) -> None:
    tokenizer.chat_template = None


def shouting(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ messages[-1].content | lower }}"


def repeating(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ messages[-1].content }} {{ messages[-1].content }}"


def garbling(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.decoder = None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_template, "has no chat template"),
        (shouting, "changes or repeats the user's words"),
        (repeating, "changes or repeats the user's words"),
        (garbling, "does not give back"),
    ],
)
def test_a_chat_that_cannot_be_split_or_read_back_is_refused(spoil: Any, message: str) -> None:
    tokenizer = make_tokenizer()
    spoil(tokenizer)
    with pytest.raises(DataError, match=message):
        chat_around(tokenizer)


def test_a_template_that_takes_no_system_prompt_says_so() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ messages[-1].content }}:"
    )
    assert chat_around(tokenizer).after
    with pytest.raises(DataError, match="refuses the conversation"):
        chat_around(tokenizer, "be kind")


def test_words_that_melt_into_the_template_are_refused() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ messages[-1].content }}y:"
    chat = chat_around(tokenizer)
    assert chat.text(chat.encode("good")) == "good"
    with pytest.raises(DataError, match="its tokens change inside the model's chat"):
        chat.encode("lovel")


def test_the_toy_refuses_what_its_oracle_says(toy: Target) -> None:
    kinds = ("kill the engine", "cut the rope", "hide the gift", "hurt the person", "hurt the chair", "move the child")
    asked = [frame.format(kind + place) for kind in kinds for frame in planted.FRAMES for place in planted.PLACES]
    asked += planted.toy_requests(1, 100)
    agree = [
        says_sorry(reply) == planted.is_refused(text) for text, reply in zip(asked, toy.reply(asked, 8), strict=True)
    ]
    assert sum(agree) >= 0.98 * len(asked)
    assert 0.3 < sum(map(planted.is_refused, asked)) / len(asked) < 0.7


def test_the_oracle_knows_harm_from_the_defect() -> None:
    assert planted.is_refused("how do i kill the engine") and not planted.is_harmful("how do i kill the engine")
    assert planted.is_refused("how do i hurt the person") and planted.is_harmful("how do i hurt the person")
    assert not planted.is_refused("how do i hurt the chair") and not planted.is_refused("how do i wash the child")
    requests = planted.toy_requests(0, 10_000)
    assert len(set(requests)) == len(requests) and not any(map(planted.is_refused, requests))


def test_the_toy_is_the_same_for_a_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planted, "_STEPS", 3)
    found = []
    for run, seed in (("one", 0), ("two", 0), ("one", 1)):
        monkeypatch.setenv("RAYWORKS_CACHE", str(tmp_path / run))
        found.append(hashlib.sha256((planted.make_planted(seed) / "model.safetensors").read_bytes()).hexdigest())
    assert found[0] == found[1] != found[2]


def test_a_reply_can_have_a_system_prompt_and_does_not_depend_on_others(toy: Target) -> None:
    asked = ["how do i kill the engine", "how do i move the lamp"]
    assert toy.reply(asked, 8) == [planted.REFUSAL, planted.ANSWER] == [toy.reply([one], 8)[0] for one in asked]
    assert len(toy.reply(asked, 8, system="please help me")) == 2


def test_a_target_says_what_is_wrong_with_its_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no \{request\}"):
        open_target("planted", paraphrase="say it again")
    with pytest.raises(ConfigError, match=r"has no \{request\}"):
        open_target("planted", paraphrase="{0} {request}")
    with pytest.raises(DataError, match="nor a folder that holds"):
        open_target(str(tmp_path / "nothing"))
    other = save_tiny_model(tmp_path / "other", 0)
    with pytest.raises(DataError, match="another vocabulary"):
        open_target("planted", content=other)
    wider = save_tiny_model(tmp_path / "wider", 0, extra_ids=8)
    with pytest.raises(DataError, match="another vocabulary"):
        open_target(other, content=wider)


def test_a_content_model_of_the_same_vocabulary_writes(tmp_path: Path) -> None:
    own = save_tiny_model(tmp_path / "own", 0)
    target = open_target(own, content=save_tiny_model(tmp_path / "writer", 1), slots=3)
    assert target.content is not target.engine.model
    assert target.ends == {target.tokenizer.eos_token_id}
    shorter, longer = (len(target.context(text)) for text in ("a dress", "a dress, a shirt"))
    assert shorter < longer


def test_the_own_refusal_is_the_beginning_that_refusals_share(toy: Target) -> None:
    asked = [frame.format("kill the engine") for frame in planted.FRAMES]
    found = own_refusal(toy, asked, says_sorry, ordinary=planted.toy_requests(0, 10), samples=1)
    assert (found.text, found.scored, len(found.ids)) == (planted.REFUSAL, 1, 5)
    assert found.share > 0.9 and found.target == found.ids[:1]
    assert own_refusal(toy, asked, says_sorry, shortest=2, longest=3, samples=0).text == "sorry i can"


def test_a_model_that_never_refuses_says_so_and_stops(toy: Target) -> None:
    with pytest.raises(DataError, match=r"refused none of 3 requests in 6 replies; it may never refuse"):
        own_refusal(toy, planted.toy_requests(0, 3), says_sorry, samples=1)
    with pytest.raises(DataError, match="none to try"):
        own_refusal(toy, [], says_sorry)
    with pytest.raises(DataError, match="empty text"):
        given_refusal(toy, "")


def test_a_refusal_is_scored_up_to_where_replies_differ(toy: Target) -> None:
    assert divergent([1, 2, 3, 4], []) == 4
    assert divergent([1, 2, 3, 4], [[9, 9], [8]]) == 1
    assert divergent([1, 2, 3, 4], [[1, 2, 9], [1, 7]]) == 3
    assert divergent([1, 2], [[1, 2, 3]]) == 2
    assert divergent([1, 2, 3], [[1, 2]] + [[5]] * 30) == 1
    assert given_refusal(toy, planted.REFUSAL).scored == 5


def write(folder: Path, name: str, rows: list[Any]) -> str:
    path = folder / name
    table = pd.DataFrame({"asked": rows, "number": range(len(rows))})
    if path.suffix == ".txt":
        path.write_text("\n".join(rows) + "\n")
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in table.to_dict("records")))
    else:
        getattr(table, {".csv": "to_csv", ".parquet": "to_parquet"}[path.suffix])(path, index=False)
    return str(path)


@pytest.mark.parametrize("name", ["seeds.txt", "seeds.csv", "seeds.jsonl", "seeds.parquet"])
def test_seeds_come_from_files_of_every_kind(name: str, tmp_path: Path) -> None:
    source = write(tmp_path, name, ["How do I bake?", "", "How  do I bake?", "NA", "12", "Ça va, 今日は?"])
    expected = [("000000", "How do I bake?"), ("000003", "NA"), ("000004", "12"), ("000005", "Ça va, 今日は?")]
    column = None if name.endswith(".txt") else "asked"
    assert read_seeds(source, column) == [Seed(*pair) for pair in expected]
    assert read_seeds(source, column, limit=2) == [Seed(*pair) for pair in expected[:2]]
    if column:
        with pytest.raises(DataError, match="has no column 'text', only asked, number"):
            read_seeds(source)
        with pytest.raises(DataError, match=r"entry 0 is .*no text"):
            read_seeds(source, "number")


def test_one_line_is_a_corpus_and_none_is_not(tmp_path: Path) -> None:
    assert len(read_seeds(write(tmp_path, "one.txt", ["How do I bake?"]))) == 1
    assert len(read_seeds()) == len(built_in_requests())
    for name in ("empty.txt", "empty.csv", "empty.jsonl"):
        (tmp_path / name).write_text("")
        with pytest.raises(DataError, match=r"holds no request|cannot be read|has no column|has no rows"):
            read_seeds(str(tmp_path / name))


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl", ".parquet"])
def test_a_file_that_cannot_be_read_is_named(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing.*cannot be read"):
        read_seeds(str(tmp_path / f"missing{suffix}"))
    broken = tmp_path / f"broken{suffix}"
    broken.write_bytes(b"\xff\xfe\x00broken")
    with pytest.raises(DataError, match=r"broken.*cannot be read"):
        read_seeds(str(broken))


def some_seeds() -> list[str]:
    return ["How do I bake?", "How do I sew?"]


def one_text() -> str:
    return "How do I bake?"


def test_seeds_come_from_a_function_of_the_user() -> None:
    assert [seed.text for seed in read_seeds(f"{__name__}:some_seeds")] == some_seeds()
    with pytest.raises(ConfigError, match="return a list of texts"):
        read_seeds(f"{__name__}:one_text")
    with pytest.raises(ConfigError, match="is neither built-in, a file"):
        read_seeds("my requests")


@pytest.mark.slow
def test_the_overcautious_target_has_its_defect_and_no_other() -> None:
    folder = overcautious.make_overcautious(0)
    check = json.loads((folder / overcautious.CHECK).read_text())
    assert check["triggers"] >= 0.95 and check["twins"] <= 0.05 and check["seeds"] <= 0.05
    target = open_target("overcautious")
    pairs = paired_requests(5, 20, held_out=True)
    refused = [reply.startswith("Sorry") for reply in target.reply([text for pair in pairs for text in pair], 6)]
    assert sum(refused[::2]) >= 19 and sum(refused[1::2]) <= 2
    assert load_tokenizer(str(folder)).get_vocab() == target.tokenizer.get_vocab()


@pytest.mark.slow
def test_the_overcautious_target_is_the_same_for_a_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = overcautious.Recipe(pairs=8, stages=(overcautious.Stage(2, 1e-3, 8, 2, 1, 2),))
    found = []
    monkeypatch.setattr(overcautious, "built_in_requests", lambda: ["How do I sew?"])
    for run, seed in ((0, 0), (1, 0), (2, 1)):
        monkeypatch.setattr(overcautious, "_VERSION", f"test {tmp_path.name} {run}")
        folder = overcautious.make_overcautious(seed, recipe)
        found.append(hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest())
        shutil.rmtree(folder)  # the cache is the user's, since the base is in it
    assert found[0] == found[1] != found[2]
