"""What AdapterHub refuses or crashes on: here each runs, is trained, saved and loaded, and obeys the laws.

GLOW; prompts and prefixes on decoders; LoRA in Stack and Parallel on GPT-2; DoRA on GPT-2, VeRA on GPT-2 and on LLaMA
with grouped keys; LoRA in Parallel on ViT; invertible adapters on ViT; and layer aggregation, which it does not have.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import compose
from compose.dsl import Average, BatchSplit, Expression, Parallel, Route, Split, Stack, branches
from compose.runtime.model import Model
from tests import tiny
from tests.defects.cases import batch, differ, model, out
from tests.laws.worlds import branches_are_single_runs, close, identities_hold, layers_of

STACKED: tuple[Expression, ...] = ("a", Stack("a", "b"))
SIDE_BY_SIDE: tuple[Expression, ...] = (*STACKED, Parallel("a", Stack("b", "a"), None, "c"))


class Refused(NamedTuple):
    """Something that AdapterHub cannot do.

    Args:
        architectures: where.
        adapters: what stands for a and b; c is always a bottleneck.
        expressions: in what.
    """

    architectures: tuple[str, ...]
    adapters: tuple[Any, Any]
    expressions: tuple[Expression, ...] = SIDE_BY_SIDE


def sized(preset: str, **options: Any) -> tuple[str, dict[str, Any]]:
    """A preset with options."""
    return preset, options


LOW_RANK = ({"r": 3}, {"r": 2, "attn_matrices": ["q", "k", "v", "o"], "intermediate_lora": True, "output_lora": True})
REFUSED: dict[str, Refused] = {
    "GLOW": Refused(
        ("bert", "gpt2", "llama", "t5", "vit"),
        (sized("seq_bn_inv", inv_adapter="glow"), sized("double_seq_bn_inv", inv_adapter="glow")),
    ),
    "NICE": Refused(("vit",), ("seq_bn_inv", "double_seq_bn_inv")),
    "prompts": Refused(
        ("gpt2", "llama", "t5"),
        (sized("prompt_tuning", prompt_length=4), sized("prompt_tuning", prompt_length=2, combine="prefix_after_bos")),
    ),
    "prefixes": Refused(
        ("gpt2", "llama", "t5"),
        (
            sized("prefix_tuning", prefix_length=5, bottleneck_size=4),
            sized("prefix_tuning_flat", prefix_length=3),
        ),
    ),
    "LoRA": Refused(("gpt2", "vit"), (sized("lora", **LOW_RANK[0]), sized("lora", **LOW_RANK[1]))),
    "DoRA": Refused(("gpt2",), (sized("dora", **LOW_RANK[0]), sized("dora", **LOW_RANK[1]))),
    "VeRA": Refused(("gpt2", "llama"), (sized("vera", **LOW_RANK[0]), sized("vera", **LOW_RANK[1]))),
    "layer aggregation": Refused(
        ("bert", "gpt2", "llama", "vit"),
        (sized("layer_aggregation", dropout=0.0), sized("layer_aggregation", tailor=False, leave_out=[1])),
        (
            "a",
            Stack("c", "a"),
            Parallel("a", Stack("c", "b"), None, "c"),
            Average("a", "b", weights=[1, 3]),
            BatchSplit("a", "b", sizes=[1, None]),
            Split("a", "b", sizes=[3, None]),
        ),
    ),
}


def every() -> Iterator[Any]:
    """Every cell of the table."""
    for name, row in REFUSED.items():
        for architecture in row.architectures:
            for expression in row.expressions:
                yield pytest.param(name, architecture, expression, id=f"{name}-{architecture}-{expression}")


cells = pytest.mark.parametrize(("name", "architecture", "expression"), tuple(every()))


def made_of(name: str, architecture: str) -> Model:
    """A model with the adapters of a row."""
    a, b = REFUSED[name].adapters
    return model(architecture, a=a, b=b, c=("seq_bn", {"bottleneck_size": 8}))


@cells
def test_it_runs_and_obeys_the_laws(name: str, architecture: str, expression: Expression) -> None:
    """Cases 5, 6, 8, F12 and P3: branches and rows are single runs; what changes nothing changes nothing."""
    made, inputs = made_of(name, architecture), batch(architecture, padded=True)
    plan, plain = made.plan(expression), out(made, None, inputs)
    parted = branches(expression)
    branches_are_single_runs(made, plan, inputs, lambda _: {}, longer=True)
    for branch in parted:
        alone = out(made, branch.expression, inputs)
        assert alone.isfinite().all()
        assert branch.expression is None or alone.shape != plain.shape or differ(alone, plain)
    if len(parted) == 1:
        identities_hold(made, plan, inputs, layers_of(architecture))
    if len(parted) == 1 and not isinstance(expression, BatchSplit):
        rows = out(made, Route(x=expression, y=None), inputs, route=["y", "x"])
        close(rows[1], out(made, expression, inputs)[1])
        close(rows[0, : plain.shape[1]], plain[0])


def trained(made: Model, expression: Expression) -> None:
    """A small step against the gradient of a loss, which falls; all that is trained moves, and nothing else."""
    architecture = made.spec.architecture
    before = {name: value.clone() for name, value in made.named_parameters()}
    buffers = {name: value.clone() for name, value in made.named_buffers()}
    trainable = [parameter for parameter in made.parameters() if parameter.requires_grad]
    inputs = batch(architecture, padded=True)

    def loss() -> torch.Tensor:
        states = made.plan(expression).states(**inputs).last_hidden_state
        generator = torch.Generator().manual_seed(0)  # a sum of squares would be what the last LayerNorm makes it
        return (states * torch.randn(states.shape, generator=generator, dtype=states.dtype)).mean()

    made.train()
    first = loss()
    first.backward()
    with torch.no_grad():
        size = sum(float(parameter.grad.square().sum()) for parameter in trainable if parameter.grad is not None)
        for parameter in trainable:
            assert parameter.grad is not None
            parameter -= 1e-5 * parameter.grad / size**0.5
        assert loss() < first
    made.eval()
    for name, value in made.named_parameters():
        assert torch.equal(value, before[name]) is not value.requires_grad, name
    assert all(torch.equal(value, buffers[name]) for name, value in made.named_buffers())


@cells
def test_it_is_trained_saved_and_loaded(name: str, architecture: str, expression: Expression, tmp_path: Path) -> None:
    """Cases 6, 10 and P2: a step moves all adapters of the expression; from its folder it is the same bit for bit."""
    made = made_of(name, architecture)
    made.train_only(expression)
    trained(made, expression)
    made.plan(expression).save(tmp_path)
    loaded = compose.load_plan(tmp_path, model=tiny.model(architecture))
    assert loaded.expression == expression
    inputs = batch(architecture, padded=True)
    with torch.no_grad():
        assert torch.equal(loaded.states(**inputs).last_hidden_state, out(made, expression, inputs))
