"""What the sections of a recipe say about each other: names that must exist, kinds that must fit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from compose.dsl import (
    Expression,
    Fuse,
    as_expression,
    fuses,
    leaves,
    name_problem,
    own_name,
)
from compose.errors import ComposeError, FileError, Problem
from compose.heads.spec import make_head_config
from compose.methods.fusions import make_fusion_config
from compose.methods.registry import make_config
from compose.recipes.backbone_checks import backbone_problems
from compose.recipes.data_checks import fit_problem, lacking_labels, lacks_answers, own_labels, source_problems
from compose.recipes.document import Document, KeyPath, dotted
from compose.recipes.evaluate_checks import EvaluateChecks
from compose.recipes.expressions import Expressions, tasks_of
from compose.recipes.saved import load_problems, stated
from compose.recipes.schema import Recipe, Stage
from compose.recipes.schema.train import TRAINS_BACKBONE
from compose.recipes.sources import columns_of, has_test

TRAINS_ADAPTERS = ("adapters", "full+adapters")
"""Regimes in which the expression's adapters are trained."""


def owns_backbone(recipe: Recipe) -> bool:
    """Whether the weights of a run's backbone are its own: drawn at random, or trained by a stage."""
    trained = any(stage.regime in TRAINS_BACKBONE or stage.train_layer_norms for stage in recipe.train)
    return recipe.backbone.name is None or trained


OTHER_INPUTS = {"pair": "pairs of texts", "image": "images"}
"""Kinds of inputs that `predict.texts` are none of."""


def check(recipe: Recipe, document: Document) -> list[Problem]:
    """Everything in a recipe that its parts, each legal by itself, get wrong together."""
    found = (*load_problems(recipe, document), *_Checker(stated(recipe), document).problems())
    return list(dict.fromkeys(found))


def check_alone(recipe: Recipe, document: Document) -> list[Problem]:
    """What is wrong with sources, adapters and heads, each by itself."""
    return list(dict.fromkeys((*load_problems(recipe, document), *_Checker(stated(recipe), document).alone())))


def snip_stage(recipe: Recipe, name: str) -> int | None:
    """The number of the first stage that has an adapter, or that cannot be read; None if none has it."""
    return next((number for number, stage in enumerate(recipe.train) if _may_have(stage, name)), None)


def _may_have(stage: Stage, name: str) -> bool:
    try:
        return name in leaves(as_expression(stage.expression))
    except ComposeError:  # which is said at the stage
        return True


def fusion_block(name: str, text: str) -> Fuse:
    """The Fuse of a fusion, under the name that it is listed by.

    Raises:
        ComposeError: the text is no Fuse, or has another name.
    """
    block = as_expression(text)
    if not isinstance(block, Fuse):
        raise FileError("a fusion's expression is a Fuse", hint='Fuse("a", "b")')
    if block.name is not None and block.name != name:
        raise FileError(f"the Fuse is called '{block.name}', but is listed as '{name}'")
    unnamed = Fuse(*block.children)
    return unnamed if own_name(unnamed) == name else Fuse(*block.children, name=name)


class _Checker:
    def __init__(self, recipe: Recipe, document: Document) -> None:
        self.recipe, self.document = recipe, document
        self.folder = Path(document.source).parent
        self.expressions = Expressions(recipe, document)

    def alone(self) -> Iterator[Problem]:
        """What is wrong with parts by themselves."""
        yield from self._names()
        yield from source_problems(self.recipe, self.document)
        yield from self._options()

    def problems(self) -> Iterator[Problem]:
        """Everything that is wrong."""
        yield from self._seeds()
        yield from self._precision()
        yield from backbone_problems(self.recipe, self.document)
        yield from self.alone()
        yield from self._stages()
        yield from self._pruning()
        yield from EvaluateChecks(self.recipe, self.document, self.expressions, self._data).problems()
        yield from self._predict()

    def _at(self, path: KeyPath, what: str, key: bool = False, **fields: Any) -> Problem:
        return self.document.place(path, key).problem(what, **fields)

    def _precision(self) -> Iterator[Problem]:
        precision = self.recipe.precision
        if precision is not None and self.recipe.backbone.dtype is not None:
            what = "precision and backbone.dtype say the same thing"
            yield self._at(("precision",), what, key=True, hint="leave out backbone.dtype")
        for index, stage in enumerate(self.recipe.train if precision == "bf16" else ()):
            if stage.regime in TRAINS_BACKBONE or stage.train_layer_norms:
                key = "regime" if stage.regime in TRAINS_BACKBONE else "train_layer_norms"
                what = f"train.{index}.{key} trains weights of the backbone, which bf16 is too coarse for"
                yield self._at(("train", index, key), what, key=True, hint="precision: float32")

    def _seeds(self) -> Iterator[Problem]:
        seeds = self.recipe.seeds
        if seeds and "seed" in self.recipe.model_fields_set:
            hint = f"seeds: [{self.recipe.seed}] for one seed"
            yield self._at(("seed",), "seed and seeds exclude each other", key=True, hint=hint)
        if len(set(seeds)) < len(seeds):
            yield self._at(("seeds",), "each seed may occur once: a second run of it would find the same")

    def _names(self) -> Iterator[Problem]:
        kinds = {"adapters": "adapter", "heads": "head", "fusions": "fusion", "data": "task"}
        for section, what in kinds.items():
            for name in getattr(self.recipe, section):
                if problem := name_problem(name, what):
                    yield self._at((section, name), problem.what, key=True, why=problem.why)

    def _options(self) -> Iterator[Problem]:
        for name, adapter in self.recipe.adapters.items():
            if adapter.method is None:
                continue
            try:
                make_config(adapter.method, **adapter.options)
            except ComposeError as error:
                yield from self._options_of(("adapters", name), "method", adapter.options, error)
        for name, head in self.recipe.heads.items():
            if head.kind is None:
                continue
            options = dict(head.options) if head.labels is None else {**head.options, "labels": head.labels}
            try:
                make_head_config(head.kind, **options)
            except ComposeError as error:
                yield from self._options_of(("heads", name), "kind", options, error)
        for name, fusion in self.recipe.fusions.items():
            if fusion.expression is None:
                continue
            path: KeyPath = ("fusions", name)
            try:
                make_fusion_config(fusion.kind, **fusion.options)
            except ComposeError as error:
                yield from self._options_of(path, "kind", fusion.options, error)
            try:
                block = fusion_block(name, fusion.expression)
            except ComposeError as error:
                yield from self.expressions.in_text((*path, "expression"), fusion.expression, error)
                continue
            yield from self.expressions.adapters(block, (*path, "expression"), fusion.expression)

    def _pruning(self) -> Iterator[Problem]:
        for name, adapter in self.recipe.adapters.items():
            path: KeyPath = ("adapters", name)
            if adapter.pruning != "snip":
                if adapter.pruning_examples is not None:
                    what = f"pruning_examples has no meaning with pruning: {adapter.pruning}"
                    yield self._at((*path, "pruning_examples"), what, key=True, hint="pruning: snip")
                continue
            if not adapter.sparsity:
                what = "pruning: snip without sparsity prunes nothing"
                yield self._at((*path, "pruning"), what, hint="sparsity: 0.75")
            if snip_stage(self.recipe, name) is None:
                what = f"no stage has the adapter '{name}', so there is no loss that snip could weigh its weights by"
                yield self._at((*path, "pruning"), what, hint="pruning: magnitude")

    def _options_of(
        self, path: KeyPath, kind: str, options: Mapping[str, Any], error: ComposeError
    ) -> Iterator[Problem]:
        """The problems of a config, each at the option that it names."""
        for problem in error.problems:
            words = re.findall(r"\w+", f"{problem.got} {problem.where} {problem.what}")
            key = next((word for word in words if word in options), None)
            where = self.document.place((*path, key or kind), key=problem.got == key)
            what = f"{dotted(path)}: {problem.what}"
            yield where.problem(what, why=problem.why, hint=problem.hint, got=problem.got, legal=problem.legal)

    def _stages(self) -> Iterator[Problem]:
        names = [stage.name for stage in self.recipe.train if stage.name]
        for index, stage in enumerate(self.recipe.train):
            path: KeyPath = ("train", index)
            if stage.name and names.count(stage.name) > 1 and names.index(stage.name) < index:
                yield self._at((*path, "name"), f"two stages are called '{stage.name}'")
            expression, problems = self.expressions.read((*path, "expression"), stage.expression)
            yield from problems
            if not problems:
                yield from self._stage(stage, path, expression)

    def _stage(self, stage: Stage, path: KeyPath, expression: Expression) -> Iterator[Problem]:
        at = self.document.place((*path, "regime")) if "regime" in stage.model_fields_set else None
        at = at or self.document.place((*path, "expression"))
        if stage.regime == "fusion" and not fuses(expression):
            yield at.problem("the expression has no Fuse, so there is no fusion to train")
        if stage.regime in TRAINS_ADAPTERS and not leaves(expression):
            yield at.problem("the expression has no adapter to train", hint="regime: heads")
        tasks = [task for task in tasks_of(expression) if task]
        weights = stage.class_weights if isinstance(stage.class_weights, dict) else {}
        for key, named in (("data", stage.data), ("loss_weights", stage.loss_weights), ("class_weights", weights)):
            for task in named:
                if task not in tasks:
                    what = f"the expression has no task '{task}'"
                    yield self._at((*path, key, task), what, key=True, got=task, legal=tuple(tasks))
        if stage.adapters and stage.regime not in TRAINS_ADAPTERS:
            what = f"adapters has no meaning with regime: {stage.regime}, which trains none"
            yield self._at((*path, "adapters"), what, key=True)
        if stage.last != 1 and stage.regime != "last_layers":
            what = f"last has no meaning with regime: {stage.regime}"
            yield self._at((*path, "last"), what, key=True, hint="regime: last_layers")
        for number, name in enumerate(stage.adapters):
            if name not in leaves(expression):
                what = f"the expression has no adapter '{name}'"
                yield self._at((*path, "adapters", number), what, got=name, legal=tuple(leaves(expression)))
        for task in tasks if stage.early_stopping is not None else ():
            source = self.recipe.data.get(stage.data.get(task, task))
            if source is not None and source.validation is None:
                what = f"early_stopping needs a validation part, which the data of task '{task}' lack"
                hint = f"data.{stage.data.get(task, task)}.validation: 0.1"
                yield self._at((*path, "early_stopping"), what, key=True, hint=hint)
        for task in tasks if stage.trunk_cache else ():
            head = self.recipe.heads.get(task)
            if head is not None and head.kind == "masked_lm":
                what = f"trunk_cache cannot serve the {head.kind} head '{task}'"
                why = "its texts are masked anew at each step, so that nothing that was kept would be read again"
                yield self._at((*path, "trunk_cache"), what, key=True, why=why)
        chosen = {task: (source,) for task, source in stage.data.items()}
        yield from self._data(tasks, chosen, (*path, "data"), (*path, "expression"), "train")

    def _data(
        self, tasks: Sequence[str], chosen: Mapping[str, Sequence[str]], path: KeyPath, at: KeyPath, part: str
    ) -> Iterator[Problem]:
        """Whether every task has data, and of the kind that its head needs; `path` is where they are chosen."""
        for task in tasks:
            where = (*path, task) if path and task in chosen else at
            for name in chosen.get(task, (task,)):
                yield from self._source(task, name, where, part, "" if task in chosen else dotted(path))

    def _source(self, task: str, name: str, where: KeyPath, part: str, choose: str) -> Iterator[Problem]:
        """Whether a source is what a task's head needs; `choose` is the key that could name another."""
        source = self.recipe.data.get(name)
        if source is None:
            hint = f"{choose}: {{{task}: SOURCE}}" if choose else ""
            what = f"task '{task}' has no data: there is no source '{name}'"
            yield self._at(where, what, got=name, legal=tuple(self.recipe.data), hint=hint)
            return
        head = self.recipe.heads.get(task)
        if head is not None and head.kind and (why := fit_problem(head, name, source)):
            yield self._at(where, f"the {head.kind} head '{task}' {why}")
        elif head is not None and (lacking := lacking_labels(head, source, self.folder)):
            what = f"data.{name} has the label '{lacking[0]}', which the head '{task}' lacks"
            yield self._at(("heads", task, "labels"), what, got=lacking[0], legal=own_labels(head))
        elif head is not None and lacks_answers(head, source, self.folder):
            what = f"data.{name} has questions without an answer, but the head '{task}' always answers"
            yield self._at(("heads", task), what, key=True, hint="unanswerable: true")
        if part == "test" and not has_test(source):
            yield self._at(where, f"data.{name} has no test part to score task '{task}' on")

    def _predict(self) -> Iterator[Problem]:
        if self.recipe.predict is None:
            return
        path: KeyPath = ("predict", "expression")
        expression, problems = self.expressions.read(path, self.recipe.predict.expression)
        yield from problems
        if problems:
            return
        tasks = [task for task in tasks_of(expression) if task]
        if self.recipe.predict.compare is not None and not (self.recipe.predict.texts or self.recipe.predict.examples):
            what = "predict.compare has nothing to answer, so that no pass can be timed"
            yield self._at(("predict", "compare"), what, key=True, hint="predict.examples: 10")
        if self.recipe.predict.examples is not None:
            chosen = self.recipe.evaluate.data
            yield from self._data(tasks[:1], chosen, ("evaluate", "data"), ("predict", "examples"), "test")
        for task in tasks if self.recipe.predict.texts else ():
            source = self.recipe.data.get(task)
            read = OTHER_INPUTS.get(columns_of(source).kind) if source is not None else None
            if read is not None:
                hint = "predict.examples" if read == "images" else ""
                yield self._at(path, f"task '{task}' reads {read}, but predict.texts are single texts", hint=hint)
