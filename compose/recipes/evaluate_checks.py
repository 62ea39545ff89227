"""What is wrong with `evaluate`: tasks without test parts, metrics that do not fit, baselines that there are not."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

from compose.dsl import Expression, fuses, leaves
from compose.errors import ComposeError, ConfigError, Problem
from compose.heads.spec import make_head_config
from compose.recipes.data_checks import own_labels
from compose.recipes.document import Document, KeyPath
from compose.recipes.evaluated import sources_of
from compose.recipes.expressions import Expressions, tasks_of
from compose.recipes.schema import Head, Recipe
from compose.recipes.sources import columns_of
from compose.train.metrics import ERRORS, METRICS, Kind, kind_of_config, metric_of

DataProblems = Callable[[Sequence[str], Mapping[str, Sequence[str]], KeyPath, KeyPath, str], Iterator[Problem]]
"""What is wrong with the data of tasks; by task the sources chosen, where that is said, the expression, the part."""

CURVES: tuple[tuple[str, Callable[[Expression], Sequence[object]], str], ...] = (
    ("drop_curve", leaves, "adapter to drop"),
    ("fusion_curve", fuses, "Fuse to prune"),
)
"""The curves that `evaluate` may ask for, and what their expressions must have."""


WITHOUT: Mapping[str, tuple[Kind, ...]] = {"head_only": ("tokens",), "tfidf": ("tokens", "answer")}
"""The kinds of answers that a baseline does not give."""


class EvaluateChecks:
    """Checks `evaluate`.

    Args:
        recipe: the recipe.
        document: where things stand in it.
        expressions: reads expressions.
        data: checks the data of tasks.
    """

    def __init__(self, recipe: Recipe, document: Document, expressions: Expressions, data: DataProblems) -> None:
        self.recipe, self.document, self.expressions, self.data = recipe, document, expressions, data

    def problems(self) -> Iterator[Problem]:
        """Everything that is wrong."""
        evaluate = self.recipe.evaluate
        every: list[str] = []
        for name, given in evaluate.expressions.items():
            path: KeyPath = ("evaluate", "expressions", name)
            if isinstance(given, str):
                every += yield from self._scored(path, given)
                continue
            for source, text in given.items():
                every += yield from self._scored((*path, source), text, source)
        for key, changed, what in CURVES:
            curve = getattr(evaluate, key)
            if curve is None:
                continue
            path = ("evaluate", key, "expression")
            found = yield from self._scored(path, curve.expression)
            every += found
            if found and not changed(self.expressions.read(path, curve.expression)[0]):
                yield self.document.place(path).problem(f"the expression has no {what}")
        for key, named in (("data", evaluate.data), ("metrics", evaluate.metrics)):
            for task in named:
                if task not in every:
                    what = f"no evaluated expression has a task '{task}'"
                    at = self.document.place(("evaluate", key, task), True)
                    yield at.problem(what, got=task, legal=tuple(dict.fromkeys(every)))
        for task, sources in evaluate.data.items():
            if len(set(sources)) < len(sources):
                at = self.document.place(("evaluate", "data", task))
                yield at.problem(f"evaluate.data.{task} names a source twice")
        for task, metrics in evaluate.metrics.items():
            yield from self._metrics(task, metrics)
        yield from self._baselines(dict.fromkeys(every))

    def _scored(self, path: KeyPath, text: str, source: str | None = None) -> Generator[Problem, None, list[str]]:
        """What is wrong with an expression that is scored; gives its tasks if it can be read."""
        expression, problems = self.expressions.read(path, text)
        yield from problems
        if problems:
            return []
        tasks = [task for task in tasks_of(expression) if task]
        if source is None:
            yield from self.data(tasks, self.recipe.evaluate.data, ("evaluate", "data"), path, "test")
        else:
            yield from self.data(tasks, dict.fromkeys(tasks, (source,)), (), path, "test")
        return tasks

    def _metrics(self, task: str, metrics: tuple[str, ...]) -> Iterator[Problem]:
        """Whether what is to be measured of a task can be, and makes a mean."""
        path: KeyPath = ("evaluate", "metrics", task)
        head = self.recipe.heads.get(task)
        kind = None if head is None else answers_of(head)
        if head is None or kind is None:
            return
        for number, metric in enumerate(metrics):
            try:
                metric_of(kind, metric)
            except ConfigError as error:
                what = f"'{metric}' cannot be measured of the {head.kind} head '{task}'"
                at = self.document.place((*path, number))
                yield at.problem(what, got=metric, legal=tuple(METRICS[kind]), hint=error.problems[0].hint)
        if labels := own_labels(head):
            yield from label_problems(self.recipe, self.document, task, labels)
        if metrics[0] in ERRORS:
            why = "the first metric is the one that means over tasks are made of, and that is better the greater it is"
            at = self.document.place((*path, 0))
            yield at.problem(f"{metrics[0]} cannot come first", why=why, legal=_first_metrics(kind))

    def _baselines(self, tasks: Mapping[str, None]) -> Iterator[Problem]:
        """Whether there are baselines for all tasks."""
        for number, baseline in enumerate(self.recipe.evaluate.baselines):
            images = [task for task in tasks if self._reads_images(task)]
            if baseline == "tfidf" and images:
                at = self.document.place(("evaluate", "baselines", number))
                yield at.problem(f"tfidf counts words, but task '{images[0]}' reads images", hint="head_only")
            for task in tasks:
                head = self.recipe.heads.get(task)
                if head is not None and answers_of(head) in WITHOUT[baseline]:
                    at = self.document.place(("evaluate", "baselines", number))
                    yield at.problem(f"there is no baseline '{baseline}' for the {head.kind} head '{task}'")

    def _reads_images(self, task: str) -> bool:
        sources = [self.recipe.data.get(name) for name in sources_of(self.recipe.evaluate.data, task)]
        return any(source is not None and columns_of(source).modality == "image" for source in sources)


def label_problems(recipe: Recipe, document: Document, task: str, labels: tuple[str, ...]) -> Iterator[Problem]:
    """Metrics of labels that a task does not have."""
    for number, metric in enumerate(recipe.evaluate.metrics.get(task, ())):
        label = metric.partition(":")[2]
        if label and label not in labels:
            place = document.place(("evaluate", "metrics", task, number))
            yield place.problem(f"{metric}: task '{task}' has no label '{label}'", got=label, legal=labels)


def answers_of(head: Head) -> Kind | None:
    """How the answers of a recipe's head are scored; None where they are not, or it does not say its options."""
    if head.kind is None:  # loaded, and its folder could not be read, or only with the backbone
        return None
    try:
        config = make_head_config(head.kind, **{key: value for key, value in head.options.items() if key == "problem"})
    except ComposeError:  # which is said at the head
        return None
    return kind_of_config(config)


def _first_metrics(kind: Kind) -> tuple[str, ...]:
    return tuple(name for name in METRICS[kind] if name not in ERRORS)
