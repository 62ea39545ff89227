"""What heads over the vocabulary share: states to a token's logits at each position, and the loss of some of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compose.errors import ConfigError, Problem
from compose.heads.head import Head, HeadInput, Host, activation, linear
from compose.heads.labels import as_tensor, check_shape, class_ids, cross_entropy
from compose.heads.output import TaskOutput
from compose.heads.spans import Source
from compose.heads.spec import IGNORED, VocabularyConfig
from compose.specs import HeadSpec

TOP = 5
"""How many tokens a prediction names."""


class TiedMap(nn.Module):
    """The bias of a map to the vocabulary whose matrix is the backbone's; None without a bias.

    Args:
        vocabulary: how many tokens there are.
        bias: whether there is one.
    """

    def __init__(self, vocabulary: int, bias: bool) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocabulary)) if bias else None


class VocabularyHead(Head):
    """Logits `[rows, tokens, vocabulary]`; labels are ids `[rows, tokens]`, -100 where not counted. Abstract.

    What invertible adapters do to the embeddings is undone before the map to the vocabulary, as in MAD-X
    (Pfeiffer et al., 2020). Where the map is tied, its matrix is the backbone's input embeddings, which a call hands
    over: the head neither holds nor saves nor trains it.

    Attributes:
        counted_only: whether, where labels are given, logits are only those of positions that count,
            `[counted, vocabulary]`: a map to a large vocabulary costs as much as the backbone. `counted_only` sets it.
    """

    config: VocabularyConfig
    per_token: ClassVar[bool] = True
    reads_inverse: ClassVar[bool] = True

    def __init__(self, name: str, config: VocabularyConfig, host: Host) -> None:
        super().__init__(name, config)
        self.counted_only = False
        words = host.embeddings
        vocabulary = config.vocabulary or host.spec.vocabulary
        if not vocabulary:
            raise ConfigError("the backbone has no vocabulary", where=self._called, hint="vocabulary=")
        width = host.spec.hidden_size
        narrow = words.shape[1] if config.tied and words is not None else width
        inner = (config.embedding_size or narrow) if config.layers > 1 else width
        if config.tied and words is not None and tuple(words.shape) != (vocabulary, inner):
            raise ConfigError(_unfit(self._called, tuple(words.shape), (vocabulary, inner)))
        eps = host.norm_eps if config.layer_norm_eps is None else config.layer_norm_eps
        self.vocabulary, self.inner_width = vocabulary, inner
        widths = [width] + [inner] * (config.layers - 1)
        self.dense = nn.ModuleList(
            linear(before, inner, True, host.deviation) for before in widths[: config.layers - 1]
        )
        self.activation = activation(config.activation)
        self.norm = nn.ModuleList(
            nn.LayerNorm(inner, eps=eps) for _ in range(config.layers - 1 if config.layer_norm else 0)
        )
        self.out: nn.Module = TiedMap(vocabulary, config.bias)
        if not config.tied:
            self.out = own = linear(inner, vocabulary, config.bias, host.deviation)
            if words is not None and words.shape == own.weight.shape:
                with torch.no_grad():
                    own.weight.copy_(words)

    @property
    def _called(self) -> str:
        return f"head '{self.name}'"

    @property
    def reads_embeddings(self) -> bool:
        """Whether its last map is tied."""
        return self.config.tied

    @property
    def spec(self) -> HeadSpec:
        multiplies = sum(each.weight.numel() for each in self.dense if isinstance(each, nn.Linear))
        multiplies += self.vocabulary * self.inner_width
        return HeadSpec(self.name, self.config.kind, token_multiplies=multiplies)

    def aligned(self, labels: Tensor) -> Tensor:
        """For each position the token that its logits are of, -100 where not counted.

        Args:
            labels: `[rows, tokens]`, as they are given.
        """
        return labels

    def hidden(self, inputs: HeadInput) -> Tensor:
        """What the map to the vocabulary reads, `[rows, tokens, inner_width]`."""
        states = inputs.states
        states = states.to(next((each.dtype for each in self.parameters()), states.dtype))
        for index, dense in enumerate(self.dense):
            states = self.activation(dense(states))
            if self.config.layer_norm:
                states = self.norm[index](states)
        return states if inputs.inverse is None else inputs.inverse(states)

    def to_vocabulary(self, states: Tensor, inputs: HeadInput) -> Tensor:
        """The map to the vocabulary, `[..., inner_width]` to `[..., vocabulary]`."""
        if not self.config.tied:
            logits: Tensor = self.out(states)
            return logits
        assert inputs.embeddings is not None, "calls hand the embeddings to heads that read them"
        bias: Any = self.out.bias
        return F.linear(states, inputs.embeddings.to(states.dtype), bias)

    def logits(self, inputs: HeadInput) -> Tensor:
        return self.to_vocabulary(self.hidden(inputs), inputs)

    def loss(self, logits: Tensor, labels: Tensor, inputs: HeadInput) -> Tensor:
        return cross_entropy(logits, self._targets(labels, logits))

    def counted(self, labels: Tensor) -> float:
        return super().counted(self.aligned(labels))

    def forward(self, inputs: HeadInput, labels: object = None) -> TaskOutput:
        if labels is None or not self.counted_only:
            return super().forward(inputs, labels)
        states = self.hidden(inputs)
        ids = self._targets(as_tensor(labels, self.encode_label, self.where).to(states.device), states)
        counts = ids != IGNORED
        logits = self.to_vocabulary(states[counts], inputs)
        return TaskOutput(logits=logits, loss=cross_entropy(logits, ids[counts]))

    def _targets(self, labels: Tensor, positions: Tensor) -> Tensor:
        check_shape(labels, [tuple(positions.shape[:2])], self.where)
        return self.aligned(class_ids(labels, self.vocabulary, (), self.where))


def likeliest(probabilities: Tensor, source: Source) -> list[dict[str, Any]]:
    """The likeliest tokens of a position.

    Args:
        probabilities: `[vocabulary]`.
        source: knows what tokens are called.
    """
    best = probabilities.topk(min(TOP, len(probabilities)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [{"token": source.token(token), "id": token, "probability": value} for token, value in pairs]


@contextmanager
def counted_only(heads: Sequence[Head]) -> Iterator[None]:
    """For a while the logits of heads over the vocabulary are only those of positions whose label counts."""
    chosen = [head for head in heads if isinstance(head, VocabularyHead)]
    before = [head.counted_only for head in chosen]
    try:
        for head in chosen:
            head.counted_only = True
        yield
    finally:
        for head, was in zip(chosen, before, strict=True):
            head.counted_only = was


def _unfit(where: str, words: tuple[int, ...], wanted: tuple[int, int]) -> Problem:
    return Problem(
        f"its map to the vocabulary is {list(wanted)}, but the input embeddings that it is tied to are {list(words)}",
        where=where,
        hint="tied=False",
    )
