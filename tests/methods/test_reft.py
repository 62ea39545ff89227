"""ReFT at one site: the equation, which tokens it acts on, and a projection that stays orthogonal."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from compose.errors import ConfigError
from compose.methods.bottleneck.module import activation
from compose.methods.part import Context
from compose.methods.reft.module import ReftPart
from compose.methods.reft.orthogonal import orthonormal
from compose.methods.registry import make_config
from compose.methods.row_tokens import RowTokens
from tests.methods.shapes import FEWER, adapter, encoder, encoder_decoder, first_part, randomised

ROWS, TOKENS, WIDTH = 4, 6, 12
MASKS = {
    "none": None,
    "right": [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]],
    "left": [[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 1]],
    "holes": [[1, 0, 1, 1, 0, 1], [0, 1, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 1, 1]],
}
OPTIONS = st.fixed_dictionaries(
    {
        "prefix_positions": st.integers(0, 8),
        "suffix_positions": st.integers(0, 8),
        "r": st.integers(1, 4),
        "orthogonality": st.booleans(),
        "tied_weights": st.booleans(),
        "subtract_projection": st.booleans(),
        "non_linearity": st.sampled_from([None, "relu", "gelu", "tanh"]),
    }
).filter(lambda options: options["prefix_positions"] + options["suffix_positions"] > 0)


def mask_of(name: str) -> Tensor | None:
    rows = MASKS[name]
    return None if rows is None else torch.tensor(rows)


def part_of(**options: Any) -> ReftPart:
    made = first_part(randomised(adapter("loreft", encoder(1), **options))).eval()
    assert isinstance(made, ReftPart)
    return made


def context_of(mask: Tensor | None, tokens: int = TOKENS) -> Context:
    return Context(row_tokens=RowTokens.of(ROWS, tokens, torch.device("cpu"), mask))


def states(seed: int = 0, tokens: int = TOKENS) -> Tensor:
    return torch.randn(ROWS, tokens, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reference(part: ReftPart, y: Tensor, mask: Tensor | None) -> Tensor:
    """The equation, token by token."""
    config, result = part.config, y.clone()
    f = activation(config.non_linearity) if config.non_linearity else lambda x: x
    for row in range(ROWS):
        there = [place for place in range(y.shape[1]) if mask is None or mask[row, place]]
        last = there[max(0, len(there) - config.suffix_positions) :] if config.suffix_positions else []
        for place in {*there[: config.prefix_positions], *last}:
            unit = part.units["tied" if config.tied_weights else "suffix" if place in last else "prefix"]
            x, projection = y[row, place], unit.projection.weight
            if config.orthogonality:  # Gram-Schmidt, by hand
                rows: list[Tensor] = []
                for vector in projection:
                    vector = vector - sum(((vector @ other) * other for other in rows), torch.zeros(()))
                    rows.append(vector / vector.norm())
                projection = torch.stack(rows)
            target = f(unit.source.weight @ x + unit.source.bias)
            if config.subtract_projection:
                target = target - projection @ x
            result[row, place] = x + projection.T @ target
    return result


@FEWER
@given(OPTIONS, st.sampled_from(sorted(MASKS)))
def test_the_equation(options: dict[str, Any], name: str) -> None:
    part, mask, y = part_of(**options), mask_of(name), states()
    with torch.no_grad():
        found = part(y, context_of(mask))
        torch.testing.assert_close(found, reference(part, y, mask), rtol=1e-9, atol=1e-9)
        if mask is None:
            assert torch.equal(part(y, Context()), found)
        else:
            assert torch.equal(found[mask == 0], y[mask == 0])


@FEWER
@given(OPTIONS, st.sampled_from(sorted(MASKS)))
def test_forms_are_one(options: dict[str, Any], name: str) -> None:
    """Increment, factors, what a fusion leaves to `finish`, and groups: all the same numbers."""
    parts = [part_of(**options), part_of(**{**options, "orthogonality": not options["orthogonality"]})]
    context, ys = context_of(mask_of(name)), torch.stack([states(1), states(2)])
    with torch.no_grad():
        grouped = ReftPart.grouped(parts, ys, context)
        for part, y, together in zip(parts, ys, grouped, strict=True):
            prepared, expected = part.prepare(y, context), part(y, context)
            increment = part.increment(prepared.input)
            torch.testing.assert_close(part.low_rank(prepared.input).dense(), increment, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(part.finish(increment, prepared), expected, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(together, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("tied", [False, True])
def test_dropout_takes_whole_states_of_its_tokens(tied: bool) -> None:
    part = part_of(dropout=0.5, prefix_positions=2, suffix_positions=1, tied_weights=tied).train()
    y, context = states(), context_of(mask_of("right"))

    def drawn(call: Any) -> Tensor:
        torch.manual_seed(3)
        return call().detach()

    plain = copy.deepcopy(part).eval()(y, context).detach()
    found = drawn(lambda: part(y, context))
    chosen = part.prepare(y, context).input.tokens.ends(2, 1, together=tied)
    values = found.gather(1, chosen.places.unsqueeze(-1).expand(-1, -1, WIDTH))[chosen.there]
    kept = plain.gather(1, chosen.places.unsqueeze(-1).expand(-1, -1, WIDTH))[chosen.there]
    zero = values.abs() < 1e-12
    assert 0.2 < zero.double().mean() < 0.8
    torch.testing.assert_close(values[~zero], 2 * kept[~zero], rtol=1e-9, atol=1e-9)
    prepared = part.prepare(y, context)
    shared = drawn(lambda: part.finish(part.increment(prepared.input), prepared))
    torch.testing.assert_close(shared, found, rtol=1e-9, atol=1e-9)
    alone = drawn(lambda: ReftPart.grouped([part], y[None], context)[0])
    torch.testing.assert_close(alone, found, rtol=1e-9, atol=1e-9)


@FEWER
@given(OPTIONS, st.integers(1, 10))
def test_spec_counts_the_parameters_and_the_products(options: dict[str, Any], tokens: int) -> None:
    made = adapter("loreft", encoder(1), **options)
    part, at = first_part(made).eval(), made.spec.parts[0]
    assert sum(p.numel() for p in part.parameters()) == at.parameters
    y = states(0, tokens).float()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        part(y, Context())
    assert counter.get_total_flops() == 2 * ROWS * at.acted(tokens) * at.multiplies


def test_a_span_keeps_the_numbers_of_its_row() -> None:
    """What a Split cuts off changes only those of a row's first and last tokens that lie in it."""
    part, y, mask = part_of(prefix_positions=2, suffix_positions=2), states(), mask_of("right")
    context = context_of(mask)
    with torch.no_grad():
        whole = part(y, context)
        for start, stop in ((0, 1), (1, 4), (3, 6), (2, 2)):
            piece = part(y[:, start:stop], context.each(lambda tensor, a=start, b=stop: tensor[:, a:b]))
            torch.testing.assert_close(piece, whole[:, start:stop])


def test_tokens_in_a_cache_and_in_front() -> None:
    """A longer mask knows tokens that a cache holds, a shorter one none of the prompts before its own."""
    part, y, mask = part_of(prefix_positions=3, suffix_positions=1), states(), mask_of("left")
    assert mask is not None
    with torch.no_grad():
        whole = part(y, context_of(mask))
        torch.testing.assert_close(part(y[:, 4:], context_of(mask, 2)), whole[:, 4:])
        prompted = torch.cat([torch.ones_like(mask[:, :2]), mask[:, 2:]], dim=1)
        torch.testing.assert_close(part(y, context_of(mask[:, 2:])), part(y, context_of(prompted)))


def identity(r: int) -> Tensor:
    return torch.eye(r, dtype=torch.float64)


def test_starts_orthonormal_and_by_its_seed() -> None:
    first, second = (adapter("loreft", r=4, init_weights_seed=5) for _ in range(2))
    for name, tensor in first.tensors().items():
        assert torch.equal(tensor, second.tensors()[name])
        if name.endswith("projection.weight"):
            torch.testing.assert_close(tensor @ tensor.T, torch.eye(4))
    units = first_part(first).units
    assert not torch.equal(units["prefix"].source.weight, units["suffix"].source.weight)


@pytest.mark.parametrize(("kind", "rate"), [(torch.optim.SGD, 1.0), (torch.optim.AdamW, 0.05)])
def test_training_keeps_the_projection_orthogonal(kind: Any, rate: float) -> None:
    part, y, target = part_of(r=3, dropout=0.0), states(), states(9)
    optimizer = kind(part.parameters(), lr=rate)
    losses = []
    before = part.units["prefix"].projection.matrix().detach()
    for _ in range(60):
        loss = (part(y, Context()) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        with torch.no_grad():
            matrix = part.units["prefix"].projection.matrix()
            torch.testing.assert_close(matrix @ matrix.T, identity(3), rtol=0, atol=1e-12)
    assert losses[-1] < losses[0]
    assert float((matrix - before).abs().max()) > 0.05


def test_gradients() -> None:
    part, y = part_of(r=2, prefix_positions=2, suffix_positions=1, non_linearity="tanh"), states()
    names = [name for name, _ in part.named_parameters()]
    context = context_of(mask_of("right"))

    def call(*values: Tensor) -> Tensor:
        return torch.func.functional_call(part, dict(zip(names, values, strict=True)), (y, context))

    assert torch.autograd.gradcheck(call, tuple(p.detach().requires_grad_() for p in part.parameters()))


def test_orthonormal_leaves_what_is_orthonormal() -> None:
    matrix = orthonormal(torch.randn(5, 12, dtype=torch.float64))
    torch.testing.assert_close(orthonormal(matrix), matrix, rtol=0, atol=1e-14)
    torch.testing.assert_close(orthonormal(-matrix), -matrix, rtol=0, atol=1e-14)


def test_what_is_kept_follows_the_weight() -> None:
    """In evaluation the projection is made once; any change of the weight makes it anew, and copies share nothing."""
    projection = part_of(r=2).units["prefix"].projection
    with torch.no_grad():
        first = projection.matrix()
        assert projection.matrix() is first
        copied, pickled = copy.deepcopy(projection), pickle.loads(pickle.dumps(projection))
        projection.weight.copy_(torch.randn_like(projection.weight))
        second = projection.matrix()
        assert not torch.equal(first, second)
        for other in (copied, pickled):
            assert torch.equal(other.matrix(), first) and other.matrix() is not first
        projection.float()
        assert projection.matrix().dtype == torch.float32
    with torch.inference_mode():
        kept = projection.matrix()
    assert not kept.is_inference() and not kept.requires_grad
    assert projection.matrix().requires_grad


def test_where_it_acts() -> None:
    spec = encoder_decoder()
    assert [(part.layer, part.site) for part in adapter("loreft", spec).spec.parts] == [
        (layer, "layer") for layer in range(4)
    ]
    assert [part.layer for part in adapter("loreft", spec, layers=[3, 0]).spec.parts] == [0, 3]
    assert make_config("loreft", layers=[1]).to_dict()["layers"] == [1]
    assert make_config("direft") == make_config("reft", orthogonality=False, subtract_projection=False)
    assert make_config("noreft") == make_config("reft", orthogonality=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefix_positions": 0}, "both 0"),
        ({"layers": "some"}, "layers must be 'all' or a list"),
        ({"layers": [-1]}, "layers must be"),
        ({"suffix_positions": -1}, "suffix_positions must be"),
        ({"r": 0}, "r must be"),
        ({"non_linearity": "bent"}, "non_linearity must be the name of an activation, or None"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"orthogonal": True}, "no option 'orthogonal'"),
        ({"layers": [2]}, "layers names layer 2, but the backbone has 2"),
        ({"layers": []}, "act nowhere"),
        ({"r": 13}, "cannot all be orthogonal"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        adapter("loreft", **options)
