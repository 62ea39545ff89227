"""What is to be run, and where to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compose.recipes.document import Document
from compose.recipes.folder import RunFolder
from compose.recipes.schema import Recipe
from compose.recipes.smoke import NOTE, Smoke


@dataclass(frozen=True)
class Job:
    """A recipe that is about to run.

    Args:
        document: the recipe as given, where things stand in it.
        recipe: what it says, overrides included.
        overrides: `key=value` each, as they were given.
        target: the folder for its results.
        overwrite: whether the folder may hold another recipe's run, which then goes.
        resume: whether to go on with what an interrupted run left.
        smoke: what puts made things in the place of backbone and data; None: nothing does.
    """

    document: Document
    recipe: Recipe
    overrides: tuple[str, ...]
    target: Path
    overwrite: bool = False
    resume: bool = False
    smoke: Smoke | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What the manifests of all its runs say: how it was asked for."""
        return {"overrides": list(self.overrides), **({} if self.smoke is None else {"smoke": NOTE})}

    def write_given(self, folder: RunFolder) -> None:
        """Writes the recipe as it was given, and the files that it includes, into a folder."""
        folder.write_text("recipe.yaml", self.document.text)
        for number, (name, text) in enumerate(self.document.included, 1):
            folder.write_text(f"included-{number}-{Path(name).name}", text)

    def of_seed(self, seed: int, target: Path) -> Job:
        """The same of one seed, with a folder of its own."""
        recipe = self.recipe.model_copy(update={"seed": seed, "seeds": ()})
        return replace(self, recipe=recipe, target=target)

    def first(self) -> Job:
        """The same of the first of its seeds, if it has a list of them."""
        return self.of_seed(self.recipe.seeds[0], self.target) if self.recipe.seeds else self
