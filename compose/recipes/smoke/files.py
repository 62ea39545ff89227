"""Made rows as files, in the format of the source that reads them."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compose.io.whole import write_whole
from compose.recipes.schema import Bundled, Conll, Csv, Hub, Jsonl, Parquet
from compose.train.extras import require

Rows = Sequence[Mapping[str, Any]]
OTHER_LETTERS = re.compile(r"[^A-Za-z0-9_.-]+")


def write_rows(
    rows: Rows,
    source: Bundled | Jsonl | Csv | Parquet | Conll | Hub,
    called: str,
    folder: Path,
    name: str | None = None,
) -> Path:
    """Writes rows in the format of a source; of the hub, or bundled, as JSON lines.

    Args:
        rows: by column.
        source: what is to read them.
        called: the path or name of what they stand for.
        folder: where the file is to be.
        name: of the file; by default one that says what is in it.

    Returns:
        The file.
    """
    compressed = called.endswith(".gz")
    match source:
        case Csv():
            data, ending = _csv(rows, source, ".tsv" in Path(called).suffixes[-2:]), "".join(Path(called).suffixes[-2:])
        case Conll():
            data, ending = _conll(rows, source), ".gz" if compressed else ""
        case Parquet():
            data, ending = _parquet(rows), ".parquet"
        case _:
            data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
            ending = ".jsonl.gz" if compressed else ".jsonl"
    digest = hashlib.sha256(data).hexdigest()[:8]
    stem = OTHER_LETTERS.sub("-", Path(called).name.removesuffix(ending))
    path = folder / (name or f"{stem}-{digest}{ending}")
    folder.mkdir(parents=True, exist_ok=True)
    if name is not None or not path.exists():
        write_whole(path, gzip.compress(data, mtime=0) if compressed else data)
    return path


def _csv(rows: Rows, source: Csv, tabs: bool) -> bytes:
    header = source.header or tuple(dict.fromkeys(column for row in rows for column in row))
    delimiter = source.delimiter or ("\t" if tabs else ",")
    text = io.StringIO()
    writer = csv.writer(
        text,
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if source.quotes else csv.QUOTE_NONE,
        lineterminator="\n",
    )
    if source.header is None:
        writer.writerow(header)
    for row in rows:
        cells = (row.get(column, "") for column in header)
        writer.writerow([source.separator.join(map(str, cell)) if isinstance(cell, list) else cell for cell in cells])
    return text.getvalue().encode()


def _conll(rows: Rows, source: Conll) -> bytes:
    """Columns stand at their positions, those between them are filled; -1 is the last."""
    places = {column: _place(column, source) for column in rows[0]}
    width = len(source.header) or max(max(places.values()) + 1, -min(places.values())) + (min(places.values()) < 0)
    lines = []
    for row in rows:
        for words in zip(*row.values(), strict=True):
            cells = ["_"] * width
            for column, word in zip(row, words, strict=True):
                cells[places[column]] = str(word)
            lines.append("\t".join(cells))
        lines.append("")
    return "\n".join(lines).encode()


def _place(column: str, source: Conll) -> int:
    return source.header.index(column) if column in source.header else int(column)


def _parquet(rows: Rows) -> bytes:
    arrow, parquet = require("pyarrow"), require("pyarrow.parquet")
    file = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist([dict(row) for row in rows]), file)
    return file.getvalue()
