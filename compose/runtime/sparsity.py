"""Sparse adapters: pruning single weights, and pruning whole neurons of bottlenecks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from compose.dsl import Expression
from compose.errors import ConfigError, Problem
from compose.methods.adapter import Adapter
from compose.methods.bottleneck import neurons
from compose.methods.config import SEED, is_number
from compose.methods.registry import make_config
from compose.methods.sparse import Kind, largest, scores_of
from compose.runtime.gradients import Data, gradients_of
from compose.runtime.merge import check_apart
from compose.specs import EMBED

if TYPE_CHECKING:
    from compose.runtime.model import Model


@dataclass(frozen=True)
class Pruned:
    """What was pruned; prints well.

    Args:
        name: the adapter's name.
        what: `weights` or `neurons`.
        kind: what decided.
        kept: how many are left.
        total: how many there were at first.
    """

    name: str
    what: str
    kind: str
    kept: int
    total: int

    @property
    def sparsity(self) -> float:
        """The share that is gone."""
        return 1 - self.kept / self.total

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.kept:,} of {self.total:,} {self.what} kept, {self.sparsity:.1%} pruned ({self.kind})"
        )


def sparsify(
    model: Model,
    name: str,
    sparsity: float = 0.75,
    kind: Kind = "magnitude",
    data: Data | None = None,
    expression: Expression = None,
    seed: int | None = None,
) -> Pruned:
    """Prunes single weights of an adapter, before or after training; they are zero from now on and stay so.

    All weights of the adapter's matrices compete, of whatever site; biases, norms and scalings are all kept. What
    was pruned before stays pruned. `SparseAdapter` (He et al., 2022).

    Args:
        model: the model.
        name: the adapter's name.
        sparsity: which share of the weights of its matrices is to be zero, from 0 to below 1.
        kind: keep the largest (`magnitude`), those that matter most for the loss (`snip`), or any (`random`).
        data: for `snip`, batches with labels: inputs by name, and `labels` as plans take them.
        expression: for `snip`, in which plan the loss is taken; by default the adapter alone, with the head of
            its name.
        seed: of `random`.

    Returns:
        How many weights are kept.

    Raises:
        RegistryError: if there is no such adapter, or it is merged into the backbone's weights.
        ConfigError: if an option is out of range, the adapter has no matrices or shares them with another one, or by
            `magnitude` and `snip` there is nothing to tell its weights apart by.
        InputError: if data is no batches with labels.
    """
    adapter = _adapter(model, name, sparsity, seed)
    weights = {key: weight for key, weight in adapter.weights().items() if weight.dim() > 1}
    if not weights:
        raise ConfigError(
            f"the adapter {name!r} has no matrices that could be pruned", why=f"{adapter.config.method} has none"
        )
    total = sum(weight.numel() for weight in weights.values())
    count = total - round(sparsity * total)
    before = adapter.masks.by_name()
    left = total - sum(int((~mask).sum()) for mask in before.values())
    if not count:
        raise ConfigError(
            f"sparsity={sparsity} leaves none of the {total:,} weights of {name!r}",
            hint=f"sparsity={(total - 1) / total:.6g} at most",
        )
    if left < count:
        raise ConfigError(f"sparsity={sparsity}, but the adapter {name!r} is {1 - left / total:.1%} sparse already")
    adapter.masks.enforce()
    if kind == "magnitude" and sparsity:
        _check_sizes(name, weights, before)
    scores = scores_of(kind, weights, _gradients(model, adapter, data, expression), seed)
    gone = {key: score.masked_fill(~before[key], -1.0) if key in before else score for key, score in scores.items()}
    adapter.mask(largest(gone, count))
    return Pruned(name, "weights", kind, count, total)


def prune_neurons(
    model: Model,
    name: str,
    sparsity: float = 0.75,
    kind: Kind = "magnitude",
    data: Data | None = None,
    expression: Expression = None,
    seed: int | None = None,
) -> Pruned:
    """Prunes whole neurons of a bottleneck adapter: rows of its down-projections, columns of its up-projections.

    The neurons of all sites compete; one is left at each site at least. The adapter's matrices are smaller
    afterwards, and so are its files and its cost. Its weights are new parameters: make the optimizer after this.

    Args:
        model, name, kind, data, expression, seed: as for `sparsify`; a neuron matters as much as its weights do
            together.
        sparsity: which share of all its neurons goes.

    Returns:
        How many neurons are kept.

    Raises:
        RegistryError: if there is no such adapter.
        ConfigError: if an option is out of range, the adapter is no plain bottleneck, or too few neurons would be
            left for one at each site.
    """
    adapter = _adapter(model, name, sparsity, seed)
    parts = {f"{part.layer}.{part.site}": part for part in adapter.spec.parts if part.site != EMBED}
    if adapter.config.method != "bottleneck" or not parts:
        raise ConfigError(
            f"the adapter {name!r} has no neurons that could be pruned",
            why=f"it is a {adapter.config.method}; rows and columns of a bottleneck in the layers can go",
            hint=f"sparsify(model, {name!r}, ...)",
        )
    total = sum(part.rank for part in parts.values())
    count, sites = total - round(sparsity * total), len(parts)
    if count < sites:
        raise ConfigError(
            f"sparsity={sparsity} leaves {count} of {total} neurons, but there are {sites} sites",
            why="each needs one",
            hint=f"sparsity={(total - sites) / total:.3g} at most, or leave_out in the adapter's options",
        )
    adapter.masks.enforce()
    scores = scores_of(kind, adapter.weights(), _gradients(model, adapter, data, expression), seed)
    keep = neurons.chosen(neurons.of_neurons(scores, parts), count)
    config = make_config(adapter.config, bottleneck_sizes={site: len(left) for site, left in keep.items()})
    smaller = Adapter(name, config, model.spec).to(device=model.device, dtype=model.adapter_dtype)
    smaller.load_tensors(neurons.kept(adapter.tensors(), keep))
    if adapter.masks:
        smaller.mask(neurons.kept(adapter.masks.by_name(), keep))
    trained = {key: weight.requires_grad for key, weight in adapter.weights().items()}
    for key, weight in smaller.weights().items():
        weight.requires_grad_(trained[key])
    smaller.train(adapter.training)
    model.adapters.replace(name, smaller, smaller.spec)
    model.version += 1
    return Pruned(name, "neurons", kind, count, total)


def _adapter(model: Model, name: str, sparsity: object, seed: object) -> Adapter:
    """The adapter that is to be pruned.

    Raises:
        RegistryError: there is none of that name, or it is merged into the backbone's weights.
        ConfigError: an option is out of range, or it shares weights with another adapter.
    """
    adapter: Adapter = model.adapters[name]
    check_apart(model, name)
    problems = []
    if not is_number(sparsity) or not 0 <= sparsity < 1:
        problems.append(Problem(f"sparsity must be a number from 0 to below 1, not {sparsity!r}"))
    if not SEED.accepts(seed):
        problems.append(Problem(f"seed must be {SEED.expected}, not {seed!r}"))
    own = {id(weight) for weight in adapter.parameters()}
    for _, other in model.adapters.items():
        if other is not adapter and not own.isdisjoint(map(id, other.parameters())):
            what = f"the adapter {name!r} shares weights with {other.name!r}, which would be pruned too"
            problems.append(Problem(what, hint=f"unshare_factors(model, {name!r})"))
    if problems:
        raise ConfigError(problems)
    return adapter


def _check_sizes(name: str, weights: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> None:
    """Refuse an adapter with a matrix that is zero by its start: it would go first, and never learn anything."""
    for key, weight in weights.items():
        if not weight.any() and (key not in before or before[key].any()):
            raise ConfigError(
                f"by 'magnitude' all of '{key}' would go first, and the adapter {name!r} could learn no more",
                why="it is zero, as a factor of a LoRA that was never trained",
                hint="kind='random' (in a recipe pruning: random), or train it first",
            )


def _gradients(
    model: Model, adapter: Adapter, data: Data | None, expression: Expression
) -> Callable[[], dict[str, Tensor]] | None:
    """Gives the gradient of the loss over some batches, by weight; None without data."""
    return None if data is None else partial(gradients_of, model, adapter, data, expression)
