"""Bodies that are wrong a million times cost no more than others, whichever application they are sent to."""

import importlib
import json
import pkgutil
import tracemalloc

import pytest
from pydantic import TypeAdapter, ValidationError

import serve.apps
from serve.common import openai
from serve.common.body import Body

VALUES = 200_000
MEBIBYTE = 2**20
MODULES = [
    openai,
    *(importlib.import_module(f"serve.apps.{found.name}") for found in pkgutil.iter_modules(serve.apps.__path__)),
]
BODIES = sorted(
    {
        value
        for module in MODULES
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Body) and value is not Body
    },
    key=lambda body: body.__name__,
)


def test_all_applications_have_bodies() -> None:
    assert len(BODIES) >= 20


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_many_wrong_values_are_few_errors(body: type[Body]) -> None:
    fields = body.model_fields
    wrong = [object()] * VALUES
    bodies = [{name: wrong} for name in fields]
    bodies += [{name: [[[wrong]]]} for name in fields]
    bodies += [{name: {f"k{number}": object() for number in range(2000)}} for name in fields]
    bodies.append({f"unknown{number}": 1 for number in range(2000)})
    reading = TypeAdapter(body)
    tracemalloc.start()
    for values in bodies:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        with pytest.raises(ValidationError) as found:
            reading.validate_python(values)
        assert len(found.value.errors()) <= 120, values.keys()
        assert tracemalloc.get_traced_memory()[1] - before < 4 * MEBIBYTE
    tracemalloc.stop()


def test_what_is_wrong_is_named_where_little_is() -> None:
    with pytest.raises(ValidationError, match="top_p"):
        openai.CompletionBody.model_validate({"model": "m", "prompt": "p", "top_p": 2})
    with pytest.raises(ValidationError, match="names or values are wrong; send fewer"):
        openai.CompletionBody.model_validate_json(json.dumps({f"u{number}": 1 for number in range(200)}))
