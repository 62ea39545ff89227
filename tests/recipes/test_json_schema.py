"""The schema for editors takes what compose takes, and the page of keys has what the schema has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from compose.cli import _exit_code
from compose.recipes.include import load_recipe
from compose.recipes.json_schema import described, json_schema, sections_of
from compose.recipes.loader import load_text
from compose.recipes.reference import tables
from compose.recipes.schema import DATA_KINDS, DataSource, Recipe
from compose.recipes.shipped import Shipped, shipped
from tests.recipes.json_checks import faults
from tests.recipes.small import SMALL, changed
from tests.test_examples import blocks

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"
START, END = "<!-- table -->\n", "\n<!-- end -->"
SCHEMA = json_schema()


def found(text: str) -> list[str]:
    return list(faults(load_text(text).data, SCHEMA, SCHEMA))


@pytest.mark.parametrize("recipe", shipped(), ids=lambda recipe: recipe.name)
def test_shipped_recipes_fit(recipe: Shipped) -> None:
    assert not list(faults(load_recipe(recipe.path).data, SCHEMA, SCHEMA))


SOURCES = [
    "{kind: bundled, name: pairs, text: text_a, pair: text_b, label: label, validation: 0.2}",
    "{kind: jsonl, train: a.jsonl.gz, validation: b, test: c, labels: x, sample: {train: 5, validation: 2}}",
    "{kind: csv, train: a, delimiter: ;, header: [a, b], quotes: false, score: b, label_map: {0: no, 1: null}}",
    "{kind: parquet, train: a, tokens: x, tags: y, scheme: iob1, label_map: [O, B-x]}",
    "{kind: conll, train: a, tokens: form, tags: -1, header: [form, tag], comments: '#'}",
    "{kind: hub, name: nyu-mll/glue, config: sst2, revision: abc, validation: 0.1, test: validation, label: label}",
    "{kind: digits, label: parity, validation: 0.1, sample: {train: 100}}",
]


@pytest.mark.parametrize("source", SOURCES)
def test_every_kind_of_source_fits(source: str) -> None:
    assert not found(changed("{kind: bundled, name: messages, label: topic}", source))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: small\n", ""),
        ("name: small", "name: a b"),
        ("recipe: 1", "recipe: 2"),
        ("heads:\n", "haeds:\n"),
        ("epochs: 2", "epocs: 2"),
        ("epochs: 2", "epochs: 0"),
        ("epochs: 2", "epochs: 2.5"),
        ("method: seq_bn", "method: seq_nb"),
        ("reduction_factor: 8", "reduction_facto: 8"),
        ("kind: tagging", "kind: taging"),
        ("pooling: mean", "poolin: mean"),
        ("bundled, name: messages, label", "bundled, train: a, name: messages, label"),
        ("bundled, name: messages, label", "hub, name: ../a, label"),
        ("bundled, name: messages, label", "jsonl, train: a, validation: 2, label"),
        ("first: [0, 1]", "first: []"),
    ],
)
def test_what_is_wrong_does_not_fit(old: str, new: str) -> None:
    assert found(changed(old, new))


def test_a_recipe_over_included_files_may_lack_the_rest() -> None:
    assert not found("include: base.yaml\nseed: 3\n")
    assert found("seed: 3\n")


@pytest.mark.parametrize("section", list(sections_of(Recipe)), ids=lambda section: section.__name__)
def test_every_key_is_described_once(section: type[BaseModel]) -> None:
    about, keys = described(section)
    assert about.endswith(".")
    assert set(keys) == set(section.model_fields), "the Args of the section's docstring"
    assert all(meaning.endswith((".", "`")) for meaning in keys.values())


def test_nothing_else_is_allowed_and_kinds_are_told_apart() -> None:
    for section in (SCHEMA, *SCHEMA["$defs"].values()):
        assert section["additionalProperties"] is False
    data: dict[str, Any] = SCHEMA["properties"]["data"]["additionalProperties"]
    assert data["discriminator"]["propertyName"] == "kind" and len(data["oneOf"]) == len(SOURCES)
    assert "bottleneck" in SCHEMA["$defs"]["Adapter"]["properties"]["reduction_factor"]["description"]


def test_the_page_has_all_keys(request: pytest.FixtureRequest) -> None:
    text = PAGE.read_text("utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    made = f"{before}{START}{tables()}{END}{after}"
    if request.config.getoption("--regenerate", False):
        PAGE.write_text(made, "utf-8")
    assert made == PAGE.read_text("utf-8"), "pytest tests/recipes/test_json_schema.py --regenerate"


def test_the_pages_examples_of_data_fit() -> None:
    examples = [block.text for block in blocks(PAGE.read_text("utf-8")) if block.language == "yaml"]
    kinds = set()
    for text in (text for text in examples if not text.startswith("#")):
        data = load_text(text).data
        assert not list(faults(data, {**SCHEMA, "anyOf": [{}]}, SCHEMA))
        sources = TypeAdapter(dict[str, DataSource]).validate_python(data["data"])
        kinds |= {source.kind for source in sources.values()}
    assert kinds == set(DATA_KINDS) - {"bundled"}


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code(["recipe", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == SCHEMA
    assert _exit_code(["recipe", "schema", "--out", str(tmp_path / "schema.json")]) == 0
    assert json.loads((tmp_path / "schema.json").read_text("utf-8")) == SCHEMA
    assert _exit_code(["recipe", "schema", "--format", "markdown"]) == 0
    assert "### `train.N`" in capsys.readouterr().out
    assert _exit_code(["recipe", "schema", "--out", str(tmp_path / "no" / "schema.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_differences_of_recipes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(SMALL, "utf-8")
    (tmp_path / "b.yaml").write_text("include: a.yaml\nseed: 7\nadapters: {topic: {reduction_factor: 4}}\n", "utf-8")
    names = [str(tmp_path / name) for name in ("a.yaml", "b.yaml")]
    assert _exit_code(["recipe", "diff", *names]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "- seed: 42",
        "+ seed: 7",
        "- adapters.topic.reduction_factor: 8",
        "+ adapters.topic.reduction_factor: 4",
    ]
    assert _exit_code(["recipe", "diff", names[0], names[0]]) == 0
    assert capsys.readouterr().out == "no difference\n"
    assert _exit_code(["recipe", "diff", names[0], names[0], "--set", "train.0.learning_rate=null"]) == 0
    assert capsys.readouterr().out == "- train.0.learning_rate: 0.0005\n"
