"""Sparse adapters: which weights are kept, and how much each one matters.

After Shwai He, Liang Ding, Daize Dong, Miao Zhang and Dacheng Tao, "SparseAdapter: An Easy Approach for Improving the
Parameter-Efficiency of Adapters", Findings of EMNLP 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from compose.errors import ConfigError, FileError, Problem
from compose.methods.tensors import SITE_MARK
from compose.methods.watched import Gradients, gradients_of, hook

Kind = Literal["magnitude", "snip", "random"]
"""What decides which weights are kept: the largest, those whose removal would change the loss most, or chance."""

KINDS: tuple[str, ...] = get_args(Kind)


class _Watched:
    """Which weights pass their gradients on masked, and when each was last zeroed; a copy has yet to begin."""

    def __init__(self) -> None:
        self.zeroed: dict[str, tuple[int, int]] = {}
        """A weight's version, and the gradients that it had got by then."""
        self.gradients: dict[str, Gradients | None] = {}

    def __deepcopy__(self, memo: dict[int, object]) -> _Watched:
        return _Watched()

    def __reduce__(self) -> tuple[type[_Watched], tuple[()]]:
        return (_Watched, ())


class Masks(nn.Module):
    """Which weights of an adapter are kept. The others are zero.

    They get no gradient, so that optimizers leave them alone. Those that move a weight without one, by momentum from
    before it was masked, are corrected when the adapter runs next, or is saved.
    """

    def __init__(self) -> None:
        super().__init__()
        self._weights: dict[str, nn.Parameter] = {}
        self._watched = _Watched()

    def __bool__(self) -> bool:
        return bool(self._weights)

    def hold(self, masks: Mapping[str, Tensor], weights: Mapping[str, nn.Parameter], what: str) -> None:
        """Take masks in place of those that there are; nothing is changed if one does not fit.

        Args:
            masks: true where a weight is kept, by the weight's name and of its shape.
            weights: the weights that there are, by name.
            what: whose they are, for the error.

        Raises:
            FileError: naming every mask without its weight.
        """
        problems = [
            Problem(f"{what} has no weight {name!r} to mask", where=name, got=name, legal=tuple(weights))
            if name not in weights
            else Problem(f"a mask of shape {tuple(mask.shape)} for {tuple(weights[name].shape)}", where=name)
            for name, mask in masks.items()
            if name not in weights or mask.shape != weights[name].shape
        ]
        if problems:
            raise FileError(problems)
        for name in list(self._buffers):
            del self._buffers[name]
        self._weights = {name: weights[name] for name in masks}
        for name, mask in masks.items():
            self.register_buffer(_key(name), mask.to(weights[name].device, torch.bool).clone())
        self._watched.zeroed.clear()
        self.enforce()

    def by_name(self) -> dict[str, Tensor]:
        """The masks by the names of their weights."""
        return {name: self._mask(name) for name in self._weights}

    def sparsity(self) -> float:
        """The share of zeros among all weights that have a mask."""
        masks = self.by_name().values()
        total = sum(mask.numel() for mask in masks)
        return 1 - sum(int(mask.sum()) for mask in masks) / total if total else 0.0

    def enforce(self) -> None:
        """Zero what is masked, if a weight was written to since; what costs anything happens only then."""
        if torch.compiler.is_compiling():  # what is compiled reads weights that were written to outside
            return
        for name, weight in self._weights.items():
            if name not in self._watched.gradients:
                self._hook(name, weight)
            gradients, last = self._watched.gradients[name], self._watched.zeroed.get(name, (-1, -1))
            written = weight.is_inference() or weight._version != last[0]
            stepped = gradients is None or weight.grad is not None or gradients.count != last[1]
            if written or stepped:
                with torch.no_grad():
                    # of a step that may not have been, autograd is not told: it may need the weight as it is
                    (weight if written else weight.data).mul_(self._mask(name))
                version = -1 if weight.is_inference() else weight._version
                count = -1 if gradients is None or weight.grad is not None else gradients.count
                self._watched.zeroed[name] = version, count

    def _hook(self, name: str, weight: nn.Parameter) -> None:
        """Masks the weight's gradient, and counts it."""

        def masked(gradient: Tensor) -> Tensor | None:
            return gradient * self._mask(name) if name in self._weights else None

        hook(weight, masked)
        self._watched.gradients[name] = gradients_of(weight)

    def _mask(self, name: str) -> Tensor:
        found: Tensor = self._buffers[_key(name)]  # type: ignore[assignment]
        return found


def _key(name: str) -> str:
    """The name of a weight as that of a buffer."""
    return name.replace(".", SITE_MARK)


def scores_of(
    kind: str,
    weights: Mapping[str, nn.Parameter],
    gradients: Callable[[], Mapping[str, Tensor]] | None,
    seed: int | None = None,
) -> dict[str, Tensor]:
    """How much each weight matters, of the weights' shapes; larger is more.

    Args:
        kind: `magnitude`: |w|; `snip`: |w dL/dw| (Lee et al., 2019); `random`: uniform.
        weights: by name.
        gradients: gives dL/dw by name, for `snip`.
        seed: of `random`; the global generator otherwise.

    Raises:
        ConfigError: for an unknown kind, for `snip` without data, if that finds that nothing matters, or if a score is
            not finite.
    """
    if kind not in KINDS:
        raise ConfigError(f"there is no kind of pruning {kind!r}", got=str(kind), legal=KINDS)
    if kind == "random":
        source = None if seed is None else torch.Generator().manual_seed(seed)
        return {name: torch.rand(w.shape, generator=source).to(w.device) for name, w in weights.items()}
    found: Mapping[str, Tensor] = {}
    if kind == "snip":
        if gradients is None:
            raise ConfigError("'snip' needs data", why="it weighs by the loss's gradient", hint="data=[batch, ...]")
        found = gradients()
    scores = {name: (weight.detach() * found.get(name, 1)).abs() for name, weight in weights.items()}
    broken = [name for name, score in scores.items() if not torch.isfinite(score).all()]
    if broken:
        why = "not all values of the weight, or of the loss's gradient, are finite"
        raise ConfigError(f"'{kind}' cannot weigh '{broken[0]}'", why=why)
    if kind == "snip" and not any(bool(score.any()) for score in scores.values()):
        raise ConfigError(
            "by 'snip' no weight of this adapter matters",
            why="every product of a weight and its gradient is zero, as in a LoRA that was never trained",
            hint="kind='random', or train it first",
        )
    return scores


def largest(scores: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Masks of the `count` largest of all scores."""
    flat = torch.cat([score.flatten() for score in scores.values()])
    mask = torch.zeros(flat.shape, dtype=torch.bool, device=flat.device)
    mask[flat.topk(count).indices] = True
    pieces = mask.split([score.numel() for score in scores.values()])
    return {name: piece.view(score.shape) for (name, score), piece in zip(scores.items(), pieces, strict=True)}
