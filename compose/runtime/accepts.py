"""What a backbone's forward takes, found once at attachment, and whether a call's inputs are that."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compose.errors import InputError, Problem
from compose.runtime.texts import learned_positions

CALL = ("labels", "loss_weights", "tasks", "route", "trunk_states")
"""What a plan itself takes beside the backbone's inputs."""

BY_KEYWORD = (
    "output_hidden_states", "output_attentions", "output_router_logits", "return_dict",
    "use_cache", "past_key_values", "cache_position", "is_causal", "num_items_in_batch",
    "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx",
    "token_type_ids",  # tokenizers give them whether or not the backbone has types
)  # fmt: skip
"""What transformers' models read of `**kwargs`, which have no names of their own in a signature."""

_IDS = ("input_ids", "decoder_input_ids", "token_type_ids")
_MASKS = (
    ("attention_mask", ("input_ids", "inputs_embeds", "encoder_outputs")),
    ("decoder_attention_mask", ("decoder_input_ids", "decoder_inputs_embeds")),
)
"""Masks, and what may have the tokens that they are of."""


@dataclass(frozen=True)
class Accepts:
    """What a backbone takes.

    Args:
        names: the names of its inputs.
        positions: the most tokens that it has positions for, None if nothing limits it.
        token_types: how many types of tokens it knows, None if it has no table of its own for them.
        tokens_as_types: types are looked up among the tokens (GPT-2).
    """

    names: frozenset[str]
    positions: int | None = None
    token_types: int | None = None
    tokens_as_types: bool = False

    @classmethod
    def of(cls, backbone: nn.Module) -> Accepts:
        """What a backbone takes, by its signature and its tables."""
        parameters = inspect.signature(backbone.forward).parameters.values()
        names = {each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
        types = next(
            (
                module.num_embeddings
                for name, module in backbone.named_modules()
                if name.endswith("token_type_embeddings") and isinstance(module, nn.Embedding)
            ),
            None,
        )
        more = BY_KEYWORD if any(each.kind is each.VAR_KEYWORD for each in parameters) else ()
        return cls(
            frozenset((*names, *more)), learned_positions(backbone), types, types is None and "token_type_ids" in names
        )

    def check_names(self, given: Iterable[str], own: tuple[str, ...]) -> None:
        """Refuses names that nothing reads.

        Args:
            given: the names given.
            own: what the plan's method takes itself.

        Raises:
            InputError: naming all of them.
        """
        unknown = [name for name in given if name not in self.names]
        if unknown:
            legal = (*own, *sorted(self.names))
            hints = {name: f"plan(..., {name}=...)" for name in CALL}
            raise InputError(
                [Problem(f"there is no input '{n}'", got=n, legal=legal, hint=hints.get(n, "")) for n in unknown]
            )

    def check_values(self, backbone: Any, given: Mapping[str, Any], rows: int) -> None:
        """Refuses masks that do not fit the rows and tokens, and ids that there is nothing for.

        What ids are is looked at on a CPU only: on another device the call would wait for the answer.

        Raises:
            InputError: with everything that is wrong.
        """
        problems = []
        if given.get("return_dict") is False:
            problems.append(Problem("return_dict=False, but plans read the states by name", hint="leave it out"))
        for name, owners in _MASKS:
            owner = next((owner for owner in owners if owner in given), None)
            if owner is not None and isinstance(given.get(name), Tensor):
                tensor = given[owner][0] if owner == "encoder_outputs" else given[owner]
                cached = "past_key_values" in given  # then a mask is of earlier tokens too
                problems += _mask_problems(name, given[name], rows, None if cached else tensor.shape[1])
        if not torch.compiler.is_compiling():
            for name in _IDS:
                if name in given:
                    problems += self._id_problems(name, given[name], backbone)
        if problems:
            raise InputError(problems)

    def _id_problems(self, name: str, ids: Any, backbone: Any) -> list[Problem]:
        if not isinstance(ids, Tensor):
            return [Problem(f"{name} is a {type(ids).__name__}, but a tensor is needed", hint="return_tensors='pt'")]
        if ids.dtype not in (torch.int64, torch.int32):
            return [Problem(f"{name} is of type {ids.dtype}, but ids are whole numbers", hint=f"{name}.long()")]
        if ids.device.type != "cpu" or not ids.numel():
            return []
        what = "types of tokens" if name == "token_type_ids" and not self.tokens_as_types else "tokens"
        size = self.token_types
        if what == "tokens":
            size = getattr(backbone.get_input_embeddings(), "num_embeddings", None)
        if size is None:
            return []
        low, high = (int(found) for found in torch.aminmax(ids))
        wrong = low if low < 0 else high
        if 0 <= wrong < size:
            return []
        return [
            Problem(
                f"{name} has {wrong}, but the backbone knows {size} {what}, 0 to {size - 1}",
                hint="the backbone's own tokenizer" if what == "tokens" else "",
            )
        ]


def _mask_problems(name: str, mask: Tensor, rows: int, tokens: int | None) -> list[Problem]:
    """What is wrong with the shape of a mask; `tokens` is None if it may be of any number of them."""
    if mask.dim() == 2 and mask.shape[0] == rows and (tokens is None or mask.shape[1] == tokens):
        return []
    if mask.dim() == 4 and (mask.shape[0] == rows or mask.shape[0] == 1):
        return []
    expected = f"[{rows}, {'tokens' if tokens is None else tokens}] or [{rows} or 1, heads or 1, tokens, tokens]"
    return [Problem(f"{name} is {list(mask.shape)}, but the batch needs {expected}")]
