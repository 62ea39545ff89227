"""The interface between the runtime and every method: an adapter's weights at one site."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from compose.methods.embedding import Embedding
from compose.methods.linear_map import LinearMap
from compose.methods.row_tokens import RowTokens
from compose.methods.states import LayerStates
from compose.methods.tokens import Tokens


class Context(NamedTuple):
    """What a site knows besides its value y.

    Args:
        residual: at a sub-layer site, the residual input x, of the shape of y.
        norm: the LayerNorm that closes a post-norm site.
        input: at a linear site, the map's input c [..., tokens, width_in].
        states: at the site `states`, those of all layers.
        output: at a linear site, what the map itself gives for that input, whatever acted on y before.
        map: at a linear site, the map.
        row_tokens: at the site `layer`, where in its row each token stands; None: none is padding.
        tokens: at the site `embed`, the rows' tokens, where a prompt adds to them.
        embedding: at the site `embed`, the embeddings, where an adapter may need them again.
    """

    residual: Tensor | None = None
    norm: Callable[[Tensor], Tensor] | None = None
    input: Tensor | None = None
    states: LayerStates | None = None
    output: Tensor | None = None
    map: LinearMap | None = None
    row_tokens: RowTokens | None = None
    tokens: Tokens | None = None
    embedding: Embedding | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> Context:
        """The context of other rows or tokens: all tensors that have these changed."""
        return Context(
            residual=None if self.residual is None else change(self.residual),
            norm=self.norm,
            input=None if self.input is None else change(self.input),
            states=None if self.states is None else self.states.each(change),
            output=None if self.output is None else change(self.output),
            map=self.map,
            row_tokens=None if self.row_tokens is None else self.row_tokens.each(change),
            tokens=None if self.tokens is None else self.tokens.each(change),
            embedding=None if self.embedding is None else self.embedding.each(change),
        )


class Prepared(NamedTuple):
    """What a part takes from y and its context.

    Args:
        input: what it reads: a tensor, or whatever else parts of its method understand.
        residual: what a fusion adds its mixture to, and all but parallel parts their result.
        query: the query of a fusion, after the LayerNorm.
        query_before_norm: the same before it.
        value: y itself.
        context: the rest of the site, for increments that are no function of the input alone.
    """

    input: Any
    residual: Tensor
    query: Tensor
    query_before_norm: Tensor
    value: Tensor
    context: Context | None = None


class Factors(NamedTuple):
    """What is constant in a low-rank increment.

    Args:
        up: [width, rank].
        bias: [width].
        sources: the weights that `up` and `bias` are made from, if they are not weights
            themselves: what a cache of products with them has to watch.
    """

    up: Tensor
    bias: Tensor | None = None
    sources: tuple[Tensor, ...] = ()


class LowRank(NamedTuple):
    """An increment u = hidden @ up.T + bias that has not been multiplied out.

    Args:
        hidden: [..., rank].
        up, bias, sources: as in `Factors`.
    """

    hidden: Tensor
    up: Tensor
    bias: Tensor | None = None
    sources: tuple[Tensor, ...] = ()

    @property
    def factors(self) -> Factors:
        """What is constant in it."""
        return Factors(self.up, self.bias, self.sources)

    def dense(self) -> Tensor:
        """The increment itself, [..., width]."""
        return functional.linear(self.hidden, self.up, self.bias)


class Shared:
    """A part's hold on a module that all parts of its adapter share.

    The adapter owns the module; were it the part's own child, its weights would be saved once for every part.

    Args:
        module: the module.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module


def weights_of(part: nn.Module) -> Iterator[nn.Parameter]:
    """A part's own weights and those that it shares with other parts of its adapter."""
    for module in part.modules():
        yield from module.parameters(recurse=False)
        for held in vars(module).values():
            if isinstance(held, Shared):
                yield from held.module.parameters()


class Part(nn.Module):
    """An adapter's weights at one (layer, site): the function e(y; c).

    Attributes:
        has_increment: whether it adds something that a fusion could weigh. A part without defines `forward`
            itself, and neither `prepare` nor `finish`.
        reads_output: whether it reads the context's `output`, so that groups must stack it.
    """

    has_increment: ClassVar[bool] = True
    reads_output: bool = False

    def prepare(self, y: Tensor, context: Context) -> Prepared:
        """Input, residual and fusion queries of this part.

        Args:
            y: the site's value [..., tokens, width].
            context: the rest of the site.
        """
        raise TypeError(f"{type(self).__name__} has no increment to prepare")

    def low_rank(self, input: Any) -> LowRank | None:
        """The increment in factors, or None if it has none.

        Args:
            input: what `prepare` gave, [..., tokens, width_in].
        """
        return None

    @classmethod
    def low_ranks(cls, parts: Sequence[Self], input: Tensor) -> Sequence[LowRank | None]:
        """The increments in factors of n parts of one `ActingSpec.shape` that read the same input.

        Args:
            parts: the n parts.
            input: what `prepare` gave, [..., tokens, width_in].
        """
        return [part.low_rank(input) for part in parts]

    def factors(self) -> Factors | None:
        """What of `low_rank` does not depend on the input in evaluation, or None."""
        return None

    def increment(self, input: Any) -> Tensor:
        """What a fusion weighs, [..., tokens, width].

        Args:
            input: what `prepare` gave, [..., tokens, width_in].
        """
        unmultiplied = self.low_rank(input)
        if unmultiplied is None:
            raise TypeError(f"{type(self).__name__} defines neither low_rank nor increment")
        return unmultiplied.dense()

    def increment_at(self, prepared: Prepared) -> Tensor:
        """The same from all that was prepared, for parts that read more than one thing."""
        return self.increment(prepared.input)

    def start(self, weight: Tensor) -> None:
        """Sets what fresh weights take from the backbone's weight at a linear site: nothing, unless a method does.

        Args:
            weight: [width_out, width_in].
        """
        return

    def finish(self, increment: Tensor, prepared: Prepared) -> Tensor:
        """From the increment to e(y; c): dropout, gate, own LayerNorm, residual."""
        raise TypeError(f"{type(self).__name__} has no increment to finish")

    def finish_fused(self, mixture: Tensor, y: Tensor) -> Tensor:
        """From a fusion's mixture, its residual included, to the site's value."""
        return mixture

    def act(self, prepared: Prepared) -> Tensor:
        """e(y; c), of the shape of y, from what `prepare` gave."""
        return self.finish(self.increment_at(prepared), prepared)

    def forward(self, y: Tensor, context: Context) -> Tensor:
        """e(y; c), of the shape of y."""
        return self.act(self.prepare(y, context))

    def context_after(self, context: Context) -> Context:
        """The context of `forward`'s result: another one where it has more tokens."""
        return context

    @classmethod
    @abstractmethod
    def grouped(cls, parts: Sequence[Self], ys: Tensor, context: Context) -> Tensor:
        """n parts of one `ActingSpec.shape`, each on its own rows, in grouped products.

        Args:
            parts: the n parts.
            ys: [n, rows, tokens, width].
            context: with tensors stacked the same way.

        Returns:
            [n, rows, tokens, width], as n calls would give.
        """


def required(tensor: Tensor | None, name: str) -> Tensor:
    """A field of the context that the kind of site must provide."""
    if tensor is None:
        raise ValueError(f"the context of this site lacks its {name}")
    return tensor


def grouped_linear(input: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor] | None = None) -> Tensor:
    """n linear maps of one shape as one batched product.

    Args:
        input: [n, rows, tokens, width_in].
        weights: n of [width_out, width_in].
        biases: n of [width_out].

    Returns:
        [n, rows, tokens, width_out].
    """
    weight = torch.stack(list(weights)).transpose(1, 2)
    flat = input.flatten(1, -2)
    if biases is None:
        out = torch.bmm(flat, weight)
    else:
        out = torch.baddbmm(torch.stack(list(biases)).unsqueeze(1), flat, weight)
    return out.unflatten(1, input.shape[1:-1])
