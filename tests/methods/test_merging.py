"""Merging adapters: each kind against small examples by hand, what is refused, and the arithmetic's laws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from compose.errors import ConfigError
from compose.methods.config import Config
from compose.methods.merging.low_rank import truncated
from compose.methods.merging.merge import KINDS, Merge
from compose.methods.merging.rules import Donor
from compose.methods.merging.tasks import dare, linear, ties, trim
from compose.methods.registry import make_config

LORA = make_config("lora", r=2, alpha=4)


def vector(*values: float) -> dict[str, Tensor]:
    return {"w": torch.tensor(values, dtype=torch.float64)}


def same(found: Tensor, *values: float) -> None:
    torch.testing.assert_close(found, torch.tensor(values, dtype=torch.float64))


def half(name: str) -> tuple[float, ...]:
    return (0.5, 0.5)


def test_linear_by_hand() -> None:
    same(linear([vector(1, 2), vector(3, -4)], lambda name: (2.0, -1.0))["w"], -1, 8)


def test_ties_by_hand() -> None:
    one, two, three = vector(1, -5, 4, 0), vector(3, 1, -6, 0.5), vector(0.5, 2, 2, 0.1)
    same(trim(one, 0.5)["w"], 0, -5, 4, 0)
    same(trim(two, 0.5)["w"], 3, 0, -6, 0)
    same(trim(three, 0.5)["w"], 0, 2, 2, 0)
    equal = ties([one, two, three], lambda name: (1,) * 3, density=0.5, scale=1.0)["w"]
    # sums of what is left: 3, -3, 0, 0; those of the elected sign: 3; -5; none; none
    same(equal, 3, -5, 0, 0)
    # weights 1, 1, 3: sums 3, 1, 4, 0: means of those that agree: 3; 3*2/3; (4 + 3*2) / (1 + 3)
    same(ties([one, two, three], lambda name: (1, 1, 3), density=0.5, scale=2.0)["w"], 6, 4, 5, 0)
    # a negative weight turns a vector around: 1, -5, 4 against -3, -1, 6: sums -2, -6, 10
    same(ties([one, two], lambda name: (1, -1), density=1.0, scale=1.0)["w"], -3, -3, 5, -0.5)


def test_trim_counts_over_all_tensors() -> None:
    task = {"a": torch.tensor([1.0, 9.0]), "b": torch.tensor([[8.0, 7.0], [0.5, 0.2]])}
    found = trim(task, 0.5)
    assert found["a"].tolist() == [0, 9] and found["b"].tolist() == [[8, 7], [0, 0]]


def test_dare_by_hand() -> None:
    tasks = [{"b": torch.ones(3, 400), "a": torch.full((300,), 2.0)}, {"b": torch.ones(3, 400), "a": torch.ones(300)}]
    found = dare(tasks, 0.25, seed=3)
    generator = torch.Generator().manual_seed(3)
    for task, given in zip(found, tasks, strict=True):
        for name in ("a", "b"):
            kept = torch.rand(given[name].shape, generator=generator) < 0.25
            assert torch.equal(task[name], given[name] * kept / 0.25)
    assert abs(float(found[0]["b"].mean()) - 1) < 0.2  # the expectation stays
    assert not torch.equal(found[0]["b"], found[1]["b"])
    again = dare(tasks, 0.25, seed=3)
    assert all(torch.equal(task["b"], other["b"]) for task, other in zip(found, again, strict=True))
    assert not torch.equal(dare(tasks, 0.25, seed=4)[0]["b"], found[0]["b"])


def test_truncated_is_the_nearest_of_its_rank() -> None:
    torch.manual_seed(0)
    b, a = torch.randn(9, 5).double(), torch.randn(5, 7).double()
    u, values, v = torch.linalg.svd(b @ a)
    for rank in (1, 3, 5, 8):
        found_b, found_a = truncated(b, a, rank)
        assert found_b.shape == (9, rank) and found_a.shape == (rank, 7)
        kept = min(rank, 5)
        torch.testing.assert_close(found_b @ found_a, u[:, :kept] * values[:kept] @ v[:kept])


def lora(seed: int, r: int = 2, alpha: float = 4, sites: tuple[str, ...] = ("0.attn.q", "1.cross.attn.v")) -> Donor:
    torch.manual_seed(seed)
    tensors = {}
    for site in sites:
        tensors[f"{site}.a"], tensors[f"{site}.b"] = torch.randn(r, 6).double(), torch.randn(5, r).double()
    return Donor(f"n{seed}", make_config("lora", r=r, alpha=alpha), tensors)


def products(config: Config, tensors: Any) -> dict[str, Tensor]:
    scale = config.scale  # type: ignore[attr-defined]
    return {
        name.removesuffix(".b"): scale * tensor @ tensors[name.removesuffix(".b") + ".a"]
        for name, tensor in tensors.items()
        if name.endswith(".b")
    }


def summed(donors: list[Donor], weights: tuple[float, ...]) -> dict[str, Tensor]:
    each = [products(donor.config, donor.tensors) for donor in donors]
    return {site: sum(w * one[site] for w, one in zip(weights, each, strict=True)) for site in each[0]}  # type: ignore[misc]


def close(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert set(found) == set(wanted)
    for site, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[site])


@pytest.mark.parametrize(("kind", "options"), [("concat", {}), ("svd", {"rank": 5}), ("svd", {"rank": 11})])
def test_products_of_loras_of_different_ranks_add_up_exactly(kind: str, options: dict[str, Any]) -> None:
    donors, weights = [lora(0), lora(1, r=3, alpha=1)], (0.7, -1.2)
    config, tensors = Merge(kind, weights, **options).of(donors)
    close(products(config, tensors), summed(donors, weights))
    assert config.to_dict()["r"] == options.get("rank", 5)


def test_svd_to_a_small_rank_is_the_nearest() -> None:
    donors = [lora(0), lora(1)]
    config, tensors = Merge("svd", rank=1).of(donors)
    wanted = {}
    for site, delta in summed(donors, (0.5, 0.5)).items():
        u, values, v = torch.linalg.svd(delta)
        wanted[site] = values[0] * u[:, :1] @ v[:1]
    close(products(config, tensors), wanted)
    assert Merge("svd").of(donors)[0].to_dict()["r"] == 2


@pytest.mark.parametrize("kind", ["ties_svd", "dare_linear_svd", "dare_ties_svd"])
def test_other_arithmetic_on_the_products(kind: str) -> None:
    donors, weights = [lora(0), lora(1, r=3)], (0.5, 1.5)
    config, tensors = Merge(kind, weights, density=0.5, rank=5, seed=7).of(donors)
    deltas = [products(donor.config, donor.tensors) for donor in donors]
    if kind != "ties_svd":
        deltas = [dict(task) for task in dare(deltas, 0.5, 7)]
    if kind == "dare_linear_svd":
        wanted = linear(deltas, lambda site: weights)
    else:
        wanted = ties(deltas, lambda site: weights, density=0.5 if kind == "ties_svd" else 1.0, scale=1.0)
    close(products(config, tensors), wanted)


def test_linear_merges_factors_which_is_not_the_sum_of_the_products() -> None:
    donors = [lora(0), lora(1)]
    config, tensors = Merge("linear", (0.25, 0.75)).of(donors)
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, 0.25 * donors[0].tensors[name] + 0.75 * donors[1].tensors[name])
    found, wanted = products(config, tensors), summed(donors, (0.25, 0.75))
    assert all(not torch.allclose(found[site], wanted[site]) for site in found)
    # where the first factor is the same it is
    shared = [donors[0], donors[1]._replace(tensors={**donors[1].tensors, **_ending(donors[0], ".a")})]
    config, tensors = Merge("linear", (0.25, 0.75)).of(shared)
    close(products(config, tensors), summed(shared, (0.25, 0.75)))


def _ending(donor: Donor, ending: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in donor.tensors.items() if name.endswith(ending)}


@pytest.mark.parametrize("kind", ["task_arithmetic", "dare_linear", "svd", "concat"])
def test_a_negated_lora_takes_away_what_it_adds(kind: str) -> None:
    donor = lora(0)
    config, tensors = Merge(kind, (-1.0,), **({"density": 1.0} if kind == "dare_linear" else {})).of([donor])
    close(products(config, tensors), summed([donor], (-1.0,)))


def bottleneck(seed: int, **options: Any) -> Donor:
    torch.manual_seed(seed)
    shapes = {"down.weight": (2, 4), "up.weight": (4, 2), "up.bias": (4,), "scaling": (1,), "norm_before.weight": (4,)}
    tensors = {f"0.ffn.{name}": torch.randn(shape).double() for name, shape in shapes.items()}
    return Donor(f"n{seed}", make_config("seq_bn", scaling="learned", ln_before=True, **options), tensors)


def test_task_arithmetic_is_over_what_training_changed() -> None:
    donors, weights = [bottleneck(0), bottleneck(1)], (0.5, -2.0)
    _, tensors = Merge("task_arithmetic", weights).of(donors)
    one, two = (donor.tensors for donor in donors)
    for name in ("up.weight", "up.bias"):  # the sign is the increment's
        torch.testing.assert_close(tensors[f"0.ffn.{name}"], 0.5 * one[f"0.ffn.{name}"] - 2 * two[f"0.ffn.{name}"])
    name = "0.ffn.down.weight"
    torch.testing.assert_close(tensors[name], 0.5 * one[name] + 2 * two[name])
    for name in ("0.ffn.scaling", "0.ffn.norm_before.weight"):  # these start at 1
        torch.testing.assert_close(tensors[name], 1 + 0.5 * (one[name] - 1) + 2 * (two[name] - 1))


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.of != "products"])
def test_one_adapter_merged_alone_is_itself(kind: str) -> None:
    donor = bottleneck(0)
    options = {"density": 1.0} if KINDS[kind].density else {}
    config, tensors = Merge(kind, **options).of([donor])
    assert config == donor.config and list(tensors) == list(donor.tensors)
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, donor.tensors[name])


def test_types_are_kept() -> None:
    single = [donor._replace(tensors={n: t.float() for n, t in donor.tensors.items()}) for donor in (lora(0), lora(1))]
    for kind in KINDS:
        _, tensors = Merge(kind).of(single)
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}, kind


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "tise"}, "there is no kind of merging 'tise'"),
        ({"weights": [1.0]}, "1 weights for 2 adapters"),
        ({"weights": [1.0, float("nan")]}, "weights must be finite numbers"),
        ({"weights": [1.0, -1.0]}, "negative weights would cancel out"),
        ({"density": 0.5}, "density has no meaning for 'linear'"),
        ({"kind": "ties", "density": 0}, "density must be a number above 0"),
        ({"kind": "dare_ties", "density": 1.5}, "density must be a number above 0"),
        ({"kind": "dare_linear", "scale": 2.0}, "scale=2.0 has no meaning for 'dare_linear'"),
        ({"rank": 4}, "rank has no meaning for 'linear'"),
        ({"kind": "svd", "rank": 0}, "rank must be a whole number"),
        ({"kind": "dare_ties", "seed": -1}, "seed must be a whole number"),
        ({"dencity": 1}, "there is no option 'dencity' of merging"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Merge.make(**options).of([lora(0), lora(1)])


@pytest.mark.parametrize(
    ("kind", "donors", "words"),
    [
        ("linear", [lora(0), lora(1, r=3, alpha=1)], "r is 2 in the one, 3 in the other.*\n.*alpha is 4.0 .* 1.0"),
        ("linear", [lora(0), bottleneck(1)], "one is a lora adapter, the other a bottleneck adapter"),
        ("svd", [bottleneck(0), bottleneck(1)], "svd merges LoRAs"),
        ("linear", [bottleneck(0), bottleneck(1, non_linearity="gelu")], "non_linearity is 'relu' .* 'gelu'"),
        ("linear", [lora(0), lora(1, sites=("0.attn.q",))], "only one of them has the weight '1.cross.attn.v.a'"),
        ("linear", [], "nothing to merge"),
    ],
)
def test_adapters_that_cannot_be_merged(kind: str, donors: list[Donor], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Merge(kind).of(donors)
    assert Merge("linear").of([bottleneck(0), bottleneck(1, init_weights="houlsby", init_weights_seed=3)])
