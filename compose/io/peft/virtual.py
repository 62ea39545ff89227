"""What PEFT's files of prompts and prefixes have in common: one tensor, with a row for each virtual token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from compose.errors import FileError
from compose.io.modules import BackboneModules
from compose.methods.config import is_count

LEAVES = ("prompt_embeddings",)
"""PEFT's name of the tensor, which stands alone."""


def rows_of(
    config: Mapping[str, Any], weights: Mapping[str, Mapping[str, Tensor]], width: int, copies: int, where: str
) -> Tensor:
    """The tensor, [virtual tokens, width].

    Args:
        config: PEFT's config.
        weights: by module.
        width: of a row.
        copies: how often the file has the virtual tokens.
        where: the file that errors name.

    Raises:
        FileError: it is missing, or of another shape.
    """
    length: Any = config.get("num_virtual_tokens")
    if not is_count(length, 1):
        raise FileError(f"'num_virtual_tokens' is {length!r}, not a whole number of at least 1", where=where)
    found = weights.get("", {}).get(LEAVES[0])
    if found is None:
        raise FileError("holds no weights", where=where)
    if tuple(found.shape) != (length * copies, width):
        shape = f"{tuple(found.shape)}, not ({length * copies}, {width})"
        raise FileError(f"'{LEAVES[0]}' is of shape {shape}", where=where)
    return found[:length].clone()


def stacks_of(config: Mapping[str, Any], where: str) -> int:
    """For how many stacks the file was made: two of a model that PEFT ran as an encoder-decoder.

    Raises:
        FileError: for any other number.
    """
    given = config.get("num_transformer_submodules")
    if given is None:
        return 2 if config.get("task_type") == "SEQ_2_SEQ_LM" else 1
    if given not in (1, 2):
        raise FileError(f"'num_transformer_submodules' is {given!r}, not 1 or 2", where=where)
    return int(given)


def common_content(length: int, width: int, modules: BackboneModules) -> dict[str, Any]:
    """What PEFT's config says of virtual tokens and of its model.

    Args:
        length: how many there are.
        width: of the model's states, or of what its attentions' heads read.
        modules: the model's.
    """
    return {
        "num_virtual_tokens": length,
        "num_transformer_submodules": 2 if modules.spec.encoder_decoder else 1,
        "token_dim": width,
        "num_attention_heads": modules.heads or None,  # PEFT looks for what is None in the model's config
    }
