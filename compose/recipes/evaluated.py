"""What a recipe scores: which expressions answer which tasks on which sources, and what the scores are called."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from compose.recipes.document import KeyPath
from compose.recipes.expressions import task_names
from compose.recipes.schema import Recipe


@dataclass(frozen=True)
class Scored:
    """An expression that is scored.

    Args:
        path: its place in the recipe.
        text: the expression.
        sources: of each of its tasks, those that it is scored on.
        only: the one source that it is for; None: it is for all.
    """

    path: KeyPath
    text: str
    sources: dict[str, tuple[str, ...]]
    only: str | None = None

    def rounds(self) -> Iterator[dict[str, str]]:
        """By task a source, so often that each task meets each of its sources once."""
        for turn in range(max(map(len, self.sources.values()), default=0)):
            yield {task: names[turn] for task, names in self.sources.items() if turn < len(names)}


class Evaluated:
    """All that a checked recipe scores.

    Args:
        recipe: the recipe.

    Attributes:
        systems: by name their expressions: one, or one for each source.
        curves: by its key what each curve is of.
    """

    def __init__(self, recipe: Recipe) -> None:
        wanted = recipe.evaluate
        self._chosen = wanted.data
        self.systems: dict[str, tuple[Scored, ...]] = {}
        for name, given in wanted.expressions.items():
            path: KeyPath = ("evaluate", "expressions", name)
            if isinstance(given, str):
                self.systems[name] = (self._scored(path, given),)
            else:
                self.systems[name] = tuple(
                    Scored((*path, source), text, dict.fromkeys(task_names(text), (source,)), source)
                    for source, text in given.items()
                )
        asked = {"drop_curve": wanted.drop_curve, "fusion_curve": wanted.fusion_curve}
        self.curves = {
            key: self._scored(("evaluate", key, "expression"), curve.expression)
            for key, curve in asked.items()
            if curve is not None
        }

    def _scored(self, path: KeyPath, text: str) -> Scored:
        return Scored(path, text, {task: sources_of(self._chosen, task) for task in task_names(text)})

    @property
    def expressions(self) -> list[Scored]:
        """All of them, those of curves last."""
        found = [each for members in self.systems.values() for each in members]
        return [*found, *self.curves.values()]

    def by_task(self) -> dict[str, tuple[str, ...]]:
        """Of each task the sources that it is scored on, whichever expression answers."""
        found: dict[str, dict[str, None]] = {}
        for each in self.expressions:
            for task, names in each.sources.items():
                found.setdefault(task, {}).update(dict.fromkeys(names))
        return {task: tuple(names) for task, names in found.items()}

    def called(self, task: str, source: str) -> str:
        """What the scores of a task on a source are called: as the task, if it has but one source."""
        return task if len(self.by_task()[task]) == 1 else f"{task} on {source}"

    def rows(self) -> dict[str, tuple[str, str]]:
        """All scores by what they are called: the task, and the source."""
        return {self.called(task, source): (task, source) for task, names in self.by_task().items() for source in names}


def sources_of(chosen: dict[str, tuple[str, ...]], task: str) -> tuple[str, ...]:
    """The sources that a task is scored on, where an expression is not for one of them.

    Args:
        chosen: `evaluate.data`.
        task: the task.
    """
    return chosen.get(task, (task,))
