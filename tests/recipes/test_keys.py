"""Keys that were renamed: a recipe that has an old one is told the new one, and since when."""

from __future__ import annotations

import pytest

from compose.errors import RecipeError
from compose.recipes.json_schema import json_schema
from compose.recipes.keys import OTHER_NAMES, RENAMED, Renamed
from compose.recipes.loader import load_text
from compose.recipes.overrides import apply_overrides
from compose.recipes.schema import Recipe
from compose.recipes.validate import validate
from tests.recipes.small import SMALL, changed

TABLE = (
    Renamed("train.*.passes", "train.*.epochs", "0.3"),
    Renamed("tests", "evaluate", "0.4"),
    Renamed("adapters.*.reduction", "adapters.*.reduction_factor", "0.5"),
)


def error_of(text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        validate(apply_overrides(load_text(text, "r.yaml"), overrides), TABLE)
    return str(caught.value)


def test_an_old_key_is_told_its_new_name_and_the_version() -> None:
    found = error_of(changed("epochs: 2", "passes: 2"))
    assert "r.yaml:16:25: train.0.passes is called train.0.epochs since version 0.3" in found
    assert "try: 'epochs'" in found and "unknown key" not in found


def test_sections_options_and_overrides_too() -> None:
    found = error_of(changed("evaluate:", "tests:").replace("reduction_factor: 8", "reduction: 8"), "train.0.passes=3")
    assert "r.yaml:17:1: tests is called evaluate since version 0.4" in found
    assert "r.yaml:8:27: adapters.topic.reduction is called adapters.topic.reduction_factor since version 0.5" in found
    assert "--set train.0.passes=3: train.0.passes is called" in found
    found = error_of(changed("reduction_factor: 8", "reduction: 8"))
    assert found.startswith("r.yaml:8:27: adapters.topic.reduction is called")


def test_other_faults_are_told_beside() -> None:
    found = error_of(changed("epochs: 2", "passes: 2").replace("name: small", "name: 5"))
    assert "train.0.passes is called" in found and "name must be text" in found


def test_a_recipe_without_old_keys_is_valid() -> None:
    assert isinstance(validate(load_text(SMALL), TABLE), Recipe)


def test_the_tables_lead_to_keys_that_there_are() -> None:
    known = {key for section in json_schema()["$defs"].values() for key in section.get("properties", {})}
    known |= set(json_schema()["properties"])
    assert set(OTHER_NAMES.values()) <= known and not set(OTHER_NAMES) & known
    for change in RENAMED:
        assert change.new.split(".")[-1] in known and change.old.count("*") == change.new.count("*")
