"""A recipe made real: its data, and the model with everything that the recipe names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from compose.dsl import Drop, Parallel, as_expression, branches
from compose.errors import BackboneError, ComposeError, ConfigError, Problem, RecipeError
from compose.recipes.checks import fusion_block
from compose.recipes.data_checks import modality_problems, own_labels
from compose.recipes.devices import place
from compose.recipes.document import Document, KeyPath
from compose.recipes.evaluate_checks import label_problems
from compose.recipes.evaluated import Evaluated, sources_of
from compose.recipes.expressions import task_names
from compose.recipes.loading import check_heads, load_part
from compose.recipes.saved import loaded
from compose.recipes.schema import Recipe, Stage
from compose.recipes.sources import read_sources
from compose.runtime.attach import load
from compose.runtime.image import Image
from compose.runtime.model import Model
from compose.runtime.random_backbone import random_backbone
from compose.runtime.readers import reader_of
from compose.runtime.regimes import check_regime
from compose.runtime.runnable import RunnablePlan
from compose.runtime.sparsity import sparsify
from compose.train.data import Dataset, Example, Input, sample


@dataclass
class Experiment:
    """What the stages of a run work on.

    Args:
        recipe: the recipe.
        document: where things stand in it, for errors.
        data: its sources, by name.
        model: the backbone with adapters, fusions and heads.
    """

    recipe: Recipe
    document: Document
    data: Mapping[str, Dataset]
    model: Model

    @property
    def folder(self) -> Path:
        """Where the recipe's relative paths begin."""
        return Path(self.document.source).parent

    def plan(self, path: KeyPath, text: str) -> RunnablePlan:
        """The plan of an expression at a place of the recipe."""
        with located(self.document, path):
            return self.model.plan(as_expression(text))

    def stage_examples(self, stage: Stage) -> dict[str, tuple[Example, ...]]:
        """What a stage learns from, by task."""
        return {
            task: sample(self.data[stage.data.get(task, task)].train, stage.examples, self.recipe.seed)
            for task in task_names(stage.expression)
        }

    def validation_examples(self, stage: Stage) -> dict[str, tuple[Example, ...]]:
        """What is scored after each epoch of a stage: the validation parts that there are, by task."""
        found = {task: self.data[stage.data.get(task, task)].validation for task in task_names(stage.expression)}
        return {task: examples for task, examples in found.items() if examples}

    @cached_property
    def evaluated(self) -> Evaluated:
        """What is scored, on which sources."""
        return Evaluated(self.recipe)

    def test_examples(self, sources: Mapping[str, str]) -> dict[str, tuple[Example, ...]]:
        """What tasks are scored on, by task, of the source of each."""
        return {task: self.data[source].test for task, source in sources.items()}

    def new_inputs(self) -> list[tuple[str, Input]]:
        """What the recipe wants answered, each with what to call it: its texts, and some of a test part."""
        wanted = self.recipe.predict
        if wanted is None:
            return []
        found: list[tuple[str, Input]] = [(text, text) for text in wanted.texts]
        if wanted.examples is not None:
            task = task_names(wanted.expression)[0]
            name = sources_of(self.recipe.evaluate.data, task)[0]
            chosen = enumerate(self.data[name].test[: wanted.examples])
            found += [(_caption(example, name, number), example.input) for number, example in chosen]
        return found

    def train_examples(self) -> dict[str, tuple[Example, ...]]:
        """What each task learned from last, by task: baselines get the same."""
        found: dict[str, tuple[Example, ...]] = {}
        for stage in self.recipe.train:
            found.update(self.stage_examples(stage))
        return found


def _caption(example: Example, name: str, number: int) -> str:
    """An example in words, for people."""
    match example.input:
        case str() as text:
            return text
        case Image():
            return f"image {number} of the test part of data.{name} ({example.target})"
        case texts:
            return (" | " if isinstance(texts, tuple) else " ").join(texts)


def single_plans(plan: RunnablePlan) -> dict[str, RunnablePlan]:
    """A plan of its own for each branch of a plan, under the name of its task."""
    return {
        str(branch.task): plan.model.plan(Parallel({str(branch.task): branch.expression}))
        for branch in branches(plan.expression)
    }


def build(recipe: Recipe, document: Document) -> Experiment:
    """Reads the data and makes the model.

    Raises:
        ComposeError: at its place in the recipe, whatever does not exist or fit: a data file, the
            backbone, an option, a layer.
    """
    folder = Path(document.source).parent
    data = read_sources(recipe, folder, _needed(recipe))
    with located(document, ("backbone", "name" if recipe.backbone.name else "config")):
        model = load_backbone(recipe)
    with located(document, ("device",)):
        place(model, recipe.device)
    problems = list(modality_problems(recipe, document, model.spec.modality))
    if problems:
        raise RecipeError(problems)
    torch.manual_seed(recipe.seed)
    for part in loaded(recipe):
        with located(document, part.path):
            load_part(model, part)
    check_heads(model, recipe, document)
    for name, adapter in recipe.adapters.items():
        if adapter.method is None:
            continue
        with located(document, ("adapters", name)):
            model.add_adapter(name, adapter.method, **adapter.options)
            if adapter.sparsity and adapter.pruning != "snip":  # that needs a stage's data
                sparsify(model, name, adapter.sparsity, adapter.pruning, seed=recipe.seed)
    for name, fusion in recipe.fusions.items():
        if fusion.expression is None:
            continue
        with located(document, ("fusions", name)):
            model.add_fusion(fusion_block(name, fusion.expression), fusion.kind, **fusion.options)
    for name, head in recipe.heads.items():
        if head.kind is None:
            continue
        labels = labels_of(recipe, data, name)
        with located(document, ("heads", name)):
            model.add_head(name, head.kind, **head.options, **({"labels": labels} if labels else {}))
    for task in recipe.evaluate.metrics:
        if problems := list(label_problems(recipe, document, task, model.heads[task].labels)):
            raise RecipeError(problems)
    experiment = Experiment(recipe, document, data, model)
    for path, text in expressions(recipe):
        experiment.plan(path, text)  # what cannot be compiled is said before anything is trained
    for index, stage in enumerate(recipe.train):
        with located(document, ("train", index)):
            check_regime(model, as_expression(stage.expression), stage.regime, stage.last)
            if stage.trunk_cache:
                check_trunk(model, stage)
    curve = recipe.evaluate.drop_curve
    if curve is not None:
        with located(document, ("evaluate", "drop_curve", "first")):
            for first in curve.first:
                model.plan(Drop(as_expression(curve.expression), first=first))
    return experiment


def check_trunk(model: Model, stage: Stage) -> None:
    """ConfigError: a stage asks for a trunk cache, but there is no layer whose states it could keep."""
    if model.spec.modality != "text":
        raise ConfigError(f"trunk_cache: it keeps the states of texts, and the backbone reads {model.spec.modality}s")
    plan = model.plan(stage.expression)
    model.train_only(plan.expression, stage.regime, stage.last, stage.train_layer_norms, stage.adapters or None)
    problem = None if plan.trunk else plan.no_trunk()
    model.requires_grad_(False)
    if problem is not None:
        raise ConfigError([replace(problem, what=f"trunk_cache: {problem.what}, so that nothing can be kept")])


def load_backbone(recipe: Recipe) -> Model:
    """The backbone of a recipe, in evaluation mode."""
    asked = recipe.backbone
    options: dict[str, Any] = {}
    if recipe.precision is not None:
        options["precision"] = recipe.precision
    if asked.dtype is not None:
        options["dtype"] = getattr(torch, asked.dtype)
    if asked.name is not None:
        model = load(asked.name, **options)
    else:
        model = random_backbone(asked.architecture or "", asked.config, recipe.seed, **options)
    if reader_of(model).lacking() is not None:
        raise BackboneError(f"the backbone '{asked.called}' has no tokenizer, which recipes need for texts")
    model.eval()
    return model


def expressions(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """Every expression of a recipe that is run, with its place."""
    for index, stage in enumerate(recipe.train):
        yield ("train", index, "expression"), stage.expression
    yield from ((each.path, each.text) for each in Evaluated(recipe).expressions)
    if recipe.predict is not None:
        yield ("predict", "expression"), recipe.predict.expression


def labels_of(recipe: Recipe, data: Mapping[str, Dataset], name: str) -> list[str] | None:
    """The labels of a head, in the order of their ids: its own, else those that its data has; None for kinds without
    labels, and where it is loaded."""
    head = recipe.heads[name]
    if head.labels is not None:
        return list(own_labels(head))
    if head.kind in (None, "regression", "question_answering"):
        return None
    sources = [stage.data.get(name, name) for stage in recipe.train if name in task_names(stage.expression)]
    source = data.get((sources or [name])[0])
    return source.labels() if source else None


def _needed(recipe: Recipe) -> set[str]:
    """The sources that stages and scores read."""
    found = set()
    for stage in recipe.train:
        found |= {stage.data.get(task, task) for task in task_names(stage.expression)}
    found |= {source for names in Evaluated(recipe).by_task().values() for source in names}
    if recipe.predict is not None and recipe.predict.examples is not None:
        found.add(sources_of(recipe.evaluate.data, task_names(recipe.predict.expression)[0])[0])
    return found


@contextmanager
def located(document: Document, path: KeyPath) -> Iterator[None]:
    """Errors of what happens inside get their place in the recipe."""
    try:
        yield
    except ComposeError as error:
        raise RecipeError([_placed(document, path, problem) for problem in error.problems]) from error


def _placed(document: Document, path: KeyPath, problem: Problem) -> Problem:
    """A problem at its place: at the option that it names, if it names one that the recipe has."""
    words = re.findall(r"\w+", f"{problem.where} {problem.what}")
    option = next((word for word in words if (*path, word) in document.values), None)
    place = document.place((*path, option) if option else path)
    return replace(problem, where=f"{place}: {problem.where}" if problem.where else str(place))
