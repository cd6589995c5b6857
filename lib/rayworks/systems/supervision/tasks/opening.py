"""The examples of a task: built in, of a file or a hub, or of the user's own function."""

from collections.abc import Sequence

from rayworks.core.errors import ConfigError, DataError
from rayworks.core.registry import of_the_user
from rayworks.core.tables import HUB
from rayworks.systems.supervision.config import CLASSIFIED, GENERATED, TaskSection
from rayworks.systems.supervision.tasks.columns import read_table
from rayworks.systems.supervision.tasks.examples import TextExample
from rayworks.systems.supervision.tasks.labelled import BUILT_IN, LabelledExamples, is_file, read_labelled

Examples = LabelledExamples | tuple[TextExample, ...]


def open_task(section: TaskSection, seed: int) -> Examples:
    """All examples that the task has.

    Raises:
        ConfigError: there is no such task.
        DataError: it cannot be read or used, or is of another kind than ``task.kind`` says.
    """
    found = _examples(section, seed)
    kind = "classes" if isinstance(found, LabelledExamples) else "texts"
    if section.kind not in (None, kind):
        raise DataError(f"task.kind: is {section.kind}, the answers of {section.name} are {kind}; leave it out")
    return found


def _examples(section: TaskSection, seed: int) -> Examples:
    name = section.name
    if name in BUILT_IN:
        return BUILT_IN[name]()
    if name in GENERATED:
        from rayworks.systems.supervision.tasks.texts import built_in_texts

        return tuple(built_in_texts(name))
    if is_file(name) or name.startswith(HUB):
        columns = read_table(name).columns
        if section.kind == "texts" or (section.kind is None and "answer" in columns and "label" not in columns):
            from rayworks.systems.supervision.tasks.texts import read_texts

            return tuple(read_texts(name))
        return read_labelled(name)
    return _of_the_user(section, seed)


def _of_the_user(section: TaskSection, seed: int) -> Examples:
    known = ", ".join((*CLASSIFIED, *GENERATED))
    otherwise = f"is no task; choose {known}, a table (.csv, .tsv, .jsonl, .parquet), hub:OWNER/NAME or module:function"
    make = of_the_user("task.name", section.name, otherwise)
    try:
        found = make(section, seed)
    except Exception as error:
        raise ConfigError(
            f"task.name: {section.name} failed with {type(error).__name__}: {error}; it is called with (section, seed)"
        ) from error
    if isinstance(found, LabelledExamples):
        return found
    if isinstance(found, Sequence) and found and all(isinstance(one, TextExample) for one in found):
        return tuple(found)
    raise ConfigError(
        f"task.name: {section.name} gave a {type(found).__name__}; it must give labelled(texts, labels), or a list of "
        "TextExample"
    )
