"""What comes with compose: every recipe is valid, and the data is what its card says."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from compose.errors import RecipeError
from compose.recipes.console import Console
from compose.recipes.loader import load_text
from compose.recipes.manifest import read_manifest
from compose.recipes.resolved import resolve, to_yaml
from compose.recipes.runner import run
from compose.recipes.schema import Hub
from compose.recipes.shipped import LOCAL, Shipped, bundled, bundled_files, copy, find, home, shipped
from compose.recipes.smoke import NOTE
from compose.recipes.sources import columns_of, read_sources
from compose.recipes.validate import validate
from tests.recipes import brought
from tests.recipes.small import SMALL


def test_there_is_a_quickstart() -> None:
    assert "quickstart" in [recipe.name for recipe in shipped()]


every_recipe = pytest.mark.parametrize("recipe", shipped(), ids=lambda recipe: recipe.name)


@every_recipe
def test_every_recipe_is_valid_and_says_how_to_run_it(recipe: Shipped, tmp_path: Path) -> None:
    document, checked = brought.read(recipe, tmp_path)
    lines = document.text.split("\n\n")[0].splitlines()
    command = shlex.split(lines[0].removeprefix("# "))
    assert command[:3] == ["compose", "run", recipe.name] and lines[1] == "#"
    assert all(line.startswith("# ") for line in lines[2:])
    said = {line[2:].partition(":")[0]: line.partition(":")[2].strip() for line in lines[2:] if line[2].isupper()}
    assert next(iter(said)) == "Shows" and list(said)[-1] == "Takes" and {"Source", "Data"} & set(said)
    assert all(len(text) > 15 for text in said.values())
    local = recipe.name.startswith(LOCAL)
    assert local == ("data_folder=FOLDER" in command)
    if any(isinstance(source, Hub) for source in checked.data.values()):
        assert "needs the hub" in said["Takes"] and "run by us on the hub" in " ".join(lines)


@pytest.mark.parametrize(
    "recipe", [recipe for recipe in shipped() if not recipe.name.startswith(LOCAL)], ids=lambda recipe: recipe.name
)
def test_every_recipe_is_tried_offline(recipe: Shipped, tmp_path: Path) -> None:
    console = io.StringIO()
    done = run(recipe.path, out=tmp_path / "run", console=Console(console), smoke=True)
    assert f"\n{NOTE}\n" in console.getvalue() and NOTE.capitalize() in (done / "report.md").read_text("utf-8")
    manifest = read_manifest(done)
    assert manifest is not None and manifest["smoke"] == NOTE
    assert not manifest.get("failed"), console.getvalue()


@every_recipe
def test_a_resolved_recipe_is_the_same_recipe(recipe: Shipped, tmp_path: Path) -> None:
    document, read = brought.read(recipe, tmp_path)
    read = read.model_copy(update={"sweep": {}})  # its members are resolved, each by itself
    head = next(iter(read.heads))
    source = next((stage.data[head] for stage in read.train if head in stage.data), head)
    labels = ["5e-5", "no", "true", "~", "a: b", " x", "- y", "#z", "010", "0x1F", "1_0", "<<", "ü"]
    # A head's labels are held against those of the data.
    if isinstance(read.data[source], Hub):
        labels += columns_of(read.data[source]).label_names()
    else:
        labels += read_sources(read, recipe.path.parent, {source})[source].labels()
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
