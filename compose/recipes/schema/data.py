"""`data`: named sources, each with its parts and its columns."""

from __future__ import annotations

import re
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, Strict
from pydantic_core import PydanticCustomError

from compose.recipes.schema.base import Count, Section, Text

Share = Annotated[float, Strict(), Field(gt=0, lt=1)]
Position = Annotated[int, Strict()]
HUB_NAME = r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$"


def _file_or_share(value: object) -> object:
    """One error for what is neither; a union would tell of each of its members."""
    share = isinstance(value, float) and 0 < value < 1
    if value is None or share or (isinstance(value, str) and value):
        return value
    raise PydanticCustomError("part", "name a part, or a share between 0 and 1 of the training part")


def _name_or_position(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise PydanticCustomError("column", "name a column, or be its position: 0, 1, ..., or -1 for the last")
    return value


def _on_the_hub(value: str) -> str:
    if re.fullmatch(HUB_NAME, value):
        return value
    raise PydanticCustomError("hub_name", "name a data set of the hub: `name` or `owner/name`")


def _delimits(value: str) -> str:
    if len(value) == 1 and value not in '"\r\n':
        return value
    raise PydanticCustomError("delimiter", "be one character, and no quote or line break")


def _numbered(value: object) -> object:
    """A list of names as a mapping from their numbers."""
    if isinstance(value, list | tuple):
        return {str(number): name for number, name in enumerate(value)}
    return value


HubName = Annotated[Text, AfterValidator(_on_the_hub), Field(json_schema_extra={"pattern": HUB_NAME})]
Delimiter = Annotated[Text, AfterValidator(_delimits), Field(json_schema_extra={"maxLength": 1})]
PartOrShare = Annotated[Text | Share | None, BeforeValidator(_file_or_share)]
Column = Annotated[Text | Position, BeforeValidator(_name_or_position)]
LabelMap = Annotated[
    dict[str, Text | None], BeforeValidator(_numbered, json_schema_input_type=dict[str, Text | None] | list[Text])
]


class Sample(Section):
    """How many rows of each part to use, drawn by the recipe's seed; all where none is said.

    Args:
        train: of what is learned from.
        validation: of what is chosen by.
        test: of what is scored on.
    """

    train: Count | None = None
    validation: Count | None = None
    test: Count | None = None


class Source(Section):
    """What all data sources say.

    Args:
        sample: how many rows of each part to use.
        label_map: what labels (and tags, and types of entities) are called: `{0: negative, 1: positive}`, or a list of
            names for the numbers from 0. A value that it lacks is an error. A row whose label it maps to `null` is
            left out.
        scheme: of the tags: `bio`; `iob1`, as in CoNLL-2003; `bioes` (or BILOU). They are brought to BIO.
    """

    sample: Sample = Sample()
    label_map: LabelMap | None = None
    scheme: Literal["bio", "iob1", "bioes"] = "bio"


class Table(Source):
    """A source whose rows have named columns.

    A row has a `text`, or two texts to compare, or `tokens` in place of `text`. It is labelled with one of `label`,
    `labels`, `score`, `entities`, `tags` and `answers`; a source of texts alone names its `text`.

    Args:
        text: the column of the text, `text` where none is named.
        pair: the column of the second text of a pair.
        tokens: the column of the text's words, a list; what labels the text may be any but `entities` and `answers`.
        label: the column of the one label, a text or a number.
        labels: the column of several labels, a list of texts.
        score: the column of a number to predict.
        entities: the column of the entities: a list of `{start, end, type}`, in characters of the text.
        tags: the column of the tags, one for each of the `tokens`.
        answers: the column of the answers to the question in `text` that stand in the text of `pair`: as in SQuAD
            `{text: [...], answer_start: [...]}`; or a list of `{text, answer_start}`, of `{start, end}`, or of texts,
            each of which stands where it first occurs. Places are counted in characters; an empty list is a question
            without an answer.
    """

    text: Text | None = None
    pair: Text | None = None
    tokens: Text | None = None
    label: Text | None = None
    labels: Text | None = None
    score: Text | None = None
    entities: Text | None = None
    tags: Text | None = None
    answers: Text | None = None


class Bundled(Table):
    """Data that comes with compose, in recipes/data.

    Args:
        kind: says that it is such a source.
        name: of the data set.
        validation: the share of the training part that is cut off to choose by.
    """

    kind: Literal["bundled"]
    name: Text
    validation: Share | None = None


class Files(Table):
    """A source whose parts are local files with named columns.

    Args:
        train: the file to learn from. Paths are relative to the file that they are written in.
        validation: the file to choose by, or a share to cut off from `train`: `0.1`.
        test: the file to score on.
    """

    train: Text
    validation: PartOrShare = None
    test: Text | None = None


class Jsonl(Files):
    """Local files with a JSON object on each line, compressed where they are called `.gz`.

    Args:
        kind: says that it is such a source.
    """

    kind: Literal["jsonl"]


class Csv(Files):
    """Local tables as text (`.csv`, `.tsv`), compressed where they are called `.gz`.

    Args:
        kind: says that it is such a source.
        delimiter: what stands between cells; a tab in files called `.tsv`, else a comma.
        header: the names of the columns, where the files have no line of them.
        quotes: whether cells may stand in double quotes; `false` reads a quote as any other character.
        separator: what stands between the members of a list (`tokens`, `tags`, `labels`) in its cell.
    """

    kind: Literal["csv"]
    delimiter: Delimiter | None = None
    header: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    quotes: Annotated[bool, Strict()] = True
    separator: Text = " "


class Parquet(Files):
    """Local parquet files.

    Args:
        kind: says that it is such a source.
    """

    kind: Literal["parquet"]


class Conll(Source):
    """Local files with a word and its columns on each line, and an empty line after each sentence.

    Args:
        kind: says that it is such a source.
        train: the file to learn from. Paths are relative to the file that they are written in.
        validation: the file to choose by, or a share to cut off from `train`: `0.1`.
        test: the file to score on.
        tokens: the column of the word, by its position from 0 or its name in `header`.
        tags: the column of the word's tag; -1 is the last.
        header: the names of the columns.
        comments: what lines begin with that are no words, such as `"#"`.
    """

    kind: Literal["conll"]
    train: Text
    validation: PartOrShare = None
    test: Text | None = None
    tokens: Column = 0
    tags: Column = -1
    header: tuple[Text, ...] = ()
    comments: Text | None = None


class Hub(Table):
    """A data set of the Hugging Face hub, read by `datasets`; code that comes with it is never run.

    Args:
        kind: says that it is such a source.
        name: of the data set, such as `glue` or `owner/name`.
        config: which of its configurations, such as `sst2`.
        revision: a branch, tag or commit; a commit makes the recipe exact.
        train: the split to learn from.
        validation: the split to choose by, or a share to cut off from `train`: `0.1`.
        test: the split to score on. Where that of the data set has no labels, its `validation` is taken.
    """

    kind: Literal["hub"]
    name: HubName
    config: Text | None = None
    revision: Text | None = None
    train: Text = "train"
    validation: PartOrShare = None
    test: Text | None = None


class Digits(Source):
    """scikit-learn's digits, which come with it: 1,797 drawings of 8 x 8 pixels, each fourth of the test part.

    They are images of one channel, for a backbone that reads such.

    Args:
        kind: says that it is such a source.
        label: what is to be told of a drawing: its `digit`; `parity` (even, odd); whether it is `above_4` (no, yes);
            whether it has a `loop` (closed: 0, 6, 8, 9; open); how much `ink` it has (little, much).
        validation: the share of the training part that is cut off to choose by.
    """

    kind: Literal["digits"]
    label: Literal["digit", "parity", "above_4", "loop", "ink"]
    validation: Share | None = None


Local = Jsonl | Csv | Parquet | Conll
"""Sources that are files on this machine."""

DataSource = Annotated[Bundled | Jsonl | Csv | Parquet | Conll | Hub | Digits, Field(discriminator="kind")]

DATA_KINDS: tuple[str, ...] = tuple(
    get_args(source.model_fields["kind"].annotation)[0] for source in (Bundled, Jsonl, Csv, Parquet, Conll, Hub, Digits)
)
"""What `kind` may say."""
