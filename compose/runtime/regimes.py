"""What is trained: regimes set which weights ask for gradients, and say how many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from torch import nn

from compose.dsl import Expression, branches, fuses, leaves, outputs, own_name
from compose.errors import ConfigError, Problem

if TYPE_CHECKING:
    from compose.runtime.model import Model

Regime = Literal["adapters", "fusion", "heads", "last_layers", "full", "full+adapters"]

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


def train_only(model: Model, expression: Expression, regime: Regime, last: int, train_layer_norms: bool) -> Trainable:
    """Sets what is trained.

    Raises:
        ConfigError: if the regime is unknown, or there is nothing that it could train.
        CompileError: if the expression has no meaning.
    """
    _check(model, expression, regime, last)
    model.plan(expression)
    model.requires_grad_(False)
    parts: dict[str, int] = {}
    seen: set[int] = set()

    def train(what: str, module: nn.Module) -> None:
        fresh = [p for p in module.parameters() if id(p) not in seen]
        seen.update(id(p) for p in fresh)
        for parameter in fresh:
            parameter.requires_grad_(True)
        if fresh:
            parts[what] = sum(p.numel() for p in fresh)

    if regime in ("adapters", "full+adapters"):
        for name in leaves(expression):
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
    return Trainable(regime, parts, sum(p.numel() for p in model.parameters()))


def heads_of(expression: Expression) -> tuple[str, ...]:
    """The names of the heads that an expression's outputs want."""
    found = [output.head for branch in branches(expression) for output in outputs(branch)]
    return tuple(dict.fromkeys(name for name in found if name is not None))


def _check(model: Model, expression: Expression, regime: str, last: int) -> None:
    problems = []
    if regime not in get_args(Regime):
        problems.append(Problem(f"there is no regime '{regime}'", got=str(regime), legal=get_args(Regime)))
    elif regime == "fusion" and not fuses(expression):
        problems.append(Problem("the expression has no Fuse, so there is no fusion to train"))
    elif regime in ("adapters", "full+adapters") and not leaves(expression):
        problems.append(Problem("the expression has no adapter to train"))
    count = len(model.spec.layers)
    if regime == "last_layers" and not (isinstance(last, int) and 1 <= last <= count):
        problems.append(Problem(f"last={last!r} is out of range", why=f"the backbone has {count} layers"))
    if problems:
        raise ConfigError(problems)
