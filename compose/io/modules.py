"""What other libraries' files need to know of a backbone besides its spec: how its modules are called."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

from compose.specs import BackboneSpec

Linears = Mapping[str, tuple[int, tuple[str, ...]]]
"""Linear maps by the path of their module: the layer and the site; several sites, in order, for a fused map."""

NONE: Linears = MappingProxyType({})


class BackboneModules(NamedTuple):
    """The modules of a backbone by name.

    Args:
        spec: its spec.
        names: of all its modules.
        linears: its linear maps.
        older: its linear maps under the names that other versions of transformers give them.
        prefix: what transformers calls it inside a model with a head (`bert`).
        transposed: its maps are transformers' `Conv1D`, which keep their weights transposed.
        heads: of its attentions, 0 if that is not known.
        words_only: what the first layer is given are the embeddings of words, and nothing is added to them.
        rotary: the angles by which its attentions turn keys from one position to the next, [head width / 2].
        embeddings: its input embeddings, [vocabulary, width]; None of images.
        tied: its input embeddings, [vocabulary, width], where its vocabulary heads share them.
    """

    spec: BackboneSpec
    names: frozenset[str] = frozenset()
    linears: Linears = NONE
    older: Linears = NONE
    prefix: str = ""
    transposed: bool = False
    heads: int = 0
    words_only: bool = False
    rotary: Tensor | None = None
    embeddings: Tensor | None = None
    tied: Tensor | None = None

    def linear_at(self, path: str) -> tuple[int, tuple[str, ...]]:
        """The layer and the sites of a linear map, under whichever of its names."""
        return self.linears[path] if path in self.linears else self.older[path]
