"""What is trained: regimes set which weights ask for gradients, and say how many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from torch import nn

from compose.dsl import Expression, branches, fuses, leaves, outputs, own_name
from compose.errors import ConfigError, Problem
from compose.runtime.merged import require_unmerged
from compose.runtime.precision import precision_of

if TYPE_CHECKING:
    from compose.runtime.model import Model

Regime = Literal["adapters", "fusion", "heads", "last_layers", "full", "full+adapters"]

ADAPTERS = ("adapters", "full+adapters")
"""Regimes that train the expression's adapters."""

BACKBONE = ("last_layers", "full", "full+adapters")
"""Regimes that train weights of the backbone."""

NORMS = ("LayerNorm", "RMSNorm")


@dataclass(frozen=True)
class Trainable:
    """What a regime trains.

    Args:
        parts: number of trained parameters by what they belong to (`adapter nli`, `head nli`, `layer 5`).
        total: all of the model's parameters.
    """

    regime: str
    parts: dict[str, int]
    total: int

    @property
    def count(self) -> int:
        """How many parameters are trained."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        share = 100 * self.count / self.total if self.total else 0.0
        lines = [f"{self.regime}: {self.count:,} of {self.total:,} parameters are trained ({share:.2f}%)"]
        width = max((len(name) for name in self.parts), default=0)
        lines += [f"  {name.ljust(width)}  {count:>12,}" for name, count in self.parts.items()]
        return "\n".join(lines)


def train_only(
    model: Model,
    expression: Expression,
    regime: Regime,
    last: int,
    train_layer_norms: bool,
    adapters: Sequence[str] | None = None,
) -> Trainable:
    """Sets what is trained.

    Raises:
        ConfigError: if the regime is unknown, there is nothing that it could train, `adapters` are not the
            expression's, or it trains the backbone's own weights in a type that is too coarse.
        CompileError: if the expression has no meaning.
    """
    check_regime(model, expression, regime, last, adapters)
    if regime not in ("heads", "fusion"):
        require_unmerged([model.hooks], "what is trained would not be what is run")
    if regime in BACKBONE or train_layer_norms:
        _check_precision(model, regime if regime in BACKBONE else "train_layer_norms")
    model.plan(expression)
    chosen: dict[str, list[nn.Parameter]] = {}
    seen: set[int] = set()

    def train(what: str, module: nn.Module) -> None:
        fresh = [p for p in module.parameters() if id(p) not in seen]
        seen.update(id(p) for p in fresh)
        if fresh:
            chosen[what] = fresh

    if regime in ADAPTERS:
        for name in leaves(expression):
            if adapters is None or name in adapters:
                train(f"adapter {name}", model.adapters[name])
    if regime == "fusion":
        for fuse in fuses(expression):
            train(f"fusion {own_name(fuse)}", model.fusions[own_name(fuse) or ""])
    if regime in ("full", "full+adapters"):
        train("backbone", model.backbone)
    if regime == "last_layers":
        for layer in model.hooks.anatomy.layers[-last:]:
            train(f"layer {layer.index}", layer.layer)
    for name in heads_of(expression):
        if name in model.heads:
            train(f"head {name}", model.heads[name])
    if train_layer_norms:
        norms = [m for m in model.backbone.modules() if type(m).__name__.endswith(NORMS)]
        train("layer norms", nn.ModuleList(norms))
    if not chosen:
        raise ConfigError([_nothing(model, expression, regime)])
    model.requires_grad_(False)
    for parameters in chosen.values():
        for parameter in parameters:
            parameter.requires_grad_(True)
    parts = {what: sum(p.numel() for p in parameters) for what, parameters in chosen.items()}
    return Trainable(regime, parts, sum(p.numel() for p in model.parameters()))


def _check_precision(model: Model, what: str) -> None:
    """ConfigError: the backbone's own weights would be trained, in too coarse a type."""
    dtype = next(model.backbone.parameters()).dtype
    if dtype.itemsize < 4:
        name = precision_of(dtype)
        raise ConfigError(
            f"{what} trains weights of the backbone, which {name} is too coarse for",
            why=f"a step of AdamW is smaller than what {name} can tell apart",
            hint="a backbone in float32",
        )


def heads_of(expression: Expression) -> tuple[str, ...]:
    """The names of the heads that an expression's outputs want."""
    found = [output.head for branch in branches(expression) for output in outputs(branch)]
    return tuple(dict.fromkeys(name for name in found if name is not None))


def _nothing(model: Model, expression: Expression, regime: str) -> Problem:
    """Why a regime would train nothing."""
    missing = [name for name in heads_of(expression) if name not in model.heads]
    what = f"the regime '{regime}' would train nothing"
    if missing:
        named = ", ".join(f"'{name}'" for name in missing)
        why = f"there is no head {named}" if len(missing) == 1 else f"there are no heads {named}"
        hint = f"model.add_head({missing[0]!r}, 'classification', labels=...)"
        return Problem(what, why=why, got=missing[0], legal=model.heads.names, hint=hint)
    return Problem(
        what,
        why="no output of the expression has a name, and so a head" if regime == "heads" else "it has no weights",
        hint="give its branch a name: Parallel(task=...)" if regime == "heads" else "",
    )


def check_regime(
    model: Model, expression: Expression, regime: str, last: int, adapters: Sequence[str] | None = None
) -> None:
    """Checks what a regime needs of an expression and of the backbone.

    Raises:
        ConfigError: with every problem found.
    """
    problems = []
    if regime not in get_args(Regime):
        problems.append(Problem(f"there is no regime '{regime}'", got=str(regime), legal=get_args(Regime)))
    elif regime == "fusion" and not fuses(expression):
        problems.append(Problem("the expression has no Fuse, so there is no fusion to train"))
    elif regime in ADAPTERS and not leaves(expression):
        problems.append(Problem("the expression has no adapter to train"))
    elif adapters is not None and regime not in ADAPTERS:
        problems.append(Problem(f"the regime '{regime}' trains no adapters, so that none can be chosen"))
    else:
        own = tuple(leaves(expression))
        missing = [name for name in adapters or () if name not in own]
        what = "the expression has no adapter '{}'"
        problems += [Problem(what.format(name), got=name, legal=own) for name in missing]
    count = len(model.spec.layers)
    if regime == "last_layers" and not (isinstance(last, int) and 1 <= last <= count):
        problems.append(Problem(f"last={last!r} is out of range", why=f"the backbone has {count} layers"))
    if problems:
        raise ConfigError(problems)
