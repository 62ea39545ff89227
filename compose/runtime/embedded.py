"""What acts on the embeddings' output, before the first layer."""

from __future__ import annotations

from torch import Tensor

from compose.methods.part import Context
from compose.runtime.bind import BoundProgram
from compose.runtime.execute import run, whole
from compose.runtime.frame import Frame
from compose.runtime.repeat import take_classes


def act_on_embedded(frame: Frame, bound: BoundProgram, states: Tensor) -> Tensor:
    """Runs the program of the site `embed`.

    Args:
        frame: the call.
        bound: the program.
        states: [rows, tokens, width], what the embeddings give.

    Returns:
        [classes x rows, tokens, width], with the classes that come to the first layer.
    """
    classes = bound.program.classes
    if classes > 1:  # branches that no pass has joined
        states = take_classes(states, (0,) * classes, frame.batch)
    return whole(run(frame, bound, states, Context()))
