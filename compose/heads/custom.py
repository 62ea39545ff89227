"""A head that is a user's own module."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compose.errors import InputError
from compose.heads.head import Head, HeadInput
from compose.heads.labels import as_tensor
from compose.heads.output import TaskOutput
from compose.heads.spans import Source, Window
from compose.heads.spec import CustomConfig
from compose.specs import HeadSpec

OFFERED = ("attention_mask", "pooled", "input_ids", "labels")


class CustomHead(Head):
    """Wraps any module.

    The module is called with the states `[rows, tokens, width]`, and with those of
    `attention_mask`, `pooled`, `input_ids` and `labels` that its `forward` names as parameters. It
    returns logits, or a mapping with `logits` and, if it has one, `loss`. Labels reach only a module
    that names them.

    Args:
        name: the head's name.
        module: the module.
    """

    config: CustomConfig

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__(name, CustomConfig(type(module).__name__))
        self.module = module
        named = inspect.signature(module.forward).parameters
        self.offered = tuple(option for option in OFFERED if option in named)

    @property
    def spec(self) -> HeadSpec:
        """Its linear maps are taken to run on every token."""
        maps = [module for module in self.module.modules() if isinstance(module, nn.Linear)]
        return HeadSpec(self.name, "custom", token_multiplies=sum(each.weight.numel() for each in maps))

    def forward(self, inputs: HeadInput, labels: object = None) -> TaskOutput:
        offer = inputs._asdict()
        states = offer.pop("states")
        if labels is not None:
            if "labels" not in self.offered:
                raise InputError(
                    f"labels were given, but {self.config.module}.forward takes none",
                    where=self.where,
                    hint="a parameter `labels`, and a mapping with `logits` and `loss` returned",
                )
            offer["labels"] = as_tensor(labels, self.encode_label, self.where).to(states.device)
        result = self.module(states, **{name: offer.get(name) for name in self.offered})
        logits, loss = (result.get("logits"), result.get("loss")) if isinstance(result, Mapping) else (result, None)
        if not isinstance(logits, Tensor):
            got = type(result).__name__
            raise InputError(
                f"{self.config.module} returned {got}",
                where=self.where,
                why="a tensor, or a mapping with logits, is needed",
            )
        return TaskOutput(logits=logits, loss=loss)

    def logits(self, inputs: HeadInput) -> Tensor:
        logits = self(inputs).logits
        assert isinstance(logits, Tensor)
        return logits

    def decode(self, windows: Sequence[Window], source: Source) -> dict[str, Any]:
        """The logits as lists; their mean where several windows have logits of one shape."""
        logits = [window.logits.float() for window in windows]
        if len({tuple(each.shape) for each in logits}) == 1:
            return {"logits": torch.stack(logits).mean(0).tolist()}
        return {"logits": [each.tolist() for each in logits]}
