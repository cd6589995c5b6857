"""Whatever a config file or a command line says is a config or a ConfigError, for every system."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rayworks.core import config as configs
from rayworks.core.errors import ConfigError
from rayworks.core.registry import find
from rayworks.core.yaml_reading import load
from rayworks.systems import REGISTRY

SPECS = [find(REGISTRY, name) for name in REGISTRY]
FILES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
TAGGED = ["!!int", "!!int ''", "!!bool maybe", "!!timestamp 1", "!!float x", "!!binary ü", "!!python/name:os"]
ODD = ["", "~", "null", "no", "1:30", "0x1F", "1e999", ".nan", "-.inf", "[", "{a: ", "&a *a", "1" * 5000, "\ud800"]
WORDS = st.text(max_size=12) | st.sampled_from([*ODD, *TAGGED])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6) | st.integers(), inner, max_size=4),
    max_leaves=8,
)


def paths(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Of every section and field."""
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from paths(value, f"{prefix}{key}.")


FIELDS = {
    spec.name: sorted(path for path in paths(spec.config().model_dump(mode="json")) if "." in path) for spec in SPECS
}


def assert_it_is_read(spec: Any, **layers: Any) -> None:
    try:
        config = configs.resolve(spec.config, **layers)
    except ConfigError:
        return
    written = load(configs.to_yaml(config), spec.config)
    assert configs.resolve(spec.config, file=written) == config, "is not what is written down"


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_field_with_any_words(spec: Any) -> None:
    @settings(max_examples=150)
    @given(
        st.dictionaries(
            st.sampled_from(FIELDS[spec.name]) | st.text(max_size=8).map("run.{}".format), WORDS, max_size=4
        )
    )
    def read(fields: dict[str, str]) -> None:
        words = [word for field, value in fields.items() for word in (f"--{field}", value)]
        try:
            overrides = configs.parse_overrides(words)
        except ConfigError:
            return
        assert_it_is_read(spec, overrides=overrides)

    read()


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_file_with_any_values(spec: Any, tmp_path: Path) -> None:
    @FILES
    @given(st.sampled_from(FIELDS[spec.name]), VALUES)
    def read(field: str, value: Any) -> None:
        for part in reversed(field.split(".")):
            value = {part: value}
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(value))
        assert_it_is_read(spec, file=file)

    read()


@FILES
@given(
    st.sampled_from(SPECS),
    st.binary(max_size=200) | st.text("ab: -[]{}&*!|>%@'\"\n\t#?,.0", max_size=60).map(str.encode),
)
@example(SPECS[0], b"run: {name: 2001-99-99}")
@example(SPECS[0], b"run: {seed: !!int abc}")
@example(SPECS[0], b"run: &a [*a]")
@example(SPECS[0], b"[" * 20000)
@example(
    SPECS[0],
    b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
    b"d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n"
    b"g: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nrun: [*g,*g,*g,*g,*g,*g,*g,*g,*g]\n",
)
def test_a_file_of_any_bytes(tmp_path: Path, spec: Any, data: bytes) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(data)
    assert_it_is_read(spec, file=file)
