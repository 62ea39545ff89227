"""Golden cases with each optimisation switched on or off: what AdapterHub computes is computed all the same.

Always on the selection in `tests/golden`, so that it takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from torch import Tensor

from compose.dsl import BatchSplit, Split, walk
from compose.passes import NAMES
from compose.runtime import groups
from compose.runtime.attach import attach
from compose.runtime.batches import batches
from compose.runtime.model import Model
from tests.golden_cases import HERE, GoldenCase, backbone, cases, compare, found, load_case

CASES = cases(HERE)
OFF = ((), *((name,) for name in NAMES), NAMES)
"""Passes that are left out."""
BY_BATCH = ("gated", "prompt")
"""Methods of AdapterHub's whose rows depend on the padding beside them."""
DEPTH = {"gpt2/compose-fuse3-skip": 1}
"""Layers of the trunk; of other cases 0."""

Loaded = tuple[Model, GoldenCase]


@pytest.fixture(params=CASES, ids="/".join)
def loaded(request: pytest.FixtureRequest) -> Iterator[Loaded]:
    architecture, case = request.param
    model = attach(backbone(architecture, HERE))
    yield model, load_case(model, architecture, case, HERE)
    model.detach()


def test_passes(loaded: Loaded) -> None:
    model, case = loaded
    for without in OFF:
        compare(found(model, model.plan(case.expression, without), case, case.inputs), case.expected)


def test_siblings_one_after_the_other(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    model, case = loaded
    monkeypatch.setattr(groups, "CACHED", 0)
    compare(found(model, model.plan(case.expression), case, case.inputs), case.expected)


def test_trunk_states(loaded: Loaded, request: pytest.FixtureRequest) -> None:
    model, case = loaded
    plan = model.plan(case.expression)
    assert plan.trunk == DEPTH.get(request.node.callspec.id, 0)
    if plan.trunk:
        inputs = {**case.inputs, "trunk_states": plan.trunk_states(**case.inputs)}
        compare(found(model, plan, case, inputs), case.expected)


@pytest.mark.filterwarnings("ignore::compose.runtime.precision.SlowPrecisionWarning")
@pytest.mark.parametrize(("architecture", "case"), CASES)
def test_bf16(architecture: str, case: str) -> None:
    """To what 8 bits tell apart."""
    model = attach(backbone(architecture, HERE), precision="bf16")
    golden = load_case(model, architecture, case, HERE)
    for name, given in found(model, model.plan(golden.expression), golden, golden.inputs).items():
        expected = golden.expected[name]
        assert float((given.float() - expected).norm()) <= 0.03 * float(expected.norm()), name


def test_rows_in_other_batches(loaded: Loaded, request: pytest.FixtureRequest) -> None:
    """Sorted by length within a budget of tokens, each batch as long as its longest row."""
    model, case = loaded
    mask = case.inputs.get("attention_mask")
    tells_places = any(isinstance(node, Split | BatchSplit) for _, node in walk(case.expression))
    if mask is None or tells_places or request.node.callspec.id.endswith(BY_BATCH):
        pytest.skip("its rows depend on the batch that they are in")
    plan, lengths = model.plan(case.expression), mask.sum(1).tolist()
    whole = {name: tensor for name, tensor in case.expected.items() if not name.endswith("loss")}
    rows, tokens = mask.shape
    for places in batches(lengths, batch_tokens=int(tokens * 2.5)):
        longest = max(lengths[place] for place in places)
        inputs = {name: _cut(name, tensor[places], longest) for name, tensor in case.inputs.items()}
        own = found(model, plan, case._replace(labels=None), inputs)
        for name, expected in whole.items():
            theirs = _by_row(expected, rows)[places]
            for place, one, other in zip(places, _by_row(own[name], len(places)), theirs, strict=True):
                per_token = other.dim() == 3 and not model.spec.encoder_decoder
                there = lengths[place] if per_token else other.shape[1]
                compare({name: one[:, :there]}, {name: other[:, :there]})


def _cut(name: str, tensor: Tensor, longest: int) -> Tensor:
    return tensor if name.startswith("decoder") else tensor[:, :longest]


def _by_row(tensor: Tensor, rows: int) -> Tensor:
    """[rows, branches, ...] of what lies branch by branch."""
    return tensor.unflatten(0, (-1, rows)).transpose(0, 1)
