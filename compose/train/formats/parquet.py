"""Parquet files, through pyarrow, which comes with `datasets`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compose.errors import FileError, Problem
from compose.train.columns import Columns
from compose.train.extras import require
from compose.train.formats.row import Format, Row, Rows

BATCH = 1024
"""Rows that are held at a time."""


@dataclass(frozen=True)
class Parquet(Format):
    """A parquet file; only the columns that are wanted are read."""

    def rows(self, path: Path, columns: Columns) -> Rows:
        arrow, parquet = require("pyarrow"), require("pyarrow.parquet")
        try:
            with parquet.ParquetFile(path) as file:
                names = tuple(map(str, file.schema_arrow.names))
                missing = [name for name in columns.names() if name not in names]
                if missing:
                    for name in missing:
                        yield Problem(f"there is no column '{name}'", where=str(path), got=name, legal=names)
                    return
                number = 0
                for batch in file.iter_batches(BATCH, columns=list(columns.names())):
                    for values in batch.to_pylist():
                        number += 1
                        yield Row(f"{path}: row {number}", values)
        except arrow.ArrowException as error:
            raise FileError(f"not a parquet file: {str(error).splitlines()[0]}", where=str(path)) from None
        except OSError as error:
            raise FileError(f"cannot be read: {error.strerror or error}", where=str(path)) from None
