"""What a plan returns: one `TaskOutput` for each head, together in a `MultiHeadOutput`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor
from transformers.utils.generic import ModelOutput

from compose.errors import InputError, Problem

Key = str | int


@dataclass
class TaskOutput(ModelOutput):
    """One head's output.

    Every field that is not None is a tensor with a key, so that it survives whatever rebuilds a
    model's output from its items (mixed precision, gathering, a trainer's evaluation).

    Args:
        logits: `[rows, ...]`, as the head's kind has it.
        loss: the head's own loss, unweighted; None without labels.
        weight: its weight in the sum of losses; None is 1.
        rows: indices of the batch rows that the logits belong to; None is all of them, in order.
    """

    logits: Tensor | None = None
    loss: Tensor | None = None
    weight: Tensor | None = None
    rows: Tensor | None = None


class MultiHeadOutput(dict[Key, TaskOutput]):
    """The outputs of a plan's heads: a dict of tasks that is also the list of outputs.

    `out["nli"]`, `out[0]`, `out[-1]`, `out[1:]`, `len(out)`; iterating gives the outputs in branch
    order (`nli, tone = out`), while `keys`, `values` and `items` are a dict's. An output without a
    name, or whose name another output has too, has its position for a key. `out.loss` is the
    weighted sum of the losses there are, or None; where it is not None, `out["loss"]` is it too.

    Args:
        outputs: pairs of name and output, in branch order, or a mapping.
        weights: weights of the losses by key, 1 where a key is left out.

    Raises:
        InputError: `weights` has a key that no output has.

    >>> first, second = TaskOutput(logits=torch.ones(1, 2)), TaskOutput(logits=torch.ones(1, 3))
    >>> out = MultiHeadOutput([("nli", first), ("tone", second)])
    >>> out["tone"] is out[1] is out[-1], len(out), list(out.keys()), out.loss, "loss" in out
    (True, 2, ['nli', 'tone'], None, False)
    """

    loss: Tensor | None

    def __init__(
        self,
        outputs: Mapping[Any, TaskOutput] | Iterable[tuple[Any, TaskOutput]] = (),
        weights: Mapping[Any, float] | None = None,
    ) -> None:
        pairs = list(outputs.items() if isinstance(outputs, Mapping) else outputs)
        names = [name for name, _ in pairs]
        self.repeated: dict[str, tuple[int, ...]] = {
            name: tuple(index for index, other in enumerate(names) if other == name)
            for name in names
            if isinstance(name, str) and names.count(name) > 1
        }
        super().__init__()
        for index, (name, output) in enumerate(pairs):
            unique = isinstance(name, str) and name not in self.repeated
            dict.__setitem__(self, name if unique else index, output)
        if weights:
            self._weigh(weights)
        self.loss = total_loss(dict.values(self))

    def _weigh(self, weights: Mapping[Any, float]) -> None:
        unknown = [name for name in weights if name not in dict.keys(self)]
        if unknown:
            legal = tuple(str(key) for key in dict.keys(self))
            raise InputError(
                [Problem(f"no loss to weigh is called {name!r}", got=str(name), legal=legal) for name in unknown]
            )
        for name, weight in weights.items():
            output = dict.__getitem__(self, name)
            if output.loss is not None:
                output.weight = torch.tensor(weight, dtype=output.loss.dtype, device=output.loss.device)

    @overload  # type: ignore[override]
    def __getitem__(self, key: slice) -> list[TaskOutput]: ...
    @overload
    def __getitem__(self, key: int) -> TaskOutput: ...
    @overload
    def __getitem__(self, key: str) -> Any: ...
    def __getitem__(self, key: Key | slice) -> Any:
        """An output by task or position, several by a slice, or the loss by `"loss"`."""
        if isinstance(key, (int, slice)):
            return list(dict.values(self))[key]
        if dict.__contains__(self, key):
            return dict.__getitem__(self, key)
        if key == "loss" and self.loss is not None:
            return self.loss
        raise KeyError(self._why_not(key))

    def _why_not(self, key: object) -> str:
        if key == "loss":
            return "there is no loss, for no labels were given"
        if key in self.repeated:
            places = " and ".join(f"out[{index}]" for index in self.repeated[str(key)])
            return f"{len(self.repeated[str(key)])} outputs are called {key!r}: ask by position, {places}"
        names = ", ".join(repr(name) for name in dict.keys(self))
        return f"no output is called {key!r}; there are {names or 'none'}"

    def __contains__(self, key: object) -> bool:
        if isinstance(key, int):
            return -len(self) <= key < len(self)
        return dict.__contains__(self, key) or (key == "loss" and self.loss is not None)

    def get(self, key: Any, default: Any = None) -> Any:
        """`self[key]`, or `default` where there is no such key."""
        return self[key] if key in self else default  # noqa: SIM401 (that is this method)

    def __iter__(self) -> Iterator[TaskOutput]:  # type: ignore[override]
        return iter(dict.values(self))

    def __reversed__(self) -> Iterator[TaskOutput]:  # type: ignore[override]
        return reversed(dict.values(self))

    def __repr__(self) -> str:
        inside = ", ".join(f"{key!r}: {output!r}" for key, output in dict.items(self))
        return f"MultiHeadOutput({{{inside}}}, loss={self.loss!r})"

    def __reduce__(self) -> tuple[object, ...]:
        named = {index: name for name, places in self.repeated.items() for index in places}
        pairs = [(named.get(i, key), output) for i, (key, output) in enumerate(dict.items(self))]
        return (type(self), (pairs,))


def total_loss(outputs: Iterable[TaskOutput]) -> Tensor | None:
    """The weighted sum of the losses that are there, None if none is.

    >>> a = TaskOutput(loss=torch.tensor(1.0)), TaskOutput(loss=torch.tensor(2.0), weight=torch.tensor(0.5))
    >>> total_loss(a)
    tensor(2.)
    """
    total: Tensor | None = None
    for output in outputs:
        if output.loss is None:
            continue
        loss = output.loss if output.weight is None else output.weight * output.loss
        total = loss if total is None else total + loss
    return total
