"""Outputs against what AdapterHub computes: the golden cases.

A selection lies in `tests/golden`; where the whole collection is beside the checkout, all of it runs.
"""

from __future__ import annotations

import pytest

from compose.errors import BackboneError
from compose.runtime.attach import attach
from tests.golden_cases import backbone, cases, compare, found, load_case

ARCHITECTURES = ("bert", "roberta", "distilbert", "gpt2", "llama", "t5", "vit")
METHODS = (
    "adapterplus",
    "compacter",
    "compacterpp",
    "dora",
    "double_seq_bn",
    "dvora",
    "gated",
    "houlsby",
    "houlsby_inv",
    "ia3",
    "leave_out",
    "ln_after_residual",
    "ln_both",
    "lora",
    "lora_all",
    "loreft",
    "loreft_suffix",
    "mam",
    "mtl_lora",
    "no_ln_before",
    "noreft",
    "parallel",
    "pfeiffer",
    "pfeiffer_inv_nice",
    "prefix",
    "prefix_flat",
    "prompt",
    "residual_after_ln",
    "scaled_parallel_learned",
    "unipelt",
    "vera",
)
HEADS = (
    "causal_lm",
    "classification",
    "image_classification",
    "parallel-unlabelled",
    "pooler",
    "qa",
    "regression",
    "tagging",
)


def covered(architecture: str, case: str) -> bool:
    """Whether architecture and method are supported."""
    kind, _, what = case.partition("-")
    if architecture not in ARCHITECTURES:
        return False
    return {"method": what in METHODS, "compose": True, "head": what in HEADS}[kind]


CASES = cases()


def test_there_are_cases(golden_table: dict[tuple[str, str], str]) -> None:
    golden_table.update({case: "not covered" for case in CASES if not covered(*case)})
    assert len([case for case in CASES if covered(*case)]) >= 14


@pytest.mark.parametrize(("architecture", "case"), [case for case in CASES if covered(*case)])
def test_golden(architecture: str, case: str, golden_table: dict[tuple[str, str], str]) -> None:
    golden_table[architecture, case] = "failed"
    model = attach(backbone(architecture))
    try:
        golden = load_case(model, architecture, case)
        compare(found(model, model.plan(golden.expression), golden, golden.inputs), golden.expected)
    except BackboneError:
        golden_table[architecture, case] = "not covered"
        raise
    finally:
        model.detach()
    golden_table[architecture, case] = "passed"
