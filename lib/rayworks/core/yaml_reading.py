"""YAML from outside, bounded however it refers to itself, and read as the type of the field that it is for.

Plain words mean what they mean in YAML 1.2: ``no`` and ``1:30`` are text, ``007`` keeps its zeros, numbers are decimal. What
stands in a field of text is text: a run may be called ``7`` or ``null``.
"""

import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union

import yaml
from pydantic import BaseModel

MOST_CHARACTERS = 100_000
"""In a document, and in its words once each alias is written out as what it stands for."""
NULL = "tag:yaml.org,2002:null"
NUMBERS = (int, float, bool)
TOO_DEEP = "is nested too deep"


class _Loader(yaml.SafeLoader):
    """Plain words by the core schema of YAML 1.2, numbers without leading zeros."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


for tag, pattern, first in (
    (NULL, r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("tag:yaml.org,2002:int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    ("tag:yaml.org,2002:merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(tag, re.compile(f"(?:{pattern})$"), first)


def load(text: str, kind: Any = Any) -> Any:
    """The value of a document.

    Args:
        text: the document.
        kind: annotation of what it is for, such as a config class.

    Raises:
        yaml.YAMLError: it is no YAML, larger than ``MOST_CHARACTERS`` as it is or written out, nested too deep, or sets a
            key twice.
    """
    if len(text) > MOST_CHARACTERS:
        raise yaml.YAMLError(f"is longer than {MOST_CHARACTERS:,} characters")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _expanded_size(node, {})
        return _value(loader, node, alternatives_of(kind))
    except RecursionError:
        raise yaml.YAMLError(TOO_DEEP) from None
    finally:
        loader.dispose()


def load_word(text: str, kind: Any) -> Any:
    """The value of a setting on a command line, where text needs no quotes."""
    alternatives = alternatives_of(kind)
    if any(one is str for one in alternatives) and not any(_origin(one) in (list, tuple, dict) for one in alternatives):
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
        if text == "null" and types.NoneType in alternatives:
            return None
        if not quoted and not any(one in NUMBERS for one in alternatives):
            return text
    try:
        return load(text, kind)
    except yaml.YAMLError:
        return text


def alternatives_of(kind: Any) -> tuple[Any, ...]:
    """What an annotation takes: the members of a union, without annotations and names."""
    if typing.get_origin(kind) is typing.Annotated:
        return alternatives_of(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (Union, types.UnionType):
        return tuple(one for member in typing.get_args(kind) for one in alternatives_of(member))
    return (kind,)


def below(alternatives: tuple[Any, ...], key: str) -> tuple[Any, ...]:
    """What a key of a mapping takes; an entry can be removed, so it takes null too."""
    for one in alternatives:
        if isinstance(one, type) and issubclass(one, BaseModel):
            field = one.model_fields.get(key)
            return alternatives_of(field.annotation) if field else (Any,)
    entry = entries(alternatives)
    return (*entry, types.NoneType) if entry else (Any,)


def entries(alternatives: tuple[Any, ...]) -> tuple[Any, ...]:
    """What the entries of a mapping of free names take; nothing where it is no such mapping."""
    for one in alternatives:
        if _origin(one) in (dict, Mapping) and len(typing.get_args(one)) == 2:
            return alternatives_of(typing.get_args(one)[1])
    return ()


def _expanded_size(node: yaml.Node, known: dict[int, int]) -> int:
    """Characters of the words of a node, and one for each value, with aliases written out.

    ``known`` holds 0 for nodes that are still being counted.
    """
    found = known.get(id(node))
    if found == 0:
        raise yaml.YAMLError("an alias stands inside what it stands for")
    if found is not None:
        return found
    known[id(node)] = 0
    _refuse_doubles(node)
    words = len(node.value) if isinstance(node, yaml.ScalarNode) else 0
    size = 1 + words + sum(_expanded_size(child, known) for child in _children(node))
    if size > MOST_CHARACTERS:
        raise yaml.YAMLError(f"is longer than {MOST_CHARACTERS:,} characters once its aliases are written out")
    known[id(node)] = size
    return size


def _refuse_doubles(node: yaml.Node) -> None:
    """Of two values of a key, one would be lost without a word."""
    keys = [key for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
    seen: set[str] = set()
    for key in (key for key in keys if isinstance(key, yaml.ScalarNode)):
        if key.value in seen:
            raise yaml.YAMLError(f"{key.value[:40]!r} is set a second time in line {key.start_mark.line + 1}; keep one")
        seen.add(key.value)


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _value(loader: _Loader, node: yaml.Node, alternatives: tuple[Any, ...]) -> Any:
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        found: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.YAMLError("a key must be a word")
            found[key_node.value] = _value(loader, value_node, below(alternatives, key_node.value))
        return found
    if isinstance(node, yaml.SequenceNode):
        inner = _of_items(alternatives)
        return [_value(loader, entry, inner) for entry in node.value]
    if _keeps_text(alternatives) and not (node.tag == NULL and types.NoneType in alternatives):
        return node.value
    try:
        return loader.construct_object(node, deep=True)
    except (ValueError, LookupError, AttributeError):
        # A tag may claim anything of a word, and integers have no end.
        kind = str(node.tag).rpartition(":")[2]
        raise yaml.YAMLError(f"{str(node.value)[:40]!r} cannot be read as {kind}") from None


def _origin(kind: Any) -> Any:
    return typing.get_origin(kind) or kind


def _keeps_text(alternatives: tuple[Any, ...]) -> bool:
    """Whether a word stays text: only where no alternative is a number or anything at all."""
    values = [value for one in alternatives if _origin(one) is Literal for value in typing.get_args(one)]
    text = any(one in (str, Path) for one in alternatives) or any(isinstance(value, str) for value in values)
    other = any(one in (*NUMBERS, Any, object) for one in alternatives)
    return text and not other and all(isinstance(value, str) for value in values)


def _of_items(alternatives: tuple[Any, ...]) -> tuple[Any, ...]:
    """What the items of a sequence are."""
    for one in alternatives:
        inner = [kind for kind in typing.get_args(one) if kind is not Ellipsis]
        if _origin(one) in (list, tuple, set, frozenset) and inner:
            return tuple(alternative for kind in inner for alternative in alternatives_of(kind))
    return (Any,)
