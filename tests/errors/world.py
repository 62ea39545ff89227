"""The model that mistakes are made with, and what of it must not change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import compose
from compose.dsl import Fuse, Parallel
from compose.errors import ComposeError
from compose.runtime.model import Model
from tests import tiny
from tests.heads import texts

LABELS = {"nli": torch.tensor([0, 2]), "qqp": torch.tensor([1, 0])}


def build() -> Model:
    """A BERT with adapters, a fusion and heads, a plan active, in evaluation mode."""
    model = compose.attach(texts.bert(), texts.tokenizer())
    for name, preset in (("nli", "seq_bn"), ("qqp", "double_seq_bn"), ("tone", "lora"), ("plus", "adapter_plus")):
        model.add_adapter(name, preset)
    model.add_fusion(Fuse("nli", "qqp"), temperature=True)
    model.add_head("nli", labels=["entailment", "neutral", "contradiction"])
    model.add_head("qqp", labels=2)
    model.add_head("tags", "tagging", labels=["O", "B-x"])
    model.add_head("many", "multi_label", labels=["a", "b"])
    model.add_head("score", "regression")
    for index, part in enumerate((model.adapters, model.fusions, model.heads)):
        tiny.randomize(part, index)
    model.activate("qqp")
    return model.eval()


def batch(tokens: int = 6) -> dict[str, Tensor]:
    """Two rows, the second padded."""
    ids = torch.arange(4, 4 + 2 * tokens).reshape(2, tokens) % 60
    mask = torch.ones_like(ids)
    mask[1, tokens - 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


class Snapshot(NamedTuple):
    """What must be as before after a mistake."""

    names: tuple[tuple[str, ...], ...]
    state: dict[str, bytes]
    trained: tuple[bool, ...]
    training: bool
    outputs: list[bytes]


def bytes_of(tensor: Tensor) -> bytes:
    """A tensor's bytes."""
    return tensor.detach().contiguous().numpy().tobytes()


def snapshot(model: Model, plan: Any) -> Snapshot:
    """The names and bytes of all that a model holds, and what an existing plan and the active one give."""
    training = model.training
    model.eval()
    with torch.no_grad():
        labels = {task: given for task, given in LABELS.items() if task in plan.tasks}
        found = [*plan(**batch(), labels=labels), *model(**batch())]
    model.train(training)
    return Snapshot(
        (model.adapters.names, model.fusions.names, model.heads.names),
        {name: bytes_of(tensor) for name, tensor in model.state_dict().items()},
        tuple(parameter.requires_grad for parameter in model.parameters()),
        training,
        [bytes_of(output.logits) for output in found],
    )


PLAN = Parallel("nli", "qqp")

Do = Callable[[Model, Path], object]


class Mistake(NamedTuple):
    """A mistake and what is said about it.

    Args:
        do: makes it.
        error: the class of the error.
        said: what its text holds.
        marked: for each problem with a marked text, the part that is marked.
        nearest: the legal name that comes first, for the first problem that lists names.
        problems: how many are told at once.
    """

    do: Do
    error: type[ComposeError]
    said: tuple[str, ...]
    marked: tuple[str, ...] = ()
    nearest: str | None = None
    problems: int = 1


def check(mistake: Mistake, error: ComposeError) -> None:
    """Compares an error with what should be said."""
    text = str(error)
    assert type(error) is mistake.error, f"{type(error).__name__}: {text}"
    for part in mistake.said:
        assert part in text, text
    assert len(error.problems) == mistake.problems, text
    marks = [problem.text[slice(*problem.span)] for problem in error.problems if problem.span]
    assert tuple(marks) == mistake.marked, text
    listed = [line.split("legal: ")[1] for line in text.splitlines() if "  legal: " in line]
    if mistake.nearest is not None:
        assert listed and listed[0].startswith(f"'{mistake.nearest}'"), text
