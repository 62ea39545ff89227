"""Merging every method: where its effect is linear in what is merged, that of the result is the sum; else a refusal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import compose
from compose.dsl import Average
from compose.errors import ConfigError
from compose.methods.merging.rules import RULES
from compose.methods.registry import METHODS, make_config
from compose.runtime.model import Model
from tests import tiny

FREE = (0.6, 0.8)
MEAN = (0.3, 0.7)
NEGATIVE = (0.6, -0.8)


def states(model: Model, expression: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.plan(expression).states(**tiny.inputs(model.spec.architecture, 3, 7)).last_hidden_state
    return found


def model_of(method: Any, architecture: str = "bert", **options: Any) -> Model:
    model = tiny.model(architecture, 2)
    for seed, name in enumerate("ab"):
        tiny.randomize(model.add_adapter(name, method, **options), seed + 1)
    return model


def share(model: Model, *endings: str) -> None:
    """Gives the second adapter some weights of the first."""
    tensors = model.adapters["a"].tensors()
    for name, tensor in model.adapters["b"].tensors().items():
        if name.endswith(endings):
            tensor.copy_(tensors[name])


def summed(model: Model, weights: Sequence[float]) -> Tensor:
    return states(model, Average("a", "b", weights=list(weights), normalize=False))


def equal(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


LAST = {"leave_out": [0], "selfattn_lora": False, "output_lora": True}
"""One map: increments at several would see each other."""

LINEAR: dict[str, tuple[Any, dict[str, Any], tuple[str, ...]]] = {
    "ia3": ("ia3", {**LAST, "intermediate_lora": False}, ()),
    "ia3 with alpha": ("ia3", {**LAST, "intermediate_lora": False, "alpha": 2.5}, ()),
    "bitfit": ("bitfit", {"selfattn": [], "ffn": ["out"]}, ()),
    "lora of one A": ("lora", {**LAST, "r": 2}, (".a",)),
    "vera of one d": ("vera", {**LAST, "r": 3}, (".d", "shared.a", "shared.b")),
    "mtl-lora of one A": ("mtl_lora", {**LAST, "r": 2, "n_up_projection": 2}, (".a", ".task", ".weights")),
    "direft of one source": ("direft", {"layers": [1]}, (".source.weight", ".source.bias")),
}


@pytest.mark.parametrize("case", LINEAR)
def test_the_effect_is_the_sum_where_it_is_linear(case: str) -> None:
    method, options, shared = LINEAR[case]
    model = model_of(method, **options)
    share(model, *shared)
    if shared:  # what is merged but the same in both starts at 0: its mean is itself
        compose.merge_adapters(model, [*"ab"], "m", weights=MEAN)
        equal(states(model, "m"), summed(model, MEAN))
        compose.merge_adapters(model, [*"ab"], "n", "task_arithmetic", weights=(0.3, -0.7))
        equal(states(model, "n"), summed(model, (0.3, -0.7)))
    else:
        compose.merge_adapters(model, [*"ab"], "m", weights=FREE)
        equal(states(model, "m"), summed(model, FREE))
        compose.merge_adapters(model, [*"ab"], "n", "task_arithmetic", weights=NEGATIVE)
        equal(states(model, "n"), summed(model, NEGATIVE))


@pytest.mark.parametrize("method", ["lora", "ia3", "bitfit", "vera", "mtl_lora", "direft", "seq_bn"])
def test_negation_undoes(method: str) -> None:
    # of one adapter at one place: what comes later would read what came before
    options = {"bitfit": {"selfattn": [], "ffn": ["out"]}, "direft": {"layers": [1]}, "seq_bn": {}}.get(
        method, dict(LAST)
    )
    if method == "ia3":
        options["intermediate_lora"] = False
    if method != "direft":
        options["leave_out"] = [0]
    model = model_of(method, **options)
    compose.merge_adapters(model, ["a"], "minus", "task_arithmetic", weights=[-1])
    equal(states(model, Average("a", "minus", weights=[1, 1], normalize=False)), states(model, None))
    assert not torch.allclose(states(model, "a"), states(model, None))


EVERY: dict[str, tuple[Any, dict[str, Any]]] = {
    "bottleneck": ("seq_bn_inv", {}),
    "compacter": ("compacter", {}),
    "bitfit": ("bitfit", {}),
    "lora": ("lora", {"use_rslora": True}),
    "ia3": ("ia3", {}),
    "dora": ("dora", {}),
    "vera": ("vera", {}),
    "dvora": ("dvora", {}),
    "mtl_lora": ("mtl_lora", {"task_specific_matrix_type": "linear"}),
    "reft": ("loreft", {}),
    "prompt_tuning": ("prompt_tuning", {}),
    "prefix_tuning": ("prefix_tuning", {"bottleneck_size": 4, "prefix_length": 3}),
    "layer_aggregation": ("layer_aggregation", {}),
    "union": ("mam", {}),
}


@pytest.mark.parametrize("method", EVERY)
def test_one_adapter_with_weight_1_is_itself(method: str) -> None:
    preset, options = EVERY[method]
    model = model_of(preset, **options)
    compose.merge_adapters(model, ["a"], "m", weights=[1])
    compose.merge_adapters(model, ["a", "a"], "twice")
    for name in ("m", "twice"):
        found, wanted = model.adapters[name].tensors(), model.adapters["a"].tensors()
        for key in wanted:
            torch.testing.assert_close(found[key], wanted[key])
    assert model.adapters["m"].config == model.adapters["a"].config


def test_every_method_has_a_rule() -> None:
    assert set(EVERY) == set(METHODS) and set(RULES) == set(METHODS) - {"union"}


@pytest.mark.parametrize("kind", ["concat", "svd"])
@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_rank_stabilised_loras_side_by_side(kind: str, architecture: str) -> None:
    """Their scaling is alpha / sqrt(r): it goes into the factors, and plain LoRAs may be among them."""
    model = tiny.model(architecture, 2)
    tiny.randomize(model.add_adapter("a", "lora", r=2, alpha=3, use_rslora=True), 1)
    tiny.randomize(model.add_adapter("b", "lora", r=3, alpha=4), 2)
    compose.merge_adapters(model, [*"ab"], "m", kind, weights=NEGATIVE, **({"rank": 5} if kind == "svd" else {}))
    equal(states(model, "m"), summed(model, NEGATIVE))


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "t5"])
@pytest.mark.parametrize("method", ["prefix_tuning", "prompt_tuning"])
def test_virtual_tokens_are_averaged_as_an_average_does(architecture: str, method: str) -> None:
    options = {"prefix_length": 3, "flat": True} if method == "prefix_tuning" else {"prompt_length": 3}
    model = model_of(method, architecture, **options)
    compose.merge_adapters(model, [*"ab"], "m", weights=MEAN)
    equal(states(model, "m"), states(model, Average("a", "b", weights=list(MEAN))))


def test_compacters_of_one_rule() -> None:
    """Their maps are linear in W where the rule is the same; with rules of their own they are refused."""
    model = model_of("compacter", phm_dim=2, factorized_phm_W=False, bottleneck_size=4)
    with pytest.raises(ConfigError, match=r"rule\..*differs.*\n?.*sums of Kronecker products"):
        compose.merge_adapters(model, [*"ab"], "m")
    share(model, "rule.whole", "rule.left", "rule.right")
    compose.merge_adapters(model, [*"ab"], "m", weights=FREE)
    parts = {name: model.adapters[name].part(0, "ffn") for name in "abm"}
    for direction in ("down", "up"):
        a, b, m = (getattr(parts[name], direction).weight for name in "abm")
        torch.testing.assert_close(m, FREE[0] * a + FREE[1] * b)


def test_loreft_of_one_projection() -> None:
    model = model_of("loreft", layers=[1], prefix_positions=2)
    with pytest.raises(ConfigError, match="rows of a sum of projections are not orthonormal"):
        compose.merge_adapters(model, [*"ab"], "m")
    share(model, "projection.weight")
    compose.merge_adapters(model, [*"ab"], "m", weights=MEAN)
    equal(states(model, "m"), summed(model, MEAN))


def test_parts_of_a_union_have_the_rules_of_their_methods() -> None:
    methods = [make_config("ia3", **LAST), make_config("bitfit", selfattn=["q"], ffn=["out"])]
    model = model_of(methods)
    compose.merge_adapters(model, [*"ab"], "m", "task_arithmetic", weights=NEGATIVE)
    one, two, found = (model.adapters[name].tensors() for name in "abm")
    for name, tensor in found.items():
        start = 1.0 if name.endswith("scaling") else 0.0
        wanted = start + NEGATIVE[0] * (one[name] - start) + NEGATIVE[1] * (two[name] - start)
        torch.testing.assert_close(tensor, wanted)
    assert {name.rpartition(".")[2] for name in found} == {"scaling", "bias"}


@pytest.mark.parametrize(
    ("method", "options", "kind", "weights", "message"),
    [
        ("dora", {}, "ties", None, "'ties' has no meaning for dora"),
        ("dora", {}, "linear", (1.0, 1.0), "from 0 and add up to 1, these to 2"),
        ("dora", {}, "svd", None, "svd merges LoRAs.*norm of the backbone's weights"),
        ("dvora", {}, "dare_linear", None, "'dare_linear' has no meaning for dvora"),
        ("prefix_tuning", {"flat": True}, "task_arithmetic", None, "no meaning for prefix_tuning"),
        ("prompt_tuning", {}, "linear", (0.5, 0.6), "add up to 1, these to 1.1"),
        ("mam", {}, "ties", None, "'ties' has no meaning for prefix_tuning"),
        ("seq_bn_inv", {}, "task_arithmetic", NEGATIVE, "bottleneck adapters have no weights that could be negated"),
        ("noreft", {}, "task_arithmetic", NEGATIVE, "reft adapters have no weights that could be negated"),
        ("vera", {}, "linear", None, "'shared.a' differs, which must be the same"),
        ("vera", {}, "concat", None, "its factors are the same for all maps"),
        ("ia3", {}, "svd", None, "it scales, and adds no product"),
        ("bitfit", {}, "concat", None, "kind='linear' is exact"),
    ],
)
def test_what_has_no_meaning(
    method: str, options: dict[str, Any], kind: str, weights: tuple[float, ...] | None, message: str
) -> None:
    model = model_of(method, **options)
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        compose.merge_adapters(model, [*"ab"], "m", kind, weights=weights)
    assert "m" not in model.adapters


def test_what_differs_is_named() -> None:
    model = tiny.model("bert", 2)
    for name, length in (("a", 3), ("b", 4)):
        model.add_adapter(name, "prefix_tuning", prefix_length=length)
    with pytest.raises(ConfigError, match="prefix_length is 3 in the one, 4 in the other"):
        compose.merge_adapters(model, [*"ab"], "m")
    model.add_adapter("c", [make_config("lora", r=2), make_config("seq_bn")])
    model.add_adapter("d", [make_config("lora", r=3), make_config("seq_bn")])
    with pytest.raises(ConfigError, match=r"configs\[0\]\.r is 2 in the one, 3 in the other"):
        compose.merge_adapters(model, [*"cd"], "m")
    with pytest.raises(ConfigError, match="one is a prefix_tuning adapter, the other a union of lora and bottleneck"):
        compose.merge_adapters(model, [*"ac"], "m")
    # how weights started does not matter
    for name, scale in (("e", 0.5), ("f", 0.1)):
        model.add_adapter(name, "prompt_tuning", random_uniform_scale=scale)
    compose.merge_adapters(model, [*"ef"], "m")


def test_sparse_adapters_stay_sparse(tmp_path: Path) -> None:
    """What either keeps is kept; what both have pruned stays so, in files too."""
    model = model_of("seq_bn", reduction_factor=4)
    for name in "ab":
        compose.sparsify(model, name, 0.75)
    compose.merge_adapters(model, [*"ab"], "m")
    masks = {name: model.adapters[name].masks.by_name() for name in "abm"}
    for key, mask in masks["m"].items():
        assert mask.equal(masks["a"][key] | masks["b"][key])
    assert 0.5 <= model.adapters["m"].masks.sparsity() < 0.75
    model.save_adapter("m", tmp_path / "m")
    other = tiny.model("bert", 2)
    other.load_adapter(tmp_path / "m")
    equal(states(other, "m"), states(model, "m"))
