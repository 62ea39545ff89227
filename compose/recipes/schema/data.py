"""`data`: named sources, each with its files and its columns."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from compose.recipes.schema.base import Count, Section, Text


class Sample(Section):
    """How many rows of each part to use, drawn by the recipe's seed; all where none is said."""

    train: Count | None = None
    test: Count | None = None


class Source(Section):
    """What all data sources say: which columns hold what.

    A source has a `label`, or `entities` (character spans in the text), or `tags` (one for each of
    the `tokens`, which then take the place of `text`).
    """

    text: Text | None = None
    pair: Text | None = None
    tokens: Text | None = None
    label: Text | None = None
    entities: Text | None = None
    tags: Text | None = None
    sample: Sample = Sample()


class Bundled(Source):
    """Data that comes with compose, in recipes/data."""

    kind: Literal["bundled"]
    name: Text


class Jsonl(Source):
    """Local files with a JSON object on each line; paths are relative to the recipe."""

    kind: Literal["jsonl"]
    train: Text
    test: Text | None = None


DataSource = Annotated[Bundled | Jsonl, Field(discriminator="kind")]
