"""Adapters multiplied into the backbone's own weights, and these brought back bit for bit.

A merged adapter costs nothing. While it is merged, every expression means what it meant before: those that begin
with it run without its parts, since the backbone computes them, and all others are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from compose.dsl import Expression, Stack, branches, leaves, to_text
from compose.errors import BackboneError, CompileError, ConfigError, InputError, Problem, RegistryError
from compose.graph.sites import Vocabulary
from compose.methods.linear.module import LinearPart, Weights
from compose.methods.linear_map import LinearMap
from compose.methods.part import Part
from compose.methods.union.module import PartsInTurn
from compose.runtime.fresh import linear_maps
from compose.runtime.hooks import hooks_on
from compose.runtime.merged import UNMERGE
from compose.specs import AdapterSpec

if TYPE_CHECKING:
    from compose.methods.adapter import Adapter
    from compose.runtime.model import Model


class Merging:
    """What `model.merge` gives: used as a context manager, it undoes the merge at the end."""

    def __init__(self, model: Model, names: Sequence[str]) -> None:
        self.model = model
        self.names = tuple(names)

    def __enter__(self) -> Model:
        return self.model

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        unmerge(self.model, self.names)


def merge(model: Model, names: Sequence[str]) -> Merging:
    """Multiplies adapters into the backbone's weights, one after the other, after those merged before.

    The weights that change are kept beside the new ones until `unmerge`. No call may run meanwhile. What an adapter
    learns after it was merged shows when it is merged again.

    Args:
        model: the model.
        names: adapters whose parts are linear in what they read: LoRA and its relatives, IA3, unions of them.

    Raises:
        RegistryError: an adapter is unknown, or merged already.
        ConfigError: one has no place in a weight, as a bottleneck or a gate.
        BackboneError: weights are stored in fewer bits, or another model is attached to the backbone.
    """
    merged = model.hooks.merged
    model.adapters.require(*names)
    twice = [name for index, name in enumerate(names) if name in merged.specs or name in names[:index]]
    if twice:
        raise RegistryError([Problem(f"the adapter '{name}' is merged already", hint=UNMERGE) for name in twice])
    _check_backbone(model)
    every = (*merged.names, *names)
    adapters = {name: model.adapters[name] for name in every}
    problems = [problem for adapter in adapters.values() for problem in _unmergeable(adapter)]
    if problems:
        raise ConfigError(problems)
    maps = linear_maps(model)
    packed = _packed(adapters.values(), maps)
    if packed:
        raise BackboneError(packed)
    merged.restore()
    _fold(model, adapters, maps)
    return Merging(model, names)


def unmerge(model: Model, names: Sequence[str] = ()) -> None:
    """Brings back the weights as they were before adapters were merged; what stays merged is merged anew.

    Args:
        model: the model.
        names: the adapters; all by default.

    Raises:
        RegistryError: one of them is not merged.
    """
    merged = model.hooks.merged
    unknown = [name for name in names if name not in merged.specs]
    if unknown:
        raise RegistryError(
            [Problem(f"the adapter '{name}' is not merged", got=name, legal=merged.names) for name in unknown]
        )
    left = {name: model.adapters[name] for name in merged.names if names and name not in names}
    merged.restore()
    _fold(model, left, linear_maps(model))


def vocabulary_of(model: Model) -> Vocabulary:
    """What names stand for while adapters are merged: these act nowhere, since the backbone does it."""
    vocabulary = model.vocabulary
    names = model.hooks.merged.names
    if not names:
        return vocabulary
    specs = {name: replace(spec, parts=()) if name in names else spec for name, spec in vocabulary.adapters.items()}
    return Vocabulary(vocabulary.backbone, specs, vocabulary.fusions)


def check_expression(model: Model, expression: Expression) -> None:
    """Checks that an expression means the same over the merged weights.

    Raises:
        CompileError: in one of its branches a merged adapter does not act, or not before others at its maps.
    """
    merged = model.hooks.merged
    if not merged.specs:
        return
    problems = []
    for branch in branches(expression):
        why = _not_first(branch.expression, merged.specs, model.adapters.specs)
        if why:
            named = ", ".join(f"'{name}'" for name in merged.names)
            what = f"{named} merged into the backbone's weights: {to_text(branch.expression)} would not be what it says"
            problems.append(Problem(what, why=why, hint=UNMERGE))
    if problems:
        raise CompileError(problems)


def check_mode(model: Model) -> None:
    """Checks that a call computes what it would with its adapters apart.

    Raises:
        InputError: the model is in training mode, and a merged adapter has dropout.
    """
    dropout = model.hooks.merged.dropout
    if dropout and model.training:
        raise InputError(
            f"the adapter '{dropout[0]}' has dropout and is merged: in training it would have none", hint=UNMERGE
        )


def check_apart(model: Model, name: str) -> None:
    """Checks that an adapter is not in the backbone's weights.

    Raises:
        RegistryError: it is merged.
    """
    if name in model.hooks.merged.specs:
        raise RegistryError(f"the adapter '{name}' is merged into the backbone's weights", hint=UNMERGE)


def original_parameters(model: Model) -> Iterator[tuple[str, Tensor]]:
    """The backbone's parameters by name, with the values that they had before adapters were merged."""
    kept: dict[int, Tensor] = {
        id(getattr(module, name)): values for module, name, values in model.hooks.merged.originals
    }
    for name, parameter in model.backbone.named_parameters():
        yield name, kept.get(id(parameter), parameter)


def _check_backbone(model: Model) -> None:
    if any(hooks is not model.hooks for hooks in hooks_on(model.backbone)):
        raise BackboneError(
            "another model is attached to this backbone",
            why="what it computes would change with the weights",
            hint="merge into a backbone of its own",
        )
    if any(parameter.requires_grad for parameter in model.backbone.parameters()):
        raise BackboneError("the backbone is being trained", hint="model.train_only(...) of something else")


def _unmergeable(adapter: Adapter) -> Iterator[Problem]:
    parts = _parts(adapter)
    what = f"the adapter '{adapter.name}' cannot be merged"
    linear = [part for part in parts if isinstance(part, LinearPart)]
    if len(linear) < len(parts):
        yield Problem(what, why=f"{adapter.config.method} is no linear map of what it reads", hint="a plan with it")
    elif any(part.config.use_gating for part in linear):
        yield Problem(what, why="its gate depends on the input, and a weight does not")


def _parts(adapter: Adapter) -> list[Part]:
    return [part for acting in adapter.spec.parts for part in _parts_at(adapter, (acting.layer, acting.site))]


def _parts_at(adapter: Adapter, key: tuple[int, str]) -> list[Part]:
    """Its parts at a site, in the order in which they act: a union may have several."""
    part = adapter.part(*key)
    return [cast(Part, each) for each in part.parts] if isinstance(part, PartsInTurn) else [part]


def _drops(adapter: Adapter) -> bool:
    """Whether it has dropout."""
    return any(isinstance(part, LinearPart) and getattr(part.config, "dropout", 0.0) > 0 for part in _parts(adapter))


def _packed(adapters: Any, maps: dict[tuple[int, str], LinearMap]) -> list[Problem]:
    places = {(part.layer, part.site): None for adapter in adapters for part in adapter.spec.parts}
    return [
        Problem(f"the weight of layer {layer}, {site} is stored in fewer bits than a number has")
        for layer, site in places
        if not maps[layer, site].is_plain
    ]


@torch.no_grad()
def _fold(model: Model, adapters: dict[str, Adapter], maps: dict[tuple[int, str], LinearMap]) -> None:
    """Folds adapters into weights that nothing is merged into."""
    merged = model.hooks.merged
    dtype = model.adapter_dtype

    def in_dtype(weights: Weights) -> Weights:
        return Weights(weights.weight.to(dtype), None if weights.bias is None else weights.bias.to(dtype))

    folded: dict[tuple[int, str], Weights] = {}
    for adapter in adapters.values():
        adapter.masks.enforce()
        for acting in adapter.spec.parts:
            key = (acting.layer, acting.site)
            merged.keep(maps[key].module)
            base = in_dtype(merged.before(maps[key]))
            for part in _parts_at(adapter, key):
                assert isinstance(part, LinearPart)
                folded[key] = part.folded(folded.get(key, base), base)
    for key, weights in folded.items():
        maps[key].weight.copy_(weights.weight)
        bias = maps[key].bias
        if bias is not None and weights.bias is not None:
            bias.copy_(weights.bias)
    merged.specs = {name: adapter.spec for name, adapter in adapters.items()}
    merged.dropout = tuple(name for name, adapter in adapters.items() if _drops(adapter))
    model.version += 1


def _not_first(expression: Expression, merged: dict[str, AdapterSpec], specs: dict[str, AdapterSpec]) -> str:
    """Why merged adapters would not act in an expression as they do in the weights; empty if they do."""
    children = list(_flat(expression))
    every = [name for child in children for name in leaves(child)]
    for name, spec in merged.items():
        if children.count(name) != 1 or _count(expression, name) != 1:
            return f"'{name}' does not act once, on all rows and layers"
        before = [other for child in children[: children.index(name)] for other in leaves(child)]
        allowed = set(merged) - set(list(merged)[list(merged).index(name) :])
        for other in before:
            if other not in allowed and set(specs[other].by_site) & set(spec.by_site):
                return f"'{other}' acts before '{name}' at the same maps"
        for other in every:
            if other not in merged and _reads(specs[other], spec):
                return f"'{other}' reads the backbone's own weights at the maps of '{name}'"
    return ""


def _count(expression: Expression, name: str) -> int:
    """How often an adapter stands in an expression."""
    if isinstance(expression, str):
        return int(expression == name)
    return sum(_count(child, name) for child in getattr(expression, "children", ()))


def _flat(expression: Expression) -> Iterator[Expression]:
    if isinstance(expression, Stack):
        for child in expression.children:
            yield from _flat(child)
    else:
        yield expression


def _reads(spec: AdapterSpec, merged: AdapterSpec) -> bool:
    return any(part.reads_weights and (part.layer, part.site) in merged.by_site for part in spec.parts)
