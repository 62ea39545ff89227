"""Prefixes in the compiler: what they cost, what `explain` says, and what has no meaning."""

from __future__ import annotations

import pytest
import torch

from compose.dsl import parse
from compose.errors import CompileError
from compose.graph.core import virtual_tokens
from compose.runtime.model import Model
from tests import tiny
from tests.graph.test_flops import counted, planned

ROWS, TOKENS, LAYERS = 3, 16, 4
EXPRESSIONS = (
    "'p'",
    "Stack('p', 'bn', 'gated')",
    "Parallel('p', 'q', 'bn')",
    "Parallel(Stack('p', 'bn'), Stack('p', 'other'))",
    "Average('p', 'gated')",
    "Route(t1='p', t2='q', t3='bn')",
    "BatchSplit('p', Stack('q', 'p'), sizes=[1, None])",
    "Drop('p', first=2)",
)


def model_of(architecture: str) -> Model:
    model = tiny.model(architecture, LAYERS, torch.float32, attn_implementation="eager")
    for name, method, options in (
        ("p", "prefix_tuning", {"prefix_length": 5, "bottleneck_size": 8}),
        ("q", "prefix_tuning_flat", {"prefix_length": 3}),
        ("gated", "prefix_tuning", {"prefix_length": 5, "use_gating": True, "shared_gating": False}),
        ("bn", "seq_bn", {"bottleneck_size": 4}),
        ("other", "seq_bn", {"bottleneck_size": 5}),
    ):
        model.add_adapter(name, method, **options)
    return model


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_predicted_flops(architecture: str) -> None:
    """Those of attention over the virtual tokens, padding among them, and of the MLP, once a call."""
    model = model_of(architecture)
    decoder = TOKENS - 2 if architecture == "t5" else None
    batch = tiny.inputs(architecture, ROWS, TOKENS, dtype=torch.float32)
    for text in EXPRESSIONS:
        plan = planned(model, text)
        measured = counted(plan, batch, **({"route": ["t1", "t2", "t3"]} if "Route" in text else {}))
        predicted = plan.explain(ROWS, TOKENS, decoder)
        heads = 0 if None not in plan.tasks else sum(head.flops for head in predicted.heads)
        assert predicted.flops - heads == pytest.approx(measured, rel=0.01), text


def test_explain_names_the_site() -> None:
    model = model_of("t5")
    text = str(model.plan("Parallel('p', Stack('q', 'bn'))").explain(ROWS, TOKENS))
    assert "attn.core: p | q" in text and "cross.attn.core: p | q" in text and "ffn: nothing | bn" in text


def test_branches_part_at_the_attention() -> None:
    """What lies below the first prefix is trunk; branches that agree in their prefix part after it."""
    model = model_of("bert")
    assert [rows.classes for rows in model.plan("Parallel(Drop('p', first=2), None)").plan.layers] == [1, 1, 2, 2]
    assert [rows.classes for rows in model.plan("Parallel('p', Stack('p', 'bn'))").plan.layers] == [1, 2, 2, 2]


def test_virtual_tokens() -> None:
    vocabulary = model_of("bert").vocabulary
    for text, numbers in (
        ("'p'", {5}),
        ("'bn'", {0}),
        ("Stack('p', 'bn', 'q')", {8}),
        ("Average('p', 'gated')", {5}),
        ("Average('p', 'bn', weights=[0, 1])", {0}),
        ("Stack('q', Route(x='p', y=None))", {3, 8}),
        ("Drop('p', first=1)", {0}),
    ):
        assert virtual_tokens(parse(text), (0, "attn.core"), vocabulary) == numbers


@pytest.mark.parametrize(
    ("text", "marked", "reason"),
    [
        ("Stack('bn', Average('p', 'q'))", 'Average("p", "q")', "have 3 and 5 virtual tokens at layer 0"),
        ("Average('p', None)", 'Average("p", None)', "have 0 and 5 virtual tokens"),
        ("Average('p', Drop('p', layers=[2]))", 'Average("p", Drop("p", layers=[2]))', "at layer 2, site 'attn.core'"),
        ("Parallel('q', Split('p', 'bn', sizes=[2, None]))", 'Split("p", "bn", sizes=[2, None])', "a prefix acts"),
        ("Fuse('p', 'bn')", 'Fuse("p", "bn")', "'p' cannot be fused"),
    ],
)
def test_what_has_no_meaning(text: str, marked: str, reason: str) -> None:
    with pytest.raises(CompileError) as raised:
        model_of("bert").plan(text)
    problem = raised.value.problems[0]
    assert reason in problem.what and problem.span is not None and problem.hint
    assert problem.text[slice(*problem.span)] == marked


def test_an_average_of_equal_lengths() -> None:
    """Where prefixes are dropped alike, or act alike, an Average of them has a meaning."""
    model = model_of("bert")
    for text in ("Average(Stack('p', 'q'), Stack('q', 'gated'))", "Drop(Average('p', 'gated'), first=2)"):
        model.plan(text)
