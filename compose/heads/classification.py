"""One answer for a row: a label, several labels, or numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compose.dropout import Dropout
from compose.errors import InputError
from compose.heads.head import Head, HeadInput, Host, Weighs, activation, linear
from compose.heads.labels import (
    binary_cross_entropy,
    check_shape,
    class_ids,
    cross_entropy,
    fractions,
    mean_squared_error,
)
from compose.heads.spans import Source, Window
from compose.heads.spec import ClassificationConfig
from compose.specs import HeadSpec

THRESHOLD = 0.5
"""The probability from which a label of a multi-label task is said."""

WEIGHS: dict[str, Weighs | None] = {"single": "rows", "multi_label": "positives", "regression": None}
"""What `class_weights` weigh, by problem."""


class ClassificationHead(Head):
    """Logits `[rows, labels]` from one token's state, or the pooled output."""

    config: ClassificationConfig

    def __init__(self, name: str, config: ClassificationConfig, host: Host) -> None:
        super().__init__(name, config)
        width, count = host.spec.hidden_size, len(config.labels)
        self.dropout = Dropout(host.dropout if config.dropout is None else config.dropout)
        self.dense = nn.ModuleList(linear(width, width, True, host.deviation) for _ in range(config.layers - 1))
        self.activation = activation(config.activation)
        self.out = linear(width, count, config.bias, host.deviation)
        self.pooling = _pooling(config, host)
        self.scale = host.scale if config.pooling == "adapterhub" else 1.0
        self.pad_token = host.pad_token
        self.eos_tokens = host.eos_tokens

    @property
    def spec(self) -> HeadSpec:
        width = self.out.in_features
        multiplies = len(self.dense) * width * width + width * self.out.out_features
        return HeadSpec(self.name, self.config.kind, row_multiplies=multiplies)

    @property
    def weighs(self) -> Weighs | None:
        return WEIGHS[self.config.problem]

    def logits(self, inputs: HeadInput) -> Tensor:
        state = self.read(inputs).to(self.out.weight.dtype)
        for dense in self.dense:
            state = self.activation(dense(self.dropout(state)))
        return self.out(self.dropout(state))

    def read(self, inputs: HeadInput) -> Tensor:
        """The state `[rows, width]` that it classifies."""
        states, mask = inputs.states, inputs.attention_mask
        if self.config.use_pooler:
            if inputs.pooled is None:
                raise InputError("the backbone gives no pooled output", where=self.where, hint="use_pooler=False")
            return inputs.pooled
        if self.pooling == "first":
            return states[:, 0] if inputs.first is None else inputs.first
        if self.pooling == "mean":
            states = states.to(self.out.weight.dtype)  # a mean of many is not rounded as each of them was
            if mask is None:
                return states.mean(1)
            weights = mask.to(states.dtype).unsqueeze(-1)
            return (states * weights).sum(1) / weights.sum(1).clamp(min=1)
        place = self._place(inputs).to(states.device)
        return states[torch.arange(len(states), device=states.device), place] * self.scale

    def _place(self, inputs: HeadInput) -> Tensor:
        """The position `[rows]` of the token that it reads."""
        states = inputs.states
        final = torch.full((len(states),), states.shape[1] - 1, device=states.device)
        if self.pooling == "last":
            return final if inputs.attention_mask is None else _last(inputs.attention_mask != 0)
        if self.pooling == "adapterhub" and (self.pad_token is None or inputs.input_ids is None):
            return final
        if inputs.input_ids is None or inputs.input_ids.shape[1] != states.shape[1]:
            raise InputError(
                "it reads the end-of-sequence token, but the states are not those of the input ids",
                where=self.where,
                hint="pooling='first', 'last' or 'mean'",
            )
        if self.pooling == "adapterhub":
            # AdapterHub counts; a padding token inside the text moves the place, there and here
            return inputs.input_ids.ne(self.pad_token or 0).sum(-1) - 1
        ends = torch.isin(inputs.input_ids, torch.tensor(self.eos_tokens, device=inputs.input_ids.device))
        if not torch.compiler.is_compiling() and not ends.any(1).all():
            row = int((~ends.any(1)).nonzero()[0])
            raise InputError(
                f"row {row} has no end-of-sequence token, which the head reads",
                where=self.where,
                hint="a tokenizer that adds one, or pooling='first', 'last' or 'mean'",
            )
        return _last(ends)

    def loss(self, logits: Tensor, labels: Tensor, inputs: HeadInput) -> Tensor:
        rows, count = logits.shape
        if self.config.problem == "single":
            check_shape(labels, [(rows,), (rows, 1)], self.where)
            ids = class_ids(labels.reshape(rows), count, self.labels, self.where)
            return cross_entropy(logits, ids, self.class_weights)
        if self.config.problem == "multi_label":
            check_shape(labels, [(rows, count)], self.where)
            return binary_cross_entropy(logits, fractions(labels, logits.dtype, self.where, high=1), self.class_weights)
        check_shape(labels, [(rows,), (rows, 1)] if count == 1 else [(rows, count)], self.where)
        return mean_squared_error(logits, fractions(labels.reshape(rows, count), logits.dtype, self.where))

    def decode(self, windows: Sequence[Window], source: Source) -> dict[str, Any]:
        return self.decode_all([windows], [source])[0]

    def decode_all(self, windows: Sequence[Sequence[Window]], sources: Sequence[Source]) -> list[dict[str, Any]]:
        if not windows:
            return []
        logits = torch.stack([window.logits for each in windows for window in each]).float()
        problem = self.config.problem
        values = logits if problem == "regression" else logits.softmax(-1) if problem == "single" else logits.sigmoid()
        counts = [len(each) for each in windows]
        if max(counts) > 1:
            values = torch.stack([part.mean(0) for part in values.split(counts)])
        return [self._prediction(row) for row in values.tolist()]

    def _prediction(self, values: list[float]) -> dict[str, Any]:
        """What the values, one of each label, say."""
        if self.config.problem == "regression":
            if len(values) == 1:
                return {"value": values[0]}
            return {"values": dict(zip(self.labels, values, strict=True))}
        probabilities = dict(zip(self.labels, values, strict=True))
        if self.config.problem == "multi_label":
            chosen = [label for label, value in probabilities.items() if value >= THRESHOLD]
            return {"labels": chosen, "probabilities": probabilities}
        label = max(probabilities, key=probabilities.__getitem__)
        return {"label": label, "probability": probabilities[label], "probabilities": probabilities}


def _pooling(config: ClassificationConfig, host: Host) -> str:
    """The token that is read, once the backbone is known."""
    spec = host.spec
    if config.pooling not in (None, "adapterhub"):
        return str(config.pooling)
    if spec.encoder_decoder:
        return "eos"
    if spec.causal:
        return config.pooling or "last"
    return "first"


def _last(marks: Tensor) -> Tensor:
    """The last marked position of each row, 0 in a row without any. `marks`: `[rows, tokens]`."""
    places = torch.arange(marks.shape[1], device=marks.device)
    return (marks * places).argmax(1)
