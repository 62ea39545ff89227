"""The formats of data: the same rows from each, and errors with the place in the file."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from compose.errors import FileError
from compose.train.columns import Columns
from compose.train.data import Dataset, Example, hold_out
from compose.train.formats.conll import Conll
from compose.train.formats.csv import Csv
from compose.train.formats.hub import HubPart
from compose.train.formats.jsonl import Jsonl
from compose.train.formats.parquet import Parquet
from compose.train.formats.row import FilePart, Format
from compose.train.read import read_dataset, read_examples, read_part

ROWS: list[dict[str, Any]] = [
    {"text": 'said "no", twice', "label": 1, "score": 0.5, "labels": ["a", "b"]},
    {"text": "two\nlines", "label": 0, "score": 4, "labels": []},
]
LABEL = Columns(label="label", label_map={"0": "negative", "1": "positive"})


def written(path: Path, text: str) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode("utf-8")))
    else:
        path.write_text(text, "utf-8", newline="")
    return path


def jsonl(folder: Path, name: str) -> Path:
    return written(folder / name, "".join(json.dumps(row) + "\n\n" for row in ROWS))


def table(folder: Path, name: str, delimiter: str = ",") -> Path:
    quoted = ['"' + str(row["text"]).replace('"', '""') + '"' for row in ROWS]
    lines = [
        [text, str(row["label"]), str(row["score"]), " ".join(row["labels"])]
        for text, row in zip(quoted, ROWS, strict=True)
    ]
    return written(
        folder / name, "\r\n".join(map(delimiter.join, [["text", "label", "score", "labels"], *lines])) + "\r\n"
    )


def parquet(folder: Path, name: str) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / name)
    return folder / name


FILES: dict[str, tuple[Any, Format]] = {
    "a.jsonl": (jsonl, Jsonl()),
    "a.jsonl.gz": (jsonl, Jsonl()),
    "a.csv": (table, Csv()),
    "a.csv.gz": (table, Csv()),
    "a.tsv": (lambda folder, name: table(folder, name, "\t"), Csv()),
    "a.tsv.gz": (lambda folder, name: table(folder, name, "\t"), Csv()),
    "a.txt": (lambda folder, name: table(folder, name, ";"), Csv(delimiter=";")),
    "a.parquet": (parquet, Parquet()),
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_examples(name: str, tmp_path: Path) -> None:
    make, format_ = FILES[name]
    path = make(tmp_path, name)
    texts = [str(row["text"]) for row in ROWS]
    assert read_examples(path, LABEL, format=format_) == (
        Example(texts[0], "positive"),
        Example(texts[1], "negative"),
    )
    assert [example.target for example in read_examples(path, Columns(score="score"), format=format_)] == [0.5, 4.0]
    found = read_examples(path, Columns(labels="labels"), format=format_)
    assert [example.target for example in found] == [("a", "b"), ()]
    assert [example.target for example in read_examples(path, Columns(), format=format_)] == [None, None]
    with pytest.raises(FileError) as caught:
        read_examples(path, Columns(label="lable"), format=format_)
    assert "no column 'lable'" in str(caught.value) and "legal: 'label'" in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "place"),
    [("a.jsonl", ":1"), ("a.csv", ":2"), ("a.parquet", ": row 1"), ("a.tsv.gz", ":2")],
)
def test_unknown_labels_are_told_with_their_line(name: str, place: str, tmp_path: Path) -> None:
    make, format_ = FILES[name]
    path = make(tmp_path, name)
    with pytest.raises(FileError) as caught:
        read_examples(path, Columns(label="label", label_map={"0": "negative"}), format=format_)
    assert f"{path}{place}: 'label_map' has no '1'" in str(caught.value)


def test_labels_that_map_to_nothing_leave_their_rows_out(tmp_path: Path) -> None:
    path = jsonl(tmp_path, "a.jsonl")
    columns = Columns(label="label", label_map={"1": "positive", "0": None})
    assert [example.target for example in read_examples(path, columns)] == ["positive"]
    several = Columns(labels="labels", label_map={"a": "A", "b": None})
    with pytest.raises(FileError, match="'b' is mapped to nothing"):
        read_examples(path, several)


def test_a_label_map_gives_the_order_of_labels(tmp_path: Path) -> None:
    columns = Columns(label="label", label_map={"0": "worse", "1": "better", "2": "better", "3": None})
    data = read_dataset("x", columns, FilePart(jsonl(tmp_path, "a.jsonl"), Jsonl()))
    assert data.labels() == ["worse", "better"]


def test_numbers_as_labels_are_sorted_as_numbers() -> None:
    rows = tuple(Example("x", str(number)) for number in (10, 2, 1))
    assert Dataset("x", "label", rows).labels() == ["1", "2", "10"]
    assert Dataset("x", "score", (Example("x", 0.5),)).labels() == []
    assert Dataset("x", "label", rows[:1], validation=rows[1:2], test=rows[2:]).labels() == ["1", "2", "10"]


CSV_FAULTS = {
    "too few cells": ("text,label\nx\n", {}, ":2: 1 cells, but there are 2 columns"),
    "too many cells": ("text,label\nx,y,z\n", {}, ":2: 3 cells"),
    "an open quote": ('text,label\nx,y\n"x,y\nz,w\n', {}, ":3: not a row"),
    "two columns of a name": ("text,text\nx,y\n", {}, ":1: two columns are called 'text'"),
    "no number": ("text,score\nx,much\n", {"score": "score"}, ":2: 'score' must be a number"),
    "not finite": ("text,score\nx,nan\n", {"score": "score"}, ":2: 'score' must be a number"),
    "no rows": ("text,label\n", {}, ": there are no rows in it"),
}


@pytest.mark.parametrize("name", CSV_FAULTS)
def test_faults_of_tables(name: str, tmp_path: Path) -> None:
    text, columns, what = CSV_FAULTS[name]
    with pytest.raises(FileError) as caught:
        read_examples(written(tmp_path / "a.csv", text), Columns(**(columns or {"label": "label"})), format=Csv())
    assert f"a.csv{what}" in str(caught.value)


def test_tables_without_header_quotes_and_with_other_separators(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tsv", 'a "b\t1,2\n')
    format_ = Csv(header=("text", "labels"), quotes=False, separator=",")
    assert read_examples(path, Columns(labels="labels"), format=format_) == (Example('a "b', ("1", "2")),)


def test_spreadsheets_write_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbftext,label\r\nx,yes\r\n")
    assert read_examples(path, Columns(label="label"), format=Csv()) == (Example("x", "yes"),)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"no gzip", "not compressed by gzip"),
        (gzip.compress(b"x" * 1000, mtime=0)[:-12], "damaged"),
        (gzip.compress(b"\xff\xfe", mtime=0), "not UTF-8"),
    ],
)
def test_damaged_compressed_files(content: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(FileError, match=what):
        read_examples(path, Columns(label="label"))


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="not a parquet file"):
        read_examples(written(tmp_path / "a.parquet", "text,label\n"), LABEL, format=Parquet())
    with pytest.raises(FileError, match="cannot be read"):
        read_examples(tmp_path / "none.parquet", LABEL, format=Parquet())


CONLL = """\
-DOCSTART- -X- O O

# a comment
EU NNP I-NP I-ORG
rejects VBZ I-VP O
German JJ I-NP I-MISC
Thai JJ I-NP B-MISC

-DOCSTART- -X- O O
Paris NNP I-NP I-LOC
"""


def test_conll_files_are_read_and_brought_to_bio(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", CONLL)
    wanted = (
        Example(["EU", "rejects", "German", "Thai"], ("B-ORG", "O", "B-MISC", "B-MISC")),
        Example(["Paris"], ("B-LOC",)),
    )
    by_position = Columns(tokens="0", tags="-1", scheme="iob1")
    assert read_examples(path, by_position, format=Conll(comments="#")) == wanted
    by_name = Columns(tokens="form", tags="ner", scheme="iob1")
    header = Conll(("form", "pos", "chunk", "ner"), "#")
    assert read_examples(path, by_name, format=header) == wanted
    assert read_examples(path, Columns(tokens="0", tags="1"), format=Conll(comments="#"))[1].target == ("NNP",)
    with pytest.raises(FileError, match="legal: 'ner'"):
        read_examples(path, Columns(tokens="form", tags="nre"), format=header)
    with pytest.raises(FileError, match=r"a\.txt:4: there is no column 4: the line has 4"):
        read_examples(path, Columns(tokens="0", tags="4"), format=Conll(comments="#"))
    with pytest.raises(FileError, match=r"a\.txt:3: 'comment' is no tag of the scheme iob1"):
        read_examples(path, by_position, format=Conll())


def test_words_with_spaces_and_marks_stand_between_tabs(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tsv", "#\tO\nNew York\tS-LOC\r\n\n\n")
    assert read_examples(path, Columns(tokens="0", tags="1", scheme="bioes"), format=Conll()) == (
        Example(["#", "New York"], ("O", "B-LOC")),
    )


def test_label_maps_name_tags_and_types(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", json.dumps({"tokens": ["a", "b"], "tags": [0, 1]}) + "\n")
    columns = Columns(tokens="tokens", tags="tags", label_map={"0": "O", "1": "B-x"})
    assert read_examples(path, columns)[0].target == ("O", "B-x")
    spans = {"text": "ab", "spans": [{"start": 0, "end": 1, "type": "PERSON"}]}
    path = written(tmp_path / "b.jsonl", json.dumps(spans) + "\n")
    assert read_examples(path, Columns(entities="spans", label_map={"PERSON": "PER"}))[0].target == ((0, 1, "PER"),)


def test_a_share_is_cut_off_by_label_and_seed(tmp_path: Path) -> None:
    rows = [{"text": str(index), "label": "no" if index % 4 else "yes"} for index in range(80)]
    path = written(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    part = FilePart(path, Jsonl())
    first = read_dataset("x", Columns(label="label"), part, validation=0.1, seed=3)
    assert [row.target for row in first.validation].count("yes") == 2 and len(first.validation) == 8
    assert sorted((*first.train, *first.validation), key=lambda row: int(row.input)) == list(
        read_part(part, Columns(label="label"))
    )
    assert first == read_dataset("x", Columns(label="label"), part, validation=0.1, seed=3)
    assert first != read_dataset("x", Columns(label="label"), part, validation=0.1, seed=4)
    sizes = {"train": 10, "validation": 4, "test": 5}
    drawn = read_dataset("x", Columns(label="label"), part, part, 0.1, sizes, 3)
    assert [len(drawn.train), len(drawn.validation), len(drawn.test)] == [10, 4, 5]
    assert set(drawn.train) <= set(first.train) and set(drawn.validation) <= set(first.validation)
    whole = read_dataset("x", Columns(label="label"), part, validation=part)
    assert whole.validation == whole.train


def test_a_share_leaves_something_on_both_sides(tmp_path: Path) -> None:
    rows = tuple(Example(str(number), "x") for number in range(3))
    assert [len(part) for part in hold_out(rows, 0.01, 0)] == [2, 1]
    assert [len(part) for part in hold_out(rows, 0.99, 0)] == [1, 2]
    path = written(tmp_path / "a.jsonl", json.dumps(ROWS[0]) + "\n")
    with pytest.raises(FileError, match="one row alone"):
        read_dataset("x", LABEL, FilePart(path, Jsonl()), validation=0.5)


def test_data_sets_of_the_hub_are_read_with_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that lies in a folder, which `datasets` reads as it does those of the hub."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    names = datasets.ClassLabel(names=["negative", "positive"])
    tags = datasets.ClassLabel(names=["O", "B-x"])
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": names,
            "tokens": datasets.List(datasets.Value("string")),
            "tags": datasets.List(tags),
        }
    )
    columns = {"text": ["x", "y"], "label": [1, -1], "tokens": [["a", "b"], ["c"]], "tags": [[0, 1], [0]]}
    (tmp_path / "own").mkdir()
    datasets.Dataset.from_dict(columns, features).to_parquet(tmp_path / "own" / "train.parquet")
    part = HubPart("own", "train")
    assert read_part(part, Columns(label="label"), limit=1) == (Example("x", "positive"),)
    assert read_part(part, Columns(tokens="tokens", tags="tags"))[0].target == ("O", "B-x")
    with pytest.raises(FileError, match="own, train: row 1: has no label"):
        read_part(part, Columns(label="label"))
    known = Columns(label="label", label_map={"positive": "good", "negative": "bad", "-1": None})
    assert read_part(part, known) == (Example("x", "good"),)
    with pytest.raises(FileError, match=r"no column 'lable'(.|\n)*legal: 'label'"):
        read_part(part, Columns(label="lable"))
    with pytest.raises(FileError, match="Unknown split"):
        read_part(HubPart("own", "test"), Columns(label="label"))


def test_the_hub_cannot_be_reached() -> None:
    pytest.importorskip("datasets")
    with pytest.raises(FileError) as caught:
        read_part(HubPart("nobody/nothing-of-this-name", "train", "config"), Columns(label="label"))
    message = str(caught.value)
    assert "nobody/nothing-of-this-name (config), train: cannot be had from the hub" in message
    assert "try: " in message


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    from compose.errors import ConfigError

    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"datasets is not installed(.|\n)*compose-adapters\[train\]"):
        read_part(HubPart("own", "train"), LABEL)
    with pytest.raises(ConfigError, match="pyarrow is not installed"):
        read_examples(tmp_path / "a.parquet", LABEL, format=Parquet())
