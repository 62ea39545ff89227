"""Bottlenecks and LoRA at one site: what they compute, what they cost, how they start."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compose.errors import FileError
from compose.methods.adapter import Adapter
from compose.methods.bottleneck.spec import NON_LINEARITIES
from compose.methods.part import Context, LowRank
from compose.methods.registry import make_config
from tests.methods.shapes import (
    BERT_BASE,
    FEWER,
    adapter,
    encoder,
    encoder_decoder,
    first_part,
    randomised,
    site_of,
    stacked,
)

BOTTLENECKS = st.fixed_dictionaries(
    {
        "bottleneck_size": st.integers(1, 6),
        "non_linearity": st.sampled_from(NON_LINEARITIES),
        "original_ln_before": st.booleans(),
        "original_ln_after": st.booleans(),
        "ln_before": st.booleans(),
        "ln_after": st.booleans(),
        "is_parallel": st.booleans(),
        "scaling": st.sampled_from([1.0, 4.0, "learned", "channel"]),
        "use_gating": st.booleans(),
        "residual_before_ln": st.sampled_from([True, False, "post_add"]),
        "adapter_residual_before_ln": st.booleans(),
        "init_weights": st.sampled_from(["bert", "mam_adapter", "houlsby"]),
    }
)
LORAS = st.fixed_dictionaries(
    {
        "r": st.integers(1, 5),
        "alpha": st.sampled_from([1, 8, 0.5]),
        "use_gating": st.booleans(),
        "intermediate_lora": st.booleans(),
        "output_lora": st.booleans(),
        "attn_matrices": st.sampled_from([["q"], ["q", "v"], ["q", "k", "v", "o"]]),
    }
)
COMPACTERS = st.fixed_dictionaries(
    {
        "bottleneck_size": st.sampled_from([4, 8]),
        "phm_dim": st.sampled_from([1, 2, 4]),
        "factorized_phm_W": st.booleans(),
        "shared_W_phm": st.booleans(),
        "shared_phm_rule": st.booleans(),
        "factorized_phm_rule": st.booleans(),
        "phm_rank": st.integers(1, 2),
        "phm_bias": st.booleans(),
        "ln_before": st.booleans(),
        "scaling": st.sampled_from([1.0, "learned"]),
    }
)
CONFIGS = (
    st.tuples(st.just("seq_bn"), BOTTLENECKS)
    | st.tuples(st.just("lora"), LORAS)
    | st.tuples(st.just("compacter"), COMPACTERS)
)


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("seq_bn", 894_528),
        ("double_seq_bn", 1_789_056),
        ("par_bn", 7_091_712),
        ("lora", 294_912),
        ("loreft", 36_888),
        ("compacter", 57_088),
        ("compacter++", 28_576),
    ],
)
def test_sizes_on_bert_base(preset: str, count: int) -> None:
    spec = make_config(preset).describe("a", BERT_BASE)
    assert sum(part.parameters for part in spec.parts) + spec.shared_parameters == count


@FEWER
@given(CONFIGS)
def test_spec_counts_the_parameters_and_the_products(drawn: tuple[str, dict[str, Any]]) -> None:
    preset, options = drawn
    spec = encoder(1)
    made = Adapter("a", make_config(preset, **options), spec).double()
    for at in made.spec.parts:
        part = made.part(at.layer, at.site)
        assert sum(parameter.numel() for parameter in part.parameters()) == at.parameters
        site = site_of(spec, at.site)
        tokens = site.y.shape[0] * site.y.shape[1]
        with FlopCounterMode(display=False) as whole:
            assert part(site.y, site.context).shape == site.y.shape
        given_input = part.prepare(site.y, site.context).input
        with FlopCounterMode(display=False) as increment:
            part.increment(given_input)
        assert whole.get_total_flops() == 2 * tokens * at.multiplies
        assert increment.get_total_flops() == 2 * tokens * at.increment_multiplies


@FEWER
@given(CONFIGS, st.integers(0, 99))
def test_grouped_is_separate(drawn: tuple[str, dict[str, Any]], seed: int) -> None:
    preset, options = drawn
    torch.manual_seed(seed)
    spec = encoder(1)
    made = [randomised(Adapter("a", make_config(preset, **options), spec)) for _ in range(3)]
    at = made[0].spec.parts[-1]
    if options.get("non_linearity") in ("prelu", "xielu"):
        made = made[:1]  # such parts say by their shape that they stand alone
    parts = [one.part(at.layer, at.site) for one in made]
    sites = [site_of(spec, at.site) for _ in parts]
    sites = [site._replace(context=site.context._replace(norm=sites[0].context.norm)) for site in sites]
    together = stacked(sites)
    grouped = type(parts[0]).grouped(parts, together.y, together.context)
    for part, site, result in zip(parts, sites, grouped, strict=True):
        torch.testing.assert_close(result, part(site.y, site.context), rtol=1e-9, atol=1e-9)


@FEWER
@given(CONFIGS, st.sampled_from((1, 40)))
def test_increments_of_one_input_together_are_separate_ones(drawn: tuple[str, dict[str, Any]], rows: int) -> None:
    """For few tokens, and for so many that their first products are joined."""
    preset, options = drawn
    made = [randomised(adapter(preset, **options)) for _ in range(1 if "prelu" in options.values() else 3)]
    at = made[0].spec.parts[0]
    parts, site = [one.part(at.layer, at.site) for one in made], site_of(encoder(), at.site)
    read = parts[0].prepare(site.y, site.context).input
    given_input = torch.randn(rows, *read.shape[1:], dtype=torch.float64)
    for part, found in zip(parts, type(parts[0]).low_ranks(parts, given_input), strict=True):
        assert isinstance(found, LowRank)
        torch.testing.assert_close(found.dense(), part.low_rank(given_input).dense(), rtol=1e-9, atol=1e-9)


@FEWER
@given(CONFIGS)
def test_low_rank_is_the_increment(drawn: tuple[str, dict[str, Any]]) -> None:
    preset, options = drawn
    made = randomised(adapter(preset, **options))
    at = made.spec.parts[0]
    part, site = made.part(at.layer, at.site), site_of(encoder(), at.site)
    given_input = part.prepare(site.y, site.context).input
    factors = part.low_rank(given_input)
    assert isinstance(factors, LowRank) and part.factors() is not None
    dense = factors.hidden @ factors.up.T + (0 if factors.bias is None else factors.bias)
    torch.testing.assert_close(dense, part.increment(given_input))
    assert [f is None for f in factors.factors] == [f is None for f in part.factors()]


def bottleneck(**options: Any) -> tuple[Any, Tensor, Tensor, Any, Any]:
    """A part with random weights, y, x, the site's norm, and the up-projection as a function."""
    torch.manual_seed(0)
    spec = encoder()
    part = first_part(randomised(adapter("bottleneck", spec, bottleneck_size=3, **options)))
    y, context = site_of(spec, "ffn")
    assert context.residual is not None

    def f(states: Tensor) -> Tensor:
        return part.up(torch.relu(part.down(states)))

    return part, y, context.residual, context.norm, f


def same(part: Any, y: Tensor, x: Tensor, norm: Any, wanted: Tensor) -> None:
    torch.testing.assert_close(part(y, Context(residual=x, norm=norm)), wanted, rtol=1e-10, atol=1e-10)


def test_reading_after_the_layer_norm() -> None:
    part, y, x, norm, f = bottleneck(original_ln_before=True)
    same(part, y, x, norm, f(norm(y + x)) + y)
    same(part, y, x, None, f(y + x) + y)
    prepared = part.prepare(y, Context(residual=x, norm=norm))
    torch.testing.assert_close(prepared.query, norm(y + x))
    assert prepared.query_before_norm is y and prepared.residual is y


@pytest.mark.parametrize("norm_is_there", [True, False])
def test_the_three_residuals(norm_is_there: bool) -> None:
    for option in (True, False, "post_add"):
        part, y, x, norm, f = bottleneck(original_ln_before=True, residual_before_ln=option)
        norm = norm if norm_is_there else None
        read = norm(y + x) if norm else y + x
        same(part, y, x, norm, f(read) + {True: y, False: read, "post_add": y + x}[option])
        part, y, x, norm, f = bottleneck(residual_before_ln=option)
        same(part, y, x, norm, f(y) + y)


def test_no_residual() -> None:
    part, y, x, norm, f = bottleneck(residual=False, original_ln_before=True)
    same(part, y, x, norm, f(norm(y + x)))
    part, y, x, norm, f = bottleneck(residual=False)
    same(part, y, x, norm, f(y))


def test_own_layer_norms_and_the_residual_between() -> None:
    part, y, x, norm, f = bottleneck(ln_before=True, ln_after=True)
    same(part, y, x, norm, part.norm_after(f(part.norm_before(y))) + y)
    part, y, x, norm, f = bottleneck(ln_after=True, adapter_residual_before_ln=True)
    same(part, y, x, norm, part.norm_after(f(y) + y))


def test_gate_is_averaged_over_the_tokens_and_outside_the_increment() -> None:
    part, y, x, norm, f = bottleneck(use_gating=True, scaling="channel")
    gate = torch.sigmoid(part.gate(y)).mean(1, keepdim=True)
    same(part, y, x, norm, gate * f(y) * part.scaling + y)
    torch.testing.assert_close(part.increment(y), f(y) * part.scaling)


def test_parallel_adapters_read_and_stand_beside() -> None:
    part, y, x, norm, f = bottleneck(is_parallel=True, scaling=4.0, adapter_residual_before_ln=True)
    same(part, y, x, norm, y + 4 * f(x))
    prepared = part.prepare(y, Context(residual=x, norm=norm))
    assert prepared.input is x and prepared.residual is x and prepared.query is x
    mixture = torch.randn_like(y)
    torch.testing.assert_close(part.finish_fused(mixture, y), mixture + y)
    part, *_ = bottleneck()
    assert part.finish_fused(mixture, y) is mixture


def test_lora_adds_scaled_factors() -> None:
    spec = encoder()
    part: Any = first_part(randomised(adapter("lora", spec, r=3, alpha=6)))
    y, context = site_of(spec, "attn.q")
    assert context.input is not None
    torch.testing.assert_close(part(y, context), y + 2 * context.input @ part.a.T @ part.b.T)


def test_lora_gate_takes_the_place_of_the_scaling() -> None:
    spec = encoder()
    part: Any = first_part(randomised(adapter("lora", spec, r=3, alpha=6, use_gating=True)))
    context = site_of(spec, "attn.q").context
    c = context.input
    assert c is not None
    gate = torch.sigmoid(part.gate(c)).mean(1, keepdim=True)
    torch.testing.assert_close(part.increment(c), gate * (c @ part.a.T @ part.b.T))


@pytest.mark.parametrize("preset", ["lora", "par_bn", "scaled_par_bn"])
def test_fresh_adapters_of_these_methods_change_nothing(preset: str) -> None:
    spec = encoder()
    made = adapter(preset, spec)
    for at in made.spec.parts:
        site = site_of(spec, at.site)
        y = site.y.float()
        context = Context(
            residual=None if site.context.residual is None else site.context.residual.float(),
            input=None if site.context.input is None else site.context.input.float(),
        )
        assert torch.equal(made.part(at.layer, at.site)(y, context), y)


@pytest.mark.parametrize(
    ("preset", "options"),
    [("seq_bn", {}), ("seq_bn", {"init_weights": "houlsby", "use_gating": True, "ln_before": True}),
     ("par_bn", {}), ("lora", {}), ("lora", {"init_weights": "bert", "use_gating": True})],
)  # fmt: skip
def test_a_seed_decides_and_leaves_the_global_generator_alone(preset: str, options: dict[str, Any]) -> None:
    before = torch.get_rng_state()
    one = adapter(preset, init_weights_seed=7, **options)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)
    two = adapter(preset, init_weights_seed=7, **options)
    assert all(torch.equal(value, two.tensors()[name]) for name, value in one.tensors().items())
    other = adapter(preset, init_weights_seed=8, **options)
    assert not all(torch.equal(value, other.tensors()[name]) for name, value in one.tensors().items())
    torch.manual_seed(5)
    free = adapter(preset, **options)
    torch.manual_seed(5)
    assert all(torch.equal(value, adapter_of[name]) for adapter_of in [adapter(preset, **options).tensors()]
               for name, value in free.tensors().items())  # fmt: skip


def test_how_weights_start() -> None:
    def weights(size: int, init_weights: str) -> tuple[Tensor, Tensor, Tensor]:
        spec = encoder(1, 256)
        made = adapter("bottleneck", spec, bottleneck_size=size, init_weights=init_weights).tensors()
        return made["0.ffn.down.weight"], made["0.ffn.up.weight"], made["0.ffn.up.bias"]

    down, up, bias = weights(256, "bert")
    assert abs(float(down.std()) - 0.02) < 1e-3 and not bias.any()
    down, up, bias = weights(256, "houlsby")
    assert float(up.abs().max()) <= 0.02 and 0.007 < float(up.std()) < 0.01 and not bias.any()
    down, up, bias = weights(16, "mam_adapter")
    assert not up.any() and not bias.any() and 0.06 < float(down.abs().max()) <= 1 / 16


def test_stochastic_depth_skips_rows_in_training_only() -> None:
    torch.manual_seed(0)
    part, _, _, _, f = bottleneck(stochastic_depth=0.25, scaling="channel")
    states = torch.randn(4000, 2, 12, dtype=torch.float64)
    whole = f(states) * part.scaling
    for increment in (part.increment(states), part.low_rank(states).dense()):
        skipped = (increment == 0).flatten(1).all(1)
        assert 0.2 < float(skipped.double().mean()) < 0.3
        torch.testing.assert_close(increment[~skipped], whole[~skipped] / 0.75)
    grouped = type(part).grouped([part, part], torch.stack([states, states]), Context())
    assert 0.2 < float((grouped == states).flatten(2).all(-1).double().mean()) < 0.3
    part.eval()
    torch.testing.assert_close(part.increment(states), whole)


def test_dropout_acts_in_training_only() -> None:
    part, y, x, norm, f = bottleneck(dropout=0.5)
    dropped = part(y, Context(residual=x, norm=norm)) - y
    assert 0.3 < float((dropped.abs() < 1e-12).double().mean()) < 0.7
    part.eval()
    same(part, y, x, norm, f(y) + y)
    lora: Any = first_part(randomised(adapter("lora", dropout=0.5)))
    c = torch.randn(2, 3, 12, dtype=torch.float64)
    assert not torch.equal(lora.increment(c), lora.increment(c))
    lora.eval()
    assert torch.equal(lora.increment(c), lora.increment(c))


def test_more_leading_dimensions() -> None:
    part, _, _, _, _ = bottleneck(use_gating=True)
    y = torch.randn(2, 3, 5, 12, dtype=torch.float64)
    torch.testing.assert_close(part(y, Context()), torch.stack([part(one, Context()) for one in y]))


def test_canonical_names() -> None:
    assert set(adapter("lora", encoder(1)).tensors()) == {
        "0.attn.q.a",
        "0.attn.q.b",
        "0.attn.v.a",
        "0.attn.v.b",
    }
    names = adapter("bottleneck", encoder_decoder(), mh_adapter=True, cross_adapter=True, ln_before=True,
                    use_gating=True, scaling="learned").tensors()  # fmt: skip
    for name in ("3.cross.attn.down.weight", "0.attn.up.bias", "2.ffn.scaling", "2.ffn.norm_before.weight",
                 "1.ffn.gate.bias"):  # fmt: skip
        assert name in names


@pytest.mark.parametrize("name", ["my.sst", "weight", "lora", "parts", "a-b_c.d"])
def test_any_legal_name_is_fine(name: str) -> None:
    made = Adapter(name, make_config("lora"), encoder())
    assert made.name == made.spec.name == name and made.state_dict()


def test_tensors_come_back() -> None:
    one = adapter("double_seq_bn", use_gating=True)
    two = adapter("double_seq_bn", use_gating=True)
    two.load_tensors({name: tensor.clone() for name, tensor in one.tensors().items()})
    assert all(torch.equal(tensor, two.tensors()[name]) for name, tensor in one.tensors().items())
    assert all(parameter.requires_grad for parameter in two.parameters())


def test_loading_is_all_or_nothing() -> None:
    made = adapter("seq_bn")
    before = copy.deepcopy(made.tensors())
    given_tensors = {name: torch.ones_like(tensor) for name, tensor in made.tensors().items()}
    del given_tensors["0.ffn.down.weight"]
    given_tensors["0.ffn.dwon.weight"] = torch.ones(1)
    given_tensors["1.ffn.up.bias"] = torch.ones(3)
    given_tensors["1.ffn.down.bias"][0] = float("nan")
    with pytest.raises(FileError) as caught:
        made.load_tensors(given_tensors)
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    assert "'0.ffn.down.weight' of shape (1, 12) is missing" in text and "legal: '0.ffn.down.weight'" in text
    assert "shape (3,) where (12,) is needed" in text and "not finite" in text
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.tensors().items())


def test_copies_and_dtypes() -> None:
    made = adapter("seq_bn", non_linearity="prelu", scaling="learned")
    clone = copy.deepcopy(made)
    with torch.no_grad():
        first: nn.Parameter = next(clone.parameters())
        first.fill_(3)
    assert not torch.equal(next(made.parameters()), first)
    assert {tensor.dtype for tensor in made.double().tensors().values()} == {torch.float64}
