"""A recipe as it was run: every default written out, read back to the same recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from compose.recipes.loader import load_text, scalar
from compose.recipes.schema import Made, Recipe
from compose.recipes.sources import absolute
from compose.runtime.batches import step_limits


class _Dumper(yaml.SafeDumper):
    """Writes what `loader` reads: no aliases, and quotes around every text that would read as a number."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    try:
        plain = scalar(value) == value
    except ValueError:
        plain = False
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if plain else '"')


_Dumper.add_representer(str, _text)


def resolve(recipe: Recipe, folder: Path, labels: Mapping[str, list[str]]) -> Recipe:
    """The recipe with what it leaves open filled in.

    Args:
        recipe: the recipe.
        folder: where its relative paths begin; they are made absolute.
        labels: of each head that has labels.
    """
    data = {name: absolute(source, lambda _: folder) for name, source in recipe.data.items()}
    heads = {
        name: head.model_copy(update={"labels": labels.get(name, head.labels)}) for name, head in recipe.heads.items()
    }
    train = tuple(
        stage.model_copy(
            update={
                "learning_rate": stage.rate,
                "batch_size": step_limits(stage.batch_size, stage.batch_tokens)[0],
            }
        )
        for stage in recipe.train
    )
    return recipe.model_copy(update={"data": data, "heads": heads, "train": train})


def plain(value: Any) -> Any:
    """A recipe, or anything in it, as mappings, lists and single values.

    Keys of sections that have no value are left out. An option that is null stays: it may be another in its preset.
    """
    if isinstance(value, BaseModel):
        names = value.said if isinstance(value, Made) else type(value).model_fields
        declared = {name: getattr(value, name) for name in names}
        found = {name: inner for name, inner in declared.items() if inner is not None}
        return {name: plain(inner) for name, inner in {**found, **(value.model_extra or {})}.items()}
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def to_yaml(recipe: Recipe) -> str:
    """A recipe's text; keys that have no value are left out."""
    unsaid = ["seed" if recipe.seeds else "seeds", *([] if recipe.sweep else ["sweep"])]
    return _dumped({key: value for key, value in plain(recipe).items() if key not in unsaid})


def with_seeds(text: str, seeds: Sequence[int]) -> str:
    """The text of a resolved recipe with several seeds in place of its one."""
    plain = load_text(text).data
    return _dumped({"seeds" if key == "seed" else key: plain[key] for key in plain} | {"seeds": list(seeds)})


def _dumped(data: Mapping[str, Any]) -> str:
    return yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
