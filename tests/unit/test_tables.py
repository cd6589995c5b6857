"""One door for tables: what people's spreadsheets and tools write, and errors that name the file."""

import gzip
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest

from rayworks.core.errors import DataError
from rayworks.core.tables import read_table, separator_of, suffix_of

ROWS = [["NA", "a, b"], ["", "c"], ["1,5", "d\ne"]]
PLAIN = 'name,text\nNA,"a, b"\n,c\n"1,5","d\ne"\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", PLAIN.encode()),
        ("a.csv", PLAIN.replace("\n", "\r\n").encode().replace(b"d\r\ne", b"d\ne")),
        ("a.csv", b"\xef\xbb\xbf" + PLAIN.encode()),
        ("a.CSV", PLAIN.encode("utf-16")),
        ("a.csv.gz", gzip.compress(PLAIN.encode(), mtime=0)),
        ("a.csv", b'name;text\nNA;a, b\n;c\n1,5;"d\ne"\n'),
        ("a.tsv", b'name\ttext\nNA\ta, b\n\tc\n1,5\t"d\ne"\n'),
        ("a.csv", b'name|text\nNA|a, b\n|c\n1,5|"d\ne"\n'),
        ("a.jsonl", b'{"name": "NA", "text": "a, b"}\n{"name": null, "text": "c"}\n{"name": "1,5", "text": "d\\ne"}\n'),
    ],
)
def test_shapes_of_one_table(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    table = read_table(path, "data")
    assert list(table.columns) == ["name", "text"]
    assert table.fillna("").to_numpy().tolist() == ROWS


def test_parquet_and_a_folder_of_it(tmp_path: Path) -> None:
    table = pd.DataFrame({"name": ["a", "b"], "value": [1.5, 2.0]})
    for part in (0, 1):
        table.iloc[part : part + 1].to_parquet(tmp_path / f"{part}.parquet")
    pd.testing.assert_frame_equal(read_table(tmp_path, "data"), table)
    pd.testing.assert_frame_equal(read_table(str(tmp_path / "0.parquet"), "data"), table[:1])


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("none.csv", None, r"data '.*none\.csv': cannot be read \(.*No such file"),
        ("a.csv", b"", r"cannot be read \(No columns"),
        ("a.csv", b"a,b\n", "has no rows"),
        ("a.csv", b"a\n\xff\xfe\n", r"cannot be read \(.*codec"),
        ("a.csv.gz", b"a\n1\n", r"cannot be read \(Not a gzipped file"),
        ("a.jsonl", b'{"a": ', "cannot be read"),
        ("a.parquet", b"a", "cannot be read"),
        ("a.xlsx", b"a", r"is no \.csv, \.tsv, \.csv\.gz, \.jsonl, \.parquet file"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, content: bytes | None, match: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=match):
        read_table(path, "data")


def test_a_message_can_be_kept_from_quoting_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"request": "secret')
    with pytest.raises(DataError) as raised:
        read_table(tmp_path / "a.jsonl", "prompts", quoted=False)
    assert "secret" not in str(raised.value)
    assert "ValueError" in str(raised.value)


def test_a_hub_is_asked_for_config_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def load_dataset(name: str, config: str | None, split: str) -> datasets.Dataset:
        asked.append((name, config, split))
        if name == "no/network":
            raise ConnectionError
        return datasets.Dataset.from_dict({"a": [1]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read_table("hub:a/b", "data").to_numpy().tolist() == [[1]]
    read_table("hub:a/b:c", "data", split="test")
    assert asked == [("a/b", None, "train"), ("a/b", "c", "test")]
    with pytest.raises(ConnectionError):
        read_table("hub:no/network", "data")


@pytest.mark.parametrize(
    ("name", "content", "columns", "rows"),
    [
        ("a.csv", "a,b\nx,1,\ny,2,\n", ["a", "b"], [["x", 1], ["y", 2]]),
        ("a.tsv", "text\nslowly, then\n", ["text"], [["slowly, then"]]),
        ("a.csv", "id,text (yes;no;maybe)\n1,a\n", ["id", "text (yes;no;maybe)"], [[1, "a"]]),
        ("a.csv", "From where, and why?|label\na|b\n", ["From where, and why?", "label"], [["a", "b"]]),
        ("a.csv", "\ntext;label\na;b\n", ["text", "label"], [["a", "b"]]),
        ("a.csv", "sep=;\r\ntext;label\r\na;b\r\n", ["text", "label"], [["a", "b"]]),
    ],
)
def test_what_separates_cells_is_what_all_rows_agree_on(
    tmp_path: Path, name: str, content: str, columns: list[str], rows: list[list[object]]
) -> None:
    (tmp_path / name).write_text(content)
    table = read_table(tmp_path / name, "data")
    assert (list(table.columns), table.to_numpy().tolist()) == (columns, rows)


def test_cells_beyond_the_header_are_refused_by_row_and_unquoted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,label\nfine,harmless\nsecret, words,harmful\n")
    with pytest.raises(DataError, match="row 2 has 3 cells, the header 2") as raised:
        read_table(tmp_path / "a.csv", "prompts", quoted=False)
    assert "secret" not in str(raised.value)
    (tmp_path / "a.csv").write_text("a,b\n" + "1,2\n" * 300 + "1,2,3\n")
    with pytest.raises(DataError, match="Expected 2 fields in line 302"):
        read_table(tmp_path / "a.csv", "data")
    (tmp_path / "a.csv").write_bytes("text\na\n".encode("utf-16-le"))
    with pytest.raises(DataError, match="holds zero bytes, and no mark of UTF-16"):
        read_table(tmp_path / "a.csv", "data")


def test_separators_and_suffixes() -> None:
    assert separator_of('"a;b;c",d\n') == ","
    assert separator_of("a;b,c;d\n1;2,3;4") == ","
    assert separator_of("a;b,c;d\n1;2;3") == ";"
    assert separator_of("text") == separator_of("") == ","
    assert (suffix_of("x/Y.CSV.GZ"), suffix_of("a.tsv"), suffix_of("a.txt"), suffix_of("csv")) == (
        ".csv.gz",
        ".tsv",
        "",
        "",
    )
