"""Answers of a model under test, kept in a journal as they come, so that a killed evaluation repeats none.

A journal holds ids, hashes of prompts, and answers, never a prompt; only its owner may read it.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

from rayworks.core.errors import DataError, InfrastructureError
from rayworks.systems.refusal.evaluation.prompt_sets import Prompt
from rayworks.systems.refusal.judging.verdicts import STOP_REASONS

EMPTY = "the answer is empty"


@dataclass(frozen=True)
class Answer:
    """What a model answered to the prompt ``uid``: a text with the reason it ended, or an error, which is no refusal."""

    uid: str
    text: str = field(repr=False)
    finish_reason: str = ""
    error: str = ""


Arrived = Callable[[Answer], None]
"""Called with each answer as it comes, in any order, from one thread."""


class Answerer(Protocol):
    """A model under test."""

    settings: Mapping[str, Any]
    """What makes its answers differ: model, system prompt, limits; in JSON's types and without secrets."""

    def answers(self, prompts: Sequence[Prompt], arrived: Arrived) -> list[Answer]:
        """One answer for each prompt, in order."""
        ...


def checked(answer: Answer) -> Answer:
    """The answer; an empty one is an error unless a provider's filter made it so."""
    if answer.error or answer.text.strip() or answer.finish_reason.lower() in STOP_REASONS:
        return answer
    return Answer(answer.uid, "", answer.finish_reason, EMPTY)


def fingerprint(value: Any) -> str:
    """16 hex digits of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()[:16]


class Journal:
    """Answers in a file of one JSON object per line, appended and flushed one by one.

    Args:
        path: of the file; made when first written.
        settings: of the model; answers that were given under others are not used.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path, self._settings = path, fingerprint(dict(settings))

    def known(self, prompts: Sequence[Prompt]) -> dict[str, Answer]:
        """The answers, without errors, that these prompts have already, by uid."""
        keys = {prompt.uid: fingerprint(prompt.text) for prompt in prompts}
        return {
            row["uid"]: _answer(row)
            for row in rows_of(self._path)
            if not row["error"] and row["settings"] == self._settings and row["prompt"] == keys.get(row["uid"])
        }

    def answer(self, model: Answerer, prompts: Sequence[Prompt]) -> list[Answer]:
        """An answer for each prompt, in order: those known, and the model's for the others.

        Raises:
            InfrastructureError: the journal cannot be written.
        """
        known = self.known(prompts)
        missing = [prompt for prompt in prompts if prompt.uid not in known]
        if missing:
            with self._appending({prompt.uid: prompt.text for prompt in missing}) as arrived:
                known |= {answer.uid: checked(answer) for answer in model.answers(missing, arrived)}
        return [known[prompt.uid] for prompt in prompts]

    def finish(self, prompts: Sequence[Prompt], answers: Sequence[Answer], path: Path) -> None:
        """Put all answers into a file that :class:`StoredAnswers` reads, in place of the journal, if none is an error: a
        later evaluation asks anew, since a model may have changed under its name.
        """
        if any(answer.error for answer in answers):
            return
        rows = [self._row(answer, prompt.text) for prompt, answer in zip(prompts, answers, strict=True)]
        try:
            with _open(self._path, os.O_TRUNC) as file:
                file.writelines(rows)
            self._path.replace(path)
        except OSError as error:
            raise self._unwritable(error) from None

    def _row(self, answer: Answer, text: str) -> str:
        return json.dumps({**asdict(answer), "prompt": fingerprint(text), "settings": self._settings}) + "\n"

    @contextmanager
    def _appending(self, texts: Mapping[str, str]) -> Iterator[Arrived]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _end_last_line(self._path)
            file = _open(self._path, os.O_APPEND)
        except OSError as error:
            raise self._unwritable(error) from None

        def arrived(answer: Answer) -> None:
            try:
                file.write(self._row(checked(answer), texts[answer.uid]))
                file.flush()
            except OSError as error:
                raise self._unwritable(error) from None

        try:
            yield arrived
        finally:
            with suppress(OSError):
                file.close()

    def _unwritable(self, error: OSError) -> InfrastructureError:
        return InfrastructureError(
            f"journal {self._path}: cannot be written ({error.strerror}); give it room and access"
        )


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a journal, with the fields of an answer, ``prompt`` and ``settings`` (empty where a file has none).

    Raises:
        DataError: a line is no such row; the last may have been cut off before its end.
    """
    if not path.exists():
        return
    whole = path.read_text(encoding="utf-8-sig", errors="replace")
    lines = whole.rstrip().split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            texts = {name: row.get(name, "") or "" for name in ("text", "finish_reason", "error", "prompt", "settings")}
            if not all(isinstance(text, str) for text in (row["uid"], *texts.values())):
                raise ValueError
        except (ValueError, KeyError, AttributeError, TypeError):
            if number == len(lines) and not whole.endswith("\n"):
                return
            raise DataError(
                f"answers {path.name} line {number}: must be an object with uid and text; correct the file"
            ) from None
        yield {"uid": row["uid"], **texts}


def _open(path: Path, how: int) -> TextIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o600), "w", encoding="utf-8")


def _answer(row: Mapping[str, Any]) -> Answer:
    return Answer(row["uid"], row["text"], row["finish_reason"], row["error"])


def _end_last_line(path: Path) -> None:
    """Cut off what a killed process left of its last line."""
    if path.exists() and path.stat().st_size:
        with path.open("rb+") as file:
            whole = file.read()
            file.truncate(whole.rfind(b"\n") + 1)


class StoredAnswers:
    """The answers of a file, such as the journal of an earlier evaluation, as a model under test.

    :class:`DataError` where the file is missing, holds two answers or one to another prompt under a prompt's id, or none
    of any prompt.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise DataError(f"answers {path}: there is no such file; give the answers of an earlier run")
        self.settings: Mapping[str, Any] = {"file": str(path)}
        self._path = path
        self._rows: dict[str, dict[str, Any]] = {}
        for row in rows_of(path):
            before = self._rows.get(row["uid"])
            # An error may have been asked again, and a model of other settings anew.
            same = before is not None and before["settings"] == row["settings"] and not before["error"]
            if before and same and not row["error"] and before["text"] != row["text"]:
                raise DataError(f"answers {path.name}: {row['uid']} has two answers; keep one of them")
            self._rows[row["uid"]] = row

    def answers(self, prompts: Sequence[Prompt], arrived: Arrived) -> list[Answer]:
        """What the file holds; an error where it holds none."""
        if prompts and self._rows and not any(prompt.uid in self._rows for prompt in prompts):
            raise DataError(
                f"answers {self._path.name}: none is of these prompts; its ids are such as {next(iter(self._rows))!r}, "
                f"theirs such as {prompts[0].uid!r}"
            )
        found = []
        for prompt in prompts:
            row = self._rows.get(prompt.uid)
            if row and row["prompt"] not in ("", fingerprint(prompt.text)):
                raise DataError(
                    f"answers {self._path}: {prompt.uid} is the answer to another prompt; give the set it was made with"
                )
            found.append(checked(_answer(row)) if row else Answer(prompt.uid, "", error="the file has no answer"))
            arrived(found[-1])
        return found
