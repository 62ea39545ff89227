"""ScaLearn: its forms are one function; shared scales, files, cost, compositions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import compose
from compose.dsl import Drop, Fuse, Stack
from compose.errors import CompileError, ConfigError
from compose.methods.fusion.part import FusionPlace
from compose.methods.fusions import FUSION_PRESETS, make_fusion_config
from compose.methods.part import LowRank
from compose.methods.scalearn.module import ScaLearnPart
from compose.methods.scalearn.spec import ScaLearnConfig
from compose.recipes.schema import Fusion as FusionSection
from compose.runtime.model import Model
from tests import tiny
from tests.graph.test_flops import counted
from tests.methods.shapes import FEWER, randomised
from tests.methods.test_fusion import KINDS, WIDTH, candidate, dense, leaves

PRESETS = tuple(name for name in FUSION_PRESETS if name.startswith("scalearn"))


def made_of(children: int, uniform: bool = False, **options: Any) -> ScaLearnPart:
    part = randomised(ScaLearnPart(ScaLearnConfig(uniform=uniform, **options), FusionPlace(WIDTH, children)))
    assert isinstance(part, ScaLearnPart)
    return part


@FEWER
@given(st.booleans(), st.lists(KINDS, min_size=1, max_size=4), st.booleans(), st.booleans(), st.integers(0, 99))
def test_all_forms_are_equal_gradients_included(
    uniform: bool, kinds: list[Any], residual_is_there: bool, training: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    part = made_of(len(kinds), uniform, dropout=0.5).train(training)
    candidates = [candidate(kind) for kind in kinds]
    query = torch.randn(2, 3, WIDTH, dtype=torch.float64)
    x = torch.randn(2, 3, WIDTH, dtype=torch.float64, requires_grad=True)
    residual = x if residual_is_there else None
    results: list[tuple[Tensor, Tensor]] = []
    for form in (part.reference, part.mix, part.mix_folded):
        torch.manual_seed(seed)  # dropout falls on the same scales
        asked: Any = [dense(one) for one in candidates] if form == part.reference else candidates
        results.append(form(query, asked, residual))
    plain, counts = results[0]
    for got, weights in results[1:]:
        torch.testing.assert_close(got, plain, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(weights, counts)
    assert counts.shape == (2, 3, len(kinds))

    wanted_in = [*leaves(candidates, x), part.scales]
    direction = torch.randn_like(plain)
    grads = [
        torch.autograd.grad((out * direction).sum() + 0 * x.sum() + 0 * part.scales.sum(), wanted_in, allow_unused=True)
        for out, _ in results[:2]
    ]
    for one, other in zip(*grads, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("uniform", [True, False])
def test_what_it_computes(uniform: bool) -> None:
    part = made_of(3, uniform).eval()
    us, x = torch.randn(3, 4, WIDTH, dtype=torch.float64), torch.randn(4, WIDTH, dtype=torch.float64)
    wanted = x + part.scales[0] * us[0] + part.scales[2] * us[2]
    got, counts = part.mix(x, [us[0], None, us[2]], x)
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(counts[0], part.scales.mean(-1))
    assert part.scales.shape == (3, 1 if uniform else WIDTH)


def test_how_scales_start() -> None:
    scales = ScaLearnPart(ScaLearnConfig(), FusionPlace(64, 4)).scales.detach()
    assert abs(float(scales.mean()) - 0.5) < 1e-3 and 5e-4 < float(scales.std()) < 2e-3
    one = ScaLearnPart(ScaLearnConfig(init_scale=1.0), FusionPlace(64, 4)).scales.detach()
    assert abs(float(one.mean()) - 0.25) < 1e-3


def test_products_are_kept_until_a_scale_changes() -> None:
    part = made_of(2).eval()
    candidates = [candidate((2, True)), candidate((3, False))]
    x = torch.randn(2, 3, WIDTH, dtype=torch.float64)
    factors = [one.factors for one in candidates if isinstance(one, LowRank)]
    first = part.fold(factors)
    assert part.fold(factors) is first
    with torch.no_grad():
        part.scales.mul_(2)
    assert part.fold(factors) is not first
    torch.testing.assert_close(part.mix_folded(x, candidates, x), part.mix(x, candidates, x))
    # The same adapter in another place has other scales.
    torch.testing.assert_close(part.mix_folded(x, [candidates[0], None], x), part.mix(x, [candidates[0], None], x))
    torch.testing.assert_close(part.mix_folded(x, [None, candidates[0]], x), part.mix(x, [None, candidates[0]], x))


def test_presets_and_what_is_wrong() -> None:
    assert make_fusion_config("scalearn++") == ScaLearnConfig(shared=True)
    assert make_fusion_config("scalearn_uniform++") == ScaLearnConfig(uniform=True, shared=True, dropout=0.0)
    with pytest.raises(ConfigError, match="there is no option 'querry' of 'scalearn'"):
        make_fusion_config("scalearn", querry=True)
    with pytest.raises(ConfigError, match="scalearn_uniform"):
        make_fusion_config("scalearn_unifrom")
    for name in FUSION_PRESETS:  # a recipe knows them all
        assert FusionSection(expression="Fuse('a', 'b')", kind=name).kind == name


def fused(preset: str, expression: Fuse, dtype: torch.dtype = torch.float64, **options: Any) -> Model:
    model = tiny.model("bert", 3, dtype, attn_implementation="eager")
    for seed, (name, method, given_options) in enumerate(
        (
            ("a", "seq_bn", {"bottleneck_size": 4}),
            ("b", "double_seq_bn", {"bottleneck_size": 4}),
            ("c", "seq_bn", {"bottleneck_size": 3, "leave_out": [0]}),
            ("lora", "lora", {"r": 2}),
        )
    ):
        tiny.randomize(model.add_adapter(name, method, **given_options), seed)
    tiny.randomize(model.add_fusion(expression, preset, **options), 7)
    return model


EXPRESSIONS = (
    Fuse("a", None, "c", name="f"),
    Fuse("b", Stack("a", "c"), Drop("a", first=1), name="f"),
    Fuse("lora", Stack("b", "c"), name="f"),
)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_compositions_files_and_cost(preset: str, expression: Fuse, tmp_path: Path) -> None:
    model = fused(preset, expression)
    batch = tiny.inputs("bert", 3, 7, padded=True)
    plan = model.plan(expression)
    reference = model.plan(expression, ["fold"])
    with torch.no_grad():
        wanted = reference.states(**batch).last_hidden_state
        for _ in range(2):
            torch.testing.assert_close(plan.states(**batch).last_hidden_state, wanted, rtol=1e-9, atol=1e-9)
    shown = plan.fusion_attention(**batch)["f"]
    assert all(weights.shape == (3, 7, len(expression.children)) for at in shown.values() for weights in at.values())

    plan.save(tmp_path / "plan")
    again = compose.load_plan(tmp_path / "plan", tiny.model("bert", 3))
    with torch.no_grad():
        torch.testing.assert_close(again.states(**batch).last_hidden_state, wanted, rtol=1e-9, atol=1e-9)
    assert again.model.fusions["f"].config == model.fusions["f"].config
    again.save(tmp_path / "again")
    for path in (tmp_path / "plan").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path / "plan")).read_bytes()

    single = fused(preset, expression, torch.float32)
    single.add_head("f", "classification", labels=2)
    short = tiny.inputs("bert", 3, 16, dtype=torch.float32)
    for without in ((), ("fold",)):
        costed = single.plan(expression, without)
        assert costed.explain(3, 16).flops == pytest.approx(counted(costed, short), rel=0.01)


@pytest.mark.parametrize(
    ("preset", "count"), [("scalearn_uniform", 3 * 2), ("scalearn_uniform++", 2), ("scalearn", 3 * 2 * 32)]
)
def test_how_many_weights_there_are(preset: str, count: int) -> None:
    model = fused(preset, Fuse("a", "c", name="f"))
    made = model.fusions["f"]
    assert sum(parameter.numel() for parameter in made.parameters()) == count
    names = {f"{layer}.ffn.scales" for layer in ((0,) if "++" in preset else (0, 1, 2))}
    assert set(made.tensors()) == names
    assert "for each child" in str(model.summary())


def test_a_Fuse_of_another_size_is_refused() -> None:
    model = fused("scalearn", Fuse("a", "c", name="f"))
    with pytest.raises(CompileError, match="the fusion 'f' scales 2 children, but this Fuse has 3"):
        model.plan(Fuse("a", "c", "b", name="f"))


def test_gradients_reach_scales_alone_and_they_do_not_decay() -> None:
    expression = Fuse("a", "c", name="f")
    model = fused("scalearn++", expression)
    model.train_only(expression, "fusion")
    model.train()
    model.plan(expression).states(**tiny.inputs("bert")).last_hidden_state.sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {"fusions.:f.parts.0:ffn.scales"}
    assert [id(parameter) for parameter in model.fusions["f"].undecayed()] == [
        id(parameter) for parameter in model.fusions["f"].parameters()
    ]


def test_compiled_plans_take_products_that_were_made_before() -> None:
    expression = Fuse("a", None, "c", name="f")
    model = fused("scalearn++", expression)
    batch = tiny.inputs("bert", 3, 7)
    plan = model.plan(expression)
    optimized = plan.optimize(backend="eager")
    for _ in range(2):
        with torch.no_grad():
            found = optimized.states(**batch).last_hidden_state
            wanted = plan.states(**batch).last_hidden_state
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
            model.fusions["f"].part(1, "ffn").scales.mul_(2)
