"""What every pass is given, and what it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from compose.graph.graph import Graph
from compose.graph.sites import Vocabulary


@dataclass(frozen=True)
class PassContext:
    """What a pass may ask for.

    Args:
        vocabulary: backbone, adapters and fusions.
        tasks: the positions of the outputs that are asked for, None for all.
        training: gradients may be asked for; what is constant only at inference must not be folded.
    """

    vocabulary: Vocabulary
    tasks: frozenset[int] | None = None
    training: bool = False


Pass = Callable[[Graph, PassContext], Graph]
