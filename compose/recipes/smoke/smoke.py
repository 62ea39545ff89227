"""A recipe as it is tried: the same stages, adapters and measurements over a made backbone, made data, few steps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compose.errors import ComposeError, RecipeError
from compose.recipes.document import Document
from compose.recipes.members import Member
from compose.recipes.schema import Backbone, DataSource, Evaluate, Predict, Recipe, Report, Sample, Stage
from compose.recipes.smoke.backbone import made_backbone
from compose.recipes.smoke.data import CAN_BE_MADE, made_files, made_sources
from compose.recipes.smoke.layers import layers_asked
from compose.recipes.smoke.parts import made_parts

NOTE = "a smoke run: backbone and data are made up, so that the scores mean nothing"
"""What console, `run.json` and reports say of one."""

ENDING = "-smoke"
MADE = ".made"

LONGEST_NAME = 64
STEPS = 2
ROWS = 4
"""Rows of a step."""

FEW = Sample(train=16, validation=8, test=8)
"""How many rows of data that come with libraries are used."""


@dataclass(frozen=True)
class Smoke:
    """Puts made things in the place of a recipe's backbone and data.

    What is made is written beside the run's folder, `NAME-smoke.made`, and is the same each time.

    Args:
        out: the run's folder; by default `runs/` and the name of the recipe.
    """

    out: Path | None = None

    def __call__(self, recipe: Recipe, document: Document) -> Recipe:
        """The recipe as it is tried: its first seed, two steps a stage, few rows.

        Args:
            recipe: the recipe, right by itself.
            document: where things stand in it.

        Raises:
            RecipeError: nobody can say what kind of backbone the recipe's is.
        """
        name = recipe.name[: LONGEST_NAME - len(ENDING)] + ENDING
        target = self.out or Path("runs") / name
        folder = target.with_name(target.name + MADE).absolute()
        makeable = {name: source for name, source in recipe.data.items() if isinstance(source, CAN_BE_MADE)}
        files = made_files(recipe, Path(document.source).parent, makeable)
        places = {part: made.write(folder / "data") for part, made in files.items()}
        changed = {
            "name": name,
            "seed": recipe.seeds[0] if recipe.seeds else recipe.seed,
            "seeds": (),
            "data": {**_few(recipe), **made_sources(makeable, Path(document.source).parent, places)},
            "train": tuple(map(_short, recipe.train)),
            **made_parts(recipe),
            "evaluate": _once(recipe.evaluate),
            "predict": _quick(recipe.predict),
            "report": Report(plots=False),
        }
        recipe = recipe.model_copy(update=changed)
        return recipe.model_copy(update={"backbone": _backbone(recipe, document, folder / "backbones")})

    def some(self, members: Sequence[Member]) -> list[Member]:
        """So many members of a sweep that each value of each key is tried once, in their order."""
        left = [{(key, json.dumps(value)) for key, value in member.values.items()} for member in members]
        chosen: list[int] = []
        while any(left):
            best = max(range(len(left)), key=lambda place: len(left[place]))
            chosen.append(best)
            left = [values - left[best] for values in left]
        return [members[place] for place in sorted(chosen)]


def _backbone(recipe: Recipe, document: Document, folder: Path) -> Backbone:
    if recipe.backbone.name is None:  # it is made of a config already
        return recipe.backbone
    try:
        made = made_backbone(recipe.backbone.name, layers_asked(recipe), folder)
    except ComposeError as error:
        place = document.place(("backbone", "name"))
        raise RecipeError([place.problem(each.what, why=each.why, hint=each.hint) for each in error.problems]) from None
    return recipe.backbone.model_copy(update={"name": str(made)})


def _few(recipe: Recipe) -> dict[str, DataSource]:
    return {name: source.model_copy(update={"sample": FEW}) for name, source in recipe.data.items()}


def _once(evaluate: Evaluate) -> Evaluate:
    """The same with two points of each curve."""
    drop, fusion = evaluate.drop_curve, evaluate.fusion_curve
    if drop is not None:
        drop = drop.model_copy(update={"first": drop.first[:2]})
    if fusion is not None:
        fusion = fusion.model_copy(update={"keep": tuple(dict.fromkeys((fusion.keep[0], fusion.keep[-1])))})
    return evaluate.model_copy(update={"drop_curve": drop, "fusion_curve": fusion})


def _quick(predict: Predict | None) -> Predict | None:
    """The same with one comparison, made once."""
    if predict is None or predict.compare is None:
        return predict
    compare = predict.compare.model_copy(update={"messages": predict.compare.messages[:1], "repeats": 1})
    return predict.model_copy(update={"compare": compare})


def _short(stage: Stage) -> Stage:
    rows = min(stage.batch_size or ROWS, ROWS)
    return stage.model_copy(
        update={"epochs": 1, "max_steps": STEPS, "batch_size": rows, "examples": None, "checkpoint_steps": None}
    )
