"""Data sets of the Hugging Face hub, through `datasets`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from compose.errors import FileError, Problem
from compose.train.columns import Columns
from compose.train.extras import require
from compose.train.formats.row import Part, Row, Rows


@dataclass(frozen=True)
class HubPart(Part):
    """A split of a data set on the hub. Code that comes with a data set is never run.

    Labels that the data set keeps as numbers with names are read as their names.

    Args:
        name: of the data set, such as `glue` or `owner/name`.
        split: of the data set, such as `train`.
        config: which of its configurations, such as `sst2`.
        revision: a branch, tag or commit.
    """

    name: str
    split: str
    config: str | None = None
    revision: str | None = None

    @property
    def where(self) -> str:
        config = f" ({self.config})" if self.config else ""
        return f"{self.name}{config}, {self.split}"

    def rows(self, columns: Columns) -> Rows:
        data = self._load()
        names = {
            column: found
            for column in (columns.label, columns.labels, columns.tags)
            if column is not None and (found := _names(data.features.get(column)))
        }
        for number, values in enumerate(data):
            where = f"{self.where}: row {number}"
            try:
                yield Row(where, {**values, **{column: _named(values[column], names[column]) for column in names}})
            except IndexError:
                yield Problem("has no label", where=where, why="-1 marks what is not labelled, as in many test splits")

    def _load(self) -> Any:
        datasets = require("datasets")
        try:
            return datasets.load_dataset(self.name, self.config, split=self.split, revision=self.revision)
        except Exception as error:  # the hub, the network, and each builder of data sets raise kinds of their own
            why = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            offline = isinstance(error, ConnectionError) or "offline" in why.lower()
            hint = "check the name; a data set that was read before is read again without the network"
            what = "cannot be had from the hub" if offline else "cannot be read"
            raise FileError(what, where=self.where, why=why, hint=hint if offline else "") from None


def _names(feature: Any) -> tuple[str, ...]:
    """The names of a column's labels, where it has such: of numbers, or of lists of numbers."""
    inner = getattr(feature, "feature", feature)
    return tuple(getattr(inner, "names", None) or ())


def _named(value: Any, names: tuple[str, ...]) -> Any:
    """Numbers as their names.

    Raises:
        IndexError: a number without one.
    """
    if isinstance(value, list):
        return [_named(each, names) for each in value]
    if isinstance(value, int) and value < 0:
        raise IndexError
    return names[value] if isinstance(value, int) else value
