"""Reading the folder that a run exports for Serve, with every failure turned into one kind of error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from rayworks.core.errors import DataError

Write = Callable[[str, bytes], object]
"""Takes a file's name inside the export folder, and its content."""


@contextmanager
def reading(folder: str | Path, system: str) -> Iterator[Path]:
    """Context of reading an export: yields its folder and turns any failure inside into one kind of error.

    Files may be missing, cut off, of another system or made by hand, so no exception of a parser or a model is excluded.

    Args:
        folder: export folder of a finished run.
        system: that should have written it.

    Raises:
        DataError: the folder, what is wrong with it, and what to do.
    """
    path = Path(folder).expanduser()
    finish = f"finish a run: rayworks run {system} --smoke"
    if not path.is_dir():
        raise DataError(
            f"export {path}: is not the export of a finished {system} run (there is no such folder); "
            f"correct the path, or {finish}"
        )
    try:
        yield path
    except Exception as error:
        fix = f"name another, or {finish}"
        errors = error.errors() if isinstance(error, ValidationError) else []
        unknown = [".".join(map(str, one["loc"])) for one in errors if one["type"] == "extra_forbidden"]
        if unknown:
            known = f"its setting {unknown[0]} is unknown or has another name here"
            raise DataError(f"export {path}: was written by another version of {system} ({known}); {fix}") from None
        words = f"{errors[0]['loc']}: {errors[0]['msg']}" if errors else " ".join(str(error).split())[:200]
        reason = f"{type(error).__name__}: {words}" if isinstance(error, KeyError) or not words else words
        raise DataError(f"export {path}: is not the export of a finished {system} run ({reason}); {fix}") from None
