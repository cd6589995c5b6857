import re
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from rayworks.core import config as configs
from rayworks.core import yaml_reading
from rayworks.core.config import RESUME_SAFE, Section, SystemConfig
from rayworks.core.errors import ConfigError
from rayworks.core.yaml_reading import load


class Part(Section):
    rate: float = Field(0.5, gt=0, lt=1, description="how fast")
    label: str = Field("a", json_schema_extra=RESUME_SAFE)


class Example(SystemConfig):
    part: Part = Part()
    parts: dict[str, Part] = Field(default_factory=lambda: {"one": Part()})


def test_layers_take_precedence_in_order(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("part: {rate: 0.3}\nrun: {name: from-file}\n")
    smoke = {"part.rate": 0.2, "part.label": "smoke", "run.seed": 1}
    config = configs.resolve(Example, smoke=smoke, file=file, overrides={"run.seed": 2})
    assert (config.part.rate, config.part.label, config.run.name, config.run.seed) == (0.3, "smoke", "from-file", 2)


def test_entry_of_a_mapping_is_added_changed_and_removed() -> None:
    config = configs.resolve(Example, overrides={"parts.two.rate": 0.1, "parts.one.rate": 0.9})
    assert {name: part.rate for name, part in config.parts.items()} == {"one": 0.9, "two": 0.1}
    assert configs.resolve(Example, overrides={"parts.two.rate": 0.1, "parts.one": None}).parts.keys() == {"two"}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"part.rat": 1}, ["part.rat", "unknown field", "rate"]),
        ({"part.rate": "fast"}, ["part.rate", "number"]),
        ({"part.rate": 2}, ["part.rate", "less than 1"]),
        ({"run.name": "../x"}, ["run.name", "pattern"]),
        ({"part.rate.deep": 1}, ["part.rate.deep", "not a section"]),
        ({"parts.one.rat": 1}, ["parts.one.rat", "rate"]),
    ],
)
def test_errors_are_one_line_that_names_the_field(overrides: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        configs.resolve(Example, overrides=overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize("text", ["[1, 2]", "{unclosed", ""])
def test_bad_files_are_config_errors(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    if text:
        with pytest.raises(ConfigError, match=r"c\.yaml"):
            configs.resolve(Example, file=file)
    else:
        assert configs.resolve(Example, file=file) == Example()
    with pytest.raises(ConfigError, match="cannot be read"):
        configs.resolve(Example, file=tmp_path / "missing.yaml")


def test_overrides_are_kept_as_they_were_written() -> None:
    parsed = configs.parse_overrides(["--a.b", "3", "--c.d=[x, y]", "--e.f", "null", "--g.h", "-1", "--i.j="])
    assert parsed == {"a.b": "3", "c.d": "[x, y]", "e.f": "null", "g.h": "-1", "i.j": ""}
    assert {type(value) for value in parsed.values()} == {configs.Written}
    for wrong in (["--a.b"], ["a.b", "3"], ["--smok"]):
        with pytest.raises(ConfigError):
            configs.parse_overrides(wrong)


class Kinds(Section):
    text: str = ""
    maybe: str | None = "x"
    many: tuple[str, ...] = ()
    named: dict[str, str] = {}
    kind: Literal["no", "1"] = "1"
    which: Literal[1, 2] = 1
    either: int | str = 0
    whole: int = 0
    ratio: float = 0.0
    flag: bool = False
    anything: Any = None
    numbers: tuple[int, ...] = ()
    part: Part | None = None


class Typed(SystemConfig):
    kinds: Kinds = Kinds()


LOSSY = "007 7 no 1:30 0x1F 1e3 null ~ 2001-01-01 true 1_000 .5".split()
LOSSY += ["a: b", "a #b", " x ", "[a]", "!x"]


def read(field: str, word: str) -> Any:
    overrides = configs.parse_overrides([f"--kinds.{field}={word}"])
    return getattr(configs.resolve(Typed, overrides=overrides).kinds, field)


@pytest.mark.parametrize("word", LOSSY)
def test_a_text_field_keeps_the_text(word: str) -> None:
    assert read("text", word) == word
    assert read("maybe", word) == (None if word == "null" else word)
    assert read("text", f"'{word}'") == word
    if re.fullmatch(r"[\w.:-]+", word):
        assert read("many", f"[{word}, x]") == (word, "x")
        assert read("named", f"{{{word}: '{word}'}}") == {word: word}
        if word != "null":
            assert read("named", f"{{{word}: {word}}}") == {word: word}


@pytest.mark.parametrize("word", ["007", "7", "no", "0x1F", "null", "1e3", "2001-01-01"])
def test_a_run_has_the_name_that_was_written(word: str) -> None:
    assert configs.resolve(Typed, overrides=configs.parse_overrides(["--run.name", word])).run.name == word


@pytest.mark.parametrize(
    ("field", "word", "value"),
    [
        *(("kind", "no", "no"), ("kind", "1", "1"), ("which", "2", 2), ("either", "7", 7), ("either", "x", "x")),
        *(
            ("whole", "-3", -3),
            ("whole", "010", 10),
            ("ratio", "1e-3", 0.001),
            ("ratio", ".5", 0.5),
            ("ratio", "3", 3.0),
        ),
        *(
            ("flag", "yes", True),
            ("flag", "false", False),
            ("numbers", "[1, 2]", (1, 2)),
            ("anything", "[1, no]", [1, "no"]),
        ),
        *(("anything", "null", None), ("part", "null", None), ("maybe", "''", "")),
    ],
)
def test_other_fields_are_read_as_what_they_take(field: str, word: str, value: object) -> None:
    assert read(field, word) == value


@pytest.mark.parametrize(
    ("field", "word"), [("whole", "1:30"), ("whole", "0x1F"), ("flag", "2"), ("numbers", "[1:30]")]
)
def test_what_is_no_number_is_none(field: str, word: str) -> None:
    with pytest.raises(ConfigError, match=rf"kinds\.{field}"):
        read(field, word)


def test_a_file_keeps_text_too(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("run: {name: 007}\nkinds: {text: no, many: [1:30, 2001-01-01], named: {a: 0x1F}, whole: 7}\n")
    config = configs.resolve(Typed, file=file)
    assert (config.run.name, config.kinds.text, config.kinds.whole) == ("007", "no", 7)
    assert (config.kinds.many, config.kinds.named) == (("1:30", "2001-01-01"), {"a": "0x1F"})


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)


LONG_WORDS = f"a0: &a0 '{'x' * 1000}'\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 16)}]\n" for n in range(1, 5)
)


@pytest.mark.parametrize(
    "text",
    [BOMB, "a: &a [*a]", "[" * 5000, "{a: " * 5000, "? [x]\n: y", BOMB + "b: {<<: {c: *a9}}", LONG_WORDS],
)
def test_a_document_that_would_grow_without_end_is_refused_at_once(text: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml: is not YAML"):
        configs.resolve(Typed, file=file)
    with pytest.raises(ConfigError):
        configs.resolve(Typed, overrides=configs.parse_overrides([f"--kinds.anything={text}", "--kinds.whole=x"]))


def test_a_key_that_is_set_twice_is_refused_and_one_that_a_merge_brings_is_not() -> None:
    for text in ("run: {name: a}\nrun: {seed: 1}", "run:\n  7: a\n  '7': b", "<<: {a: 1}\n<<: {b: 1}"):
        with pytest.raises(yaml.YAMLError, match=r"is set a second time in line [23]; keep one"):
            load(text)
    merged = load("a: &a {x: 1, y: 2}\nb: &b {<<: *a, x: 3}\nc: [*b, *b]")
    assert merged["c"] == [{"x": 3, "y": 2}] * 2


def test_a_long_document_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_reading, "_Loader", None)
    with pytest.raises(yaml.YAMLError, match="longer than 100,000 characters"):
        load("- 1\n" * 30_000)


class Unprintable(dict[str, int]):
    def __repr__(self) -> str:
        raise AssertionError("may be larger than memory")


def test_a_container_in_place_of_a_number_is_not_written_out() -> None:
    with pytest.raises(ConfigError, match=r"^run\.seed: input should be a valid integer$"):
        configs.resolve(Example, file={"run": {"seed": Unprintable(a=1)}})


def test_differences_name_what_changed_unless_it_is_safe() -> None:
    old = Example().model_dump(mode="json")
    changed = configs.resolve(Example, overrides={"part.rate": 0.1, "part.label": "b", "compute.cpus_per_worker": 2})
    assert configs.differences(old, changed) == ["part.rate"]
    assert configs.differences(old, configs.resolve(Example, overrides={"parts.one.rate": 0.1})) == ["parts.one.rate"]


@given(rate=st.floats(0.01, 0.99), seed=st.integers(0, 2**63 - 1), label=st.text(max_size=20))
def test_printed_config_reads_back_as_itself(rate: float, seed: int, label: str) -> None:
    config = configs.resolve(Example, overrides={"part.rate": rate, "run.seed": seed})
    config = Example.model_validate({**config.model_dump(), "part": {"rate": rate, "label": label}})
    for text in (configs.commented_yaml(config), configs.to_yaml(config)):
        assert Example.model_validate(yaml.safe_load(text)) == config
        assert Example.model_validate(load(text, Example)) == config
        assert Example.model_validate(load(text)) == config


class Mappings(Section):
    texts: dict[str, str] = {"one": "a", "two": "b"}
    values: dict[str, Any] = {"one": 1}
    nested: dict[str, dict[str, Any]] | None = {"one": {"x": 1}}
    part: Part | None = Part()


class Mapped(SystemConfig):
    parts: dict[str, Part] = Field(default_factory=lambda: {"one": Part(), "two": Part()})
    deep: Mappings = Mappings()


REMOVALS = [
    ["--parts.one", "null"],
    ["--parts.one", "null", "--parts.two", "null"],
    ["--parts.one", "null", "--parts.three.rate", "0.1"],
    ["--deep.texts.one", "null"],
    ["--deep.texts.one", "null", "--deep.texts.two", "null"],
    ["--deep.texts.one", "'null'"],
    ["--deep.values.one", "null"],
    ["--deep.nested.one", "null"],
    ["--deep.nested.one.x", "null"],
    ["--deep.nested", "null"],
    ["--deep.part", "null"],
]


@pytest.mark.parametrize("words", REMOVALS, ids=" ".join)
def test_what_was_removed_stays_away_when_the_written_config_is_read(words: list[str], tmp_path: Path) -> None:
    config = configs.resolve(Mapped, overrides=configs.parse_overrides(words))
    assert config != Mapped()
    for number, text in enumerate((configs.commented_yaml(config), configs.to_yaml(config))):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text)
        assert configs.resolve(Mapped, file=file) == config, text
    assert configs.resolve(Mapped, file=configs.layer_of(config)) == config


def test_null_removes_an_entry_and_is_a_value_where_one_may_stand() -> None:
    def given(*words: str) -> Mappings:
        return configs.resolve(Mapped, overrides=configs.parse_overrides(words)).deep

    assert given("--deep.texts.one", "null").texts == {"two": "b"}
    assert given("--deep.texts.one", "'null'").texts == {"one": "null", "two": "b"}
    assert given("--deep.texts", "{one: null}").texts == {"two": "b"}
    assert given("--deep.values.one", "null").values == {"one": None}
    assert given("--deep.nested.one.x", "null").nested == {"one": {"x": None}}
    assert given("--deep.nested.one", "null").nested == {}
    assert (given("--deep.nested", "null").nested, given("--deep.part", "null").part) == (None, None)
    with pytest.raises(ConfigError, match=r"deep\.texts\.three: "):
        given("--deep.texts.three", "null")


def test_configs_are_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Example().part.rate = 0.1


class _Renamed(SystemConfig):
    renamed = {"training.rate": "training.learning_rate"}

    class Training(Section):
        learning_rate: float = 0.1

    training: Training = Training()


def test_a_field_of_another_name_is_refused_with_both_names() -> None:
    with pytest.raises(ConfigError, match=r"^training\.rate: is called training\.learning_rate now$"):
        configs.resolve(_Renamed, overrides={"training.rate": 0.2})
    stored = {"training": {"rate": 0.2}}
    assert configs.renamed_since(stored, _Renamed()) == {"training.rate": "training.learning_rate"}
    assert configs.renamed_since(_Renamed().model_dump(), _Renamed()) == {}
