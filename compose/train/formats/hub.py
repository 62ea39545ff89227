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
        legal = tuple(map(str, data.column_names))
        missing = [column for column in columns.names() if column not in legal]
        for column in missing:
            yield Problem(f"there is no column '{column}'", where=self.where, got=column, legal=legal)
        if missing:
            return
        labelled = (columns.label, columns.labels, columns.tags)
        names = {column: found for column in labelled if column and (found := _names(data.features[column]))}
        unlabelled = {
            int(value) for value in columns.label_map or () if value.startswith("-") and value[1:].isdecimal()
        }
        for number, values in enumerate(data.select_columns(list(dict.fromkeys(columns.names())))):
            where = f"{self.where}: row {number}"
            try:
                named = {column: _named(values[column], names[column], unlabelled) for column in names}
                yield Row(where, {**values, **named})
            except IndexError:
                why = "-1 marks what is not labelled, as in many test splits"
                yield Problem("has no label", where=where, why=why, hint='label_map: {"-1": null, ...} leaves it out')

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


def _named(value: Any, names: tuple[str, ...], unlabelled: set[int]) -> Any:
    """Numbers as their names; those that mark what has no label stay if they are known.

    Raises:
        IndexError: a number without a name.
    """
    if isinstance(value, list):
        return [_named(each, names, unlabelled) for each in value]
    if not isinstance(value, int) or value in unlabelled:
        return value
    if value < 0:
        raise IndexError
    return names[value]
