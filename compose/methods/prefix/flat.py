"""What an MLP makes of a prefix: keys and values that can stand in its place."""

from __future__ import annotations

import torch
from torch import Tensor

from compose.methods.adapter import Adapter
from compose.methods.prefix.module import PrefixPart


@torch.no_grad()
def flat_tensors(adapter: Adapter) -> dict[str, Tensor]:
    """The tensors of the flat prefix by canonical name: keys and values as the MLP makes them, gates as they are.

    Args:
        adapter: a prefix, flat or not.
    """
    found = {key: tensor for key, tensor in adapter.tensors().items() if ".gate." in key}
    for acting in adapter.spec.parts:
        part = adapter.part(acting.layer, acting.site)
        if isinstance(part, PrefixPart):
            found[f"{acting.layer}.{acting.site}.flat"] = part.states().detach()
    return found
