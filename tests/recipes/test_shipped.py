"""What comes with compose: every recipe is valid, and the data is what its card says."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from compose.errors import RecipeError
from compose.recipes.loader import load_text
from compose.recipes.resolved import resolve, to_yaml
from compose.recipes.schema import Hub
from compose.recipes.shipped import Shipped, bundled, bundled_files, copy, find, home, shipped
from compose.recipes.sources import read_sources
from compose.recipes.validate import read_recipe, validate
from tests.recipes.brought import bring
from tests.recipes.small import SMALL


def test_there_is_a_quickstart() -> None:
    assert "quickstart" in [recipe.name for recipe in shipped()]


@pytest.mark.parametrize("recipe", shipped(), ids=lambda recipe: recipe.name)
def test_every_recipe_is_valid_and_says_how_to_run_it(recipe: Shipped, tmp_path: Path) -> None:
    document, _ = read_recipe(recipe.path, bring(recipe, tmp_path))
    assert re.match(rf"# compose run {recipe.name}( --.+)?\n", document.text)


@pytest.mark.parametrize("recipe", shipped(), ids=lambda recipe: recipe.name)
def test_a_resolved_recipe_is_the_same_recipe(recipe: Shipped, tmp_path: Path) -> None:
    document, read = read_recipe(recipe.path, bring(recipe, tmp_path))
    head = next(iter(read.heads))
    labels = ["5e-5", "no", "true", "~", "a: b", " x", "- y", "#z", "010", "0x1F", "1_0", "<<", "ü"]
    if not isinstance(read.data[head], Hub):  # a head's labels are held against those of the files
        labels += read_sources(read, recipe.path.parent, {head})[head].labels()
    resolved = resolve(read, recipe.path.parent, {head: labels})
    again = validate(load_text(to_yaml(resolved), document.source))
    assert again == resolved.model_copy(update={"heads": again.heads})
    assert next(iter(again.heads.values())).labels == labels
    assert to_yaml(again) == to_yaml(resolved)


def test_nulls_that_say_something_are_in_the_resolved_recipe() -> None:
    names = "account: a, billing: b, delivery: null, returns: r, sales: s, technical: t"
    text = SMALL.replace("label: topic", f"label: topic, label_map: {{{names}}}")
    text = text.replace("{method: seq_bn,", "{method: seq_bn_inv, inv_adapter: null,")
    given = validate(load_text(text))
    again = validate(load_text(to_yaml(resolve(given, Path(), {}))))
    assert again.data == given.data and again.adapters == given.adapters
    assert (
        "delivery" in again.data["topic"].model_dump()["label_map"] and "inv_adapter" in again.adapters["topic"].options
    )


def test_a_recipe_is_found_by_name_or_path(tmp_path: Path) -> None:
    assert find("quickstart") == find("quickstart.yaml") == find("recipes/quickstart.yaml").resolve()
    own = copy("quickstart", tmp_path)
    assert own.read_bytes() == find("quickstart").read_bytes() and find(str(own)) == own
    with pytest.raises(RecipeError, match="there already"):
        copy("quickstart", tmp_path)
    with pytest.raises(RecipeError, match="'quickstart'"):
        find("quikstart")


def rows(name: str, part: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in bundled_files(name)[part].read_text("utf-8").splitlines()]


@pytest.mark.parametrize("part", [0, 1])
def test_messages_are_labelled_and_marked(part: int) -> None:
    labels = {
        "topic": {"account", "billing", "delivery", "returns", "sales", "technical"},
        "tone": {"friendly", "frustrated", "neutral"},
        "urgency": {"low", "normal", "high"},
    }
    for row in rows("messages", part):
        assert all(row[field] in legal for field, legal in labels.items())
        end = 0
        for entity in row["entities"]:
            assert entity["type"] in {"person", "product", "place", "date", "order"}
            assert end <= entity["start"] < entity["end"] <= len(row["text"])
            surface = row["text"][entity["start"] : entity["end"]]
            assert surface == surface.strip()
            end = entity["end"]


@pytest.mark.parametrize(("name", "columns"), [("messages", ("text",)), ("pairs", ("text_a", "text_b"))])
def test_parts_share_nothing(name: str, columns: tuple[str, ...]) -> None:
    train, test = rows(name, 0), rows(name, 1)
    texts = [{row[column].lower() for row in part for column in columns} for part in (train, test)]
    assert not texts[0] & texts[1]
    ids = [row["id"] for row in (*train, *test)]
    assert len(set(ids)) == len(ids)


def test_the_card_gives_the_numbers() -> None:
    assert bundled() == ("messages", "pairs")
    card = (home() / "data" / "README.md").read_text("utf-8")
    parts = [rows("messages", part) for part in (0, 1)]
    assert [len(part) for part in parts] == [500, 200]
    assert re.search(r"700 invented messages", card)
    for field in ("tone", "urgency"):
        line = next(line for line in card.splitlines() if line.startswith(f"| {field}:"))
        names, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        for part, cell in zip(parts, cells, strict=True):
            counts = Counter(row[field] for row in part)
            assert cell == ", ".join(str(counts[name]) for name in names.split(": ")[1].split(", "))
    line = next(line for line in card.splitlines() if line.startswith("| entities:"))
    names, *cells = (cell.strip() for cell in line.strip("|").split("|"))
    for part, cell in zip(parts, cells, strict=True):
        counts = Counter(entity["type"] for row in part for entity in row["entities"])
        assert cell == ", ".join(str(counts[name]) for name in names.split(": ")[1].split(", "))
    assert "260 pairs of messages: 185 to learn from, 75 to score on" in card
    assert [len(rows("pairs", part)) for part in (0, 1)] == [185, 75]
    for part in (0, 1):
        counts = Counter(row["label"] for row in rows("pairs", part))
        assert abs(counts["same"] - counts["different"]) <= 1
