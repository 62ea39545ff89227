"""Methods at linear maps: what they compute, what they cost, how they start."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from compose.dsl import Fuse, parse
from compose.errors import ConfigError
from compose.methods.adapter import Adapter
from compose.methods.linear.module import Weights
from compose.methods.linear_map import LinearMap
from compose.methods.part import Context, LowRank
from compose.methods.registry import make_config
from compose.runtime.attach import attach
from compose.specs import AdapterSpec
from tests import tiny
from tests.laws.worlds import close
from tests.methods.shapes import BERT_BASE, encoder, encoder_decoder, randomised

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("lora", {"use_rslora": True, "alpha": 3}),
    ("ia3", {"alpha": 1.5}),
    ("ia3", {"use_gating": True}),
    ("dora", {"alpha": 6, "r": 3}),
    ("dora", {"alpha": 6, "r": 3, "scaled_norm": False, "scaled_bias": True}),
    ("dora", {"use_gating": True, "r": 2}),
    ("vera", {"r": 3}),
    ("vera", {"r": 3, "square": True, "use_gating": True}),
    ("dvora", {"r": 3, "use_rslora": True}),
    ("dvora", {"r": 3, "square": True}),
    ("mtl_lora", {"r": 3}),
    ("mtl_lora", {"r": 3, "n_up_projection": 3, "task_specific_matrix_type": "linear", "weights_sharpness": 2.0}),
]


class AtMap:
    """A part with random weights at a map of random weights, and values there."""

    def __init__(self, preset: str, site: str = "ffn.in", count: int = 1, bias: bool = True, **options: Any) -> None:
        torch.manual_seed(0)
        spec = encoder(1)
        sizes = spec.layers[0].sites[site]
        options = {"intermediate_lora": True, **options}
        self.made = [randomised(Adapter("a", make_config(preset, **options), spec)) for _ in range(count)]
        self.parts: list[Any] = [one.part(0, site) for one in self.made]
        self.part = self.parts[0]
        self.acting = self.made[0].spec.by_site[0, site]
        self.module = randomised(nn.Linear(sizes.width_in, sizes.width_out, bias=bias))
        self.c = torch.randn(count, 3, 5, sizes.width_in, dtype=torch.float64)
        with torch.no_grad():
            self.output = self.module(self.c)
        self.y = self.output + torch.randn_like(self.output)  # something acted before
        self.map = LinearMap(SimpleNamespace(site=site, module=self.module, fused=None))

    def context(self, index: int | None = None) -> Context:
        c, output = (self.c, self.output) if index is None else (self.c[index], self.output[index])
        return Context(input=c, output=output, map=self.map)

    def result(self, index: int = 0) -> Tensor:
        made: Tensor = self.parts[index](self.y[index], self.context(index))
        return made


def magnitudes(at: AtMap, update: Tensor, scale: float, bias: Tensor) -> Tensor:
    """The equation of DoRA as one matrix, and its difference to the map's own output."""
    weight = at.module.weight
    config = at.part.config
    norm = (weight + update * (scale if config.scaled_norm else 1)).norm(dim=1, keepdim=True)
    gain = at.part.magnitude[:, None] / norm
    moved = gain * (weight + scale * update)
    shift = bias * gain[:, 0] if config.scaled_bias else bias
    return at.y[0] + functional.linear(at.c[0], moved, shift) - at.output[0]


def test_rank_stabilised_scaling() -> None:
    at = AtMap("rslora", r=4, alpha=6)
    torch.testing.assert_close(at.result(), at.y[0] + 3 * at.c[0] @ at.part.a.T @ at.part.b.T)


def test_ia3_scales() -> None:
    at = AtMap("ia3", alpha=2.0)
    torch.testing.assert_close(at.result(), at.y[0] * 2 * at.part.scaling)
    increment = at.part.increment_at(at.part.prepare(at.y[0], at.context(0)))
    torch.testing.assert_close(increment, (2 * at.part.scaling - 1) * at.y[0])
    gated = AtMap("ia3", alpha=2.0, use_gating=True)
    gate = torch.sigmoid(gated.part.gate(gated.c[0])).mean(1, keepdim=True)
    torch.testing.assert_close(gated.result(), gated.y[0] * gated.part.scaling * gate)


@pytest.mark.parametrize("options", [{}, {"scaled_norm": False}, {"scaled_bias": True}])
def test_dora_turns_and_stretches_rows(options: dict[str, Any]) -> None:
    at = AtMap("dora", r=3, alpha=6, **options)
    update = at.part.update
    torch.testing.assert_close(at.result(), magnitudes(at, update.b @ update.a, 2.0, at.module.bias))


def test_vera_has_vectors_between_shared_factors() -> None:
    at = AtMap("vera", r=3, alpha=6)
    shared: Any = at.made[0].shared
    a, b = shared.a[:, : at.c.shape[-1]], shared.b[: at.y.shape[-1]]
    matrix = torch.diag(at.part.b) @ b @ torch.diag(at.part.d) @ a
    torch.testing.assert_close(at.result(), at.y[0] + 2 * at.c[0] @ matrix.T)
    square = AtMap("vera", r=3, alpha=6, square=True)
    shared = square.made[0].shared
    matrix = square.part.b @ shared.b[: at.y.shape[-1]] @ square.part.d @ shared.a[:, : at.c.shape[-1]]
    torch.testing.assert_close(square.result(), square.y[0] + 2 * square.c[0] @ matrix.T)


def test_dvora_is_dora_over_vera() -> None:
    at = AtMap("dvora", r=3, alpha=6)
    shared: Any = at.made[0].shared
    update = at.part.update
    matrix = torch.diag(update.b) @ shared.b[: at.y.shape[-1]] @ torch.diag(update.d) @ shared.a[:, : at.c.shape[-1]]
    torch.testing.assert_close(at.result(), magnitudes(at, matrix, 2.0, at.module.bias))


@pytest.mark.parametrize("full", [False, True])
def test_mtl_lora_weighs_its_up_projections(full: bool) -> None:
    kind = "linear" if full else "singular_values"
    at = AtMap("mtl_lora", r=3, alpha=6, n_up_projection=4, task_specific_matrix_type=kind, weights_sharpness=0.5)
    shares = torch.exp(at.part.weights / 0.5) / torch.exp(at.part.weights / 0.5).sum()
    task = at.part.task if full else torch.diag(at.part.task)
    total = sum(share * b @ task @ at.part.a for share, b in zip(shares, at.part.b, strict=True))
    assert isinstance(total, Tensor)
    torch.testing.assert_close(at.result(), at.y[0] + 2 * at.c[0] @ total.T)


@pytest.mark.parametrize(("preset", "options"), VARIANTS)
def test_folded_weights_compute_the_part(preset: str, options: dict[str, Any]) -> None:
    if options.get("use_gating"):
        return
    for bias in (True, False):
        at = AtMap(preset, bias=bias, **options)
        base = Weights(at.module.weight, at.module.bias)
        folded = at.part.folded(base, base)
        value = at.part(at.output[0], at.context(0))
        torch.testing.assert_close(functional.linear(at.c[0], folded.weight, folded.bias), value)


@pytest.mark.parametrize(("preset", "options"), VARIANTS)
def test_specs_count_parameters_and_products(preset: str, options: dict[str, Any]) -> None:
    at = AtMap(preset, **options)
    made = at.made[0]
    for part in made.spec.parts:
        assert sum(p.numel() for p in made.part(part.layer, part.site).parameters()) == part.parameters
    buffers = sum(buffer.numel() for buffer in made.buffers())
    assert made.spec.shared_parameters == buffers
    with FlopCounterMode(display=False) as whole:
        at.result()
    assert whole.get_total_flops() == 2 * (15 * at.acting.multiplies + at.acting.call_multiplies)
    prepared = at.part.prepare(at.y[0], at.context(0))
    low = at.part.low_rank(prepared.input)
    assert isinstance(low, LowRank) == at.acting.factored
    if low is not None:
        torch.testing.assert_close(low.dense(), at.part.increment_at(prepared))
        assert len(low.factors.sources) >= 1 and low.bias is None


@pytest.mark.parametrize(("preset", "options"), VARIANTS)
def test_groups_compute_what_each_does(preset: str, options: dict[str, Any]) -> None:
    at = AtMap(preset, count=3, **options)
    grouped = type(at.part).grouped(at.parts, at.y, at.context())
    for index, result in enumerate(grouped):
        torch.testing.assert_close(result, at.result(index))


@pytest.mark.parametrize(
    ("preset", "count"),
    [("lora", 294_912), ("ia3", 55_296), ("dora", 313_344), ("vera", 18_624), ("dvora", 37_056), ("mtl_lora", 295_128)],
)
def test_trained_sizes_on_bert_base(preset: str, count: int) -> None:
    """Those of AdapterHub, but for VeRA, whose vectors it trains as full matrices: case 22 of its defects."""
    spec = make_config(preset).describe("a", BERT_BASE)
    assert sum(part.parameters for part in spec.parts) == count
    if "v" in preset and "era" in preset:
        assert spec.shared_parameters == 2 * 8 * 768


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama", "t5"])
@pytest.mark.parametrize("preset", ["rslora", "ia3", "dora", "vera", "dvora", "mtl_lora"])
def test_fresh_adapters_change_nothing(preset: str, architecture: str) -> None:
    for dtype in (torch.float32, torch.float64):
        model = tiny.model(architecture, dtype=dtype)
        model.add_adapter("a", preset)
        inputs = tiny.inputs(architecture)
        with torch.no_grad():
            plain, fresh = (model.plan(one).states(**inputs).last_hidden_state for one in (None, "a"))
        assert torch.equal(plain, fresh)


def test_ia3_places_its_scalings() -> None:
    def sites(spec: AdapterSpec) -> set[str]:
        return {part.site for part in spec.parts}

    assert sites(make_config("ia3").describe("a", encoder())) == {"attn.k", "attn.v", "ffn.in"}
    both = sites(make_config("ia3").describe("a", encoder_decoder()))
    assert both == {"attn.k", "attn.v", "cross.attn.k", "cross.attn.v", "ffn.in"}


def test_vera_draws_its_factors_from_the_seed() -> None:
    def made(seed: int | None) -> dict[str, Tensor]:
        return Adapter("a", make_config("vera", init_weights_seed=seed), encoder()).tensors()

    one, two, other = made(7), made(7), made(8)
    assert {"shared.a", "shared.b", "0.attn.q.d", "0.attn.q.b"} <= set(one)
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert not torch.equal(one["shared.a"], other["shared.a"])
    assert torch.equal(one["0.attn.q.d"], torch.full((8,), 0.1)) and not one["0.attn.q.b"].any()


def test_the_factors_of_vera_are_never_trained() -> None:
    model = tiny.model()
    model.add_adapter("a", "vera")
    assert model.train_only("a").count == sum(part.parameters for part in model.adapters["a"].spec.parts)
    assert "shared.a" not in dict(model.adapters["a"].named_parameters())


@pytest.mark.parametrize("text", ["'dora'", "Parallel('dora', 'ia3', 'mtl', 'vera')", "Fuse('mtl', 'ia3', 'dora')",
                                  "Fuse('mtl', 'vera', name='low')", "Stack('square', 'dvora')"])  # fmt: skip
def test_predicted_flops(text: str) -> None:
    model = tiny.model("bert", 2, torch.float32, attn_implementation="eager")
    for name, preset, options in (
        ("dora", "dora", {"r": 2}),
        ("ia3", "ia3", {"use_gating": True}),
        ("vera", "vera", {"r": 3}),
        ("square", "vera", {"r": 3, "square": True}),
        ("dvora", "dvora", {"r": 3}),
        ("mtl", "mtl_lora", {"n_up_projection": 3, "task_specific_matrix_type": "linear"}),
    ):
        model.add_adapter(name, preset, **options)
    expression = parse(text)
    if isinstance(expression, Fuse):
        model.add_fusion(expression)
    plan = model.plan(expression)
    batch = tiny.inputs("bert", 3, 16)
    with torch.no_grad():
        plan.states(**batch)
        with FlopCounterMode(display=False) as counter:
            plan.states(**batch)
    assert plan.explain(3, 16).flops == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.parametrize(
    ("preset", "options", "message"),
    [
        ("mtl_lora", {"weights_sharpness": 0}, "weights_sharpness must be a number above 0"),
        ("mtl_lora", {"task_specific_matrix_type": "full"}, "singular_values"),
        ("mtl_lora", {"n_up_projection": 0}, "n_up_projection"),
        ("vera", {"vera_d": "0.1"}, "vera_d must be a finite number"),
        ("ia3", {"r": 4}, "there is no option 'r' of 'ia3'"),
        ("dora", {"scaled_norm": 1}, "scaled_norm must be True or False"),
        ("dvora", {"selfattn_lora": False}, "it would act nowhere"),
        ("rslora", {"use_rslora": None}, "use_rslora must be True or False"),
    ],
)
def test_options_that_are_refused(preset: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(preset, **options)


@pytest.mark.parametrize(("preset", "options"), [("dora", {}), ("dora", {"scaled_bias": True}), ("dvora", {})])
def test_a_row_of_zeros_has_no_direction(preset: str, options: dict[str, Any]) -> None:
    backbone = tiny.backbone()
    with torch.no_grad():
        backbone.encoder.layer[0].attention.self.query.weight[3] = 0
    model = attach(backbone)
    adapter = model.add_adapter("a", preset, **options)
    states, plain = (model.plan(each).states(**tiny.inputs()).last_hidden_state for each in ("a", None))
    assert torch.equal(states, plain)
    states.pow(2).sum().backward()
    assert all(bool(weight.grad.isfinite().all()) for weight in adapter.parameters() if weight.grad is not None)
    model.merge("a")
    close(model.plan("a").states(**tiny.inputs()).last_hidden_state, plain)
