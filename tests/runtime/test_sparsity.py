"""Sparse adapters: what is pruned, that it stays so, files, and neurons that are gone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import compose
from compose import Fuse, Parallel
from compose.errors import (
    BackboneError,
    ConfigError,
    ExpressionError,
    FileError,
    InputError,
    RegistryError,
)
from compose.methods.adapter import Adapter
from compose.methods.part import Context
from compose.methods.registry import make_config
from compose.runtime.model import Model
from compose.runtime.sparsity import prune_neurons, sparsify
from tests import tiny
from tests.counting import flops
from tests.methods.shapes import encoder


def sparse_model(preset: str = "double_seq_bn", **options: Any) -> tuple[Model, Any]:
    model = tiny.model("bert", attn_implementation="eager")
    made = model.add_adapter("a", preset, **options)
    tiny.randomize(made)
    return model, made


def batch(**labels: Any) -> dict[str, Tensor]:
    return {**tiny.inputs("bert", rows=4), "labels": torch.tensor([0, 1, 0, 1]), **labels}


def zeros(adapter: Adapter) -> dict[str, Tensor]:
    """Where the matrices of an adapter are zero."""
    return {name: tensor == 0 for name, tensor in adapter.tensors().items() if tensor.dim() > 1}


def share(masks: dict[str, Tensor]) -> float:
    return sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())


@pytest.mark.parametrize("preset", ["seq_bn", "lora", "compacter"])
@pytest.mark.parametrize("sparsity", [0.0, 0.4, 0.75])
def test_magnitude_keeps_the_largest(preset: str, sparsity: float) -> None:
    model, made = sparse_model(preset, **({"bottleneck_size": 8} if preset != "lora" else {}))
    before = {name: tensor.clone() for name, tensor in made.tensors().items()}
    pruned = compose.sparsify(model, "a", sparsity)
    gone = zeros(made)
    total = sum(mask.numel() for mask in gone.values())
    assert pruned.total == total and pruned.kept == total - round(sparsity * total)
    assert abs(share(gone) - sparsity) <= 1 / total
    lost = [before[name][mask].abs() for name, mask in gone.items()]
    left = [before[name][~mask].abs() for name, mask in gone.items()]
    if sparsity:
        assert float(torch.cat(lost).max()) <= float(torch.cat(left).min())
    assert all(torch.equal(made.tensors()[name][~mask], before[name][~mask]) for name, mask in gone.items())
    assert all(torch.equal(made.tensors()[name], before[name]) for name in before if name not in gone)
    assert f"{sparsity:.0%} sparse" in str(model.summary()) if sparsity else "sparse" not in str(model.summary())


def test_snip_keeps_what_matters_for_the_loss() -> None:
    model, made = sparse_model("seq_bn", bottleneck_size=4)
    model.add_head("a", "classification", labels=["no", "yes"])
    weights = {name: weight for name, weight in made.weights().items() if weight.dim() > 1}
    batches = [batch(), {**batch(), **tiny.inputs("bert", rows=4, seed=5)}]
    loss = sum(model.plan("a")(**each).loss for each in batches)
    gradients = torch.autograd.grad(loss, list(weights.values()))
    scores = torch.cat([(w * g).detach().abs().flatten() for w, g in zip(weights.values(), gradients, strict=True)])
    made.requires_grad_(False)
    sparsify(model, "a", 0.5, "snip", batches)
    kept = torch.cat([made.masks.by_name()[name].flatten() for name in weights])
    assert float(scores[kept].min()) >= float(scores[~kept].max())
    assert not any(weight.requires_grad or weight.grad is not None for weight in made.parameters())


def test_random_is_drawn_from_its_seed() -> None:
    found = []
    for seed in (1, 1, 2):
        model, made = sparse_model(bottleneck_size=8)
        before = torch.get_rng_state()
        sparsify(model, "a", 0.5, "random", seed=seed)
        assert torch.equal(before, torch.get_rng_state())
        found.append(torch.cat([mask.flatten() for mask in zeros(made).values()]))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize("when", ["before", "in the middle"])
def test_what_is_pruned_stays_so_in_training(when: str) -> None:
    model, made = sparse_model(bottleneck_size=8)
    model.add_head("a", "classification", labels=["no", "yes"])
    model.train_only("a")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    plan = model.plan("a")

    def step() -> None:
        plan(**batch()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    if when == "in the middle":
        step()
    sparsify(model, "a", 0.6)
    gone, start = zeros(made), {name: tensor.clone() for name, tensor in made.tensors().items()}
    for _ in range(3):
        step()
    if when == "before":  # no gradient, no step
        assert all(not tensor[gone[name]].any() for name, tensor in made.tensors().items() if name in gone)
    with torch.no_grad():
        plan(**tiny.inputs("bert"))  # momentum from before is corrected when the adapter runs next
    assert all(not tensor[gone[name]].any() for name, tensor in made.tensors().items() if name in gone)
    assert abs(share(zeros(made)) - 0.6) < 0.01
    assert all(not torch.equal(tensor, start[name]) for name, tensor in made.tensors().items() if name in gone)


def test_pruning_goes_on_but_not_back() -> None:
    model, made = sparse_model(bottleneck_size=8)
    sparsify(model, "a", 0.5)
    first = zeros(made)
    sparsify(model, "a", 0.75, "random", seed=0)
    assert all(bool((zeros(made)[name] | ~mask).all()) for name, mask in first.items())
    with pytest.raises(ConfigError, match=r"75\.0% sparse already"):
        sparsify(model, "a", 0.5)


@pytest.mark.parametrize("preset", ["double_seq_bn", "lora", "compacter"])
def test_files_hold_what_is_kept(tmp_path: Path, preset: str) -> None:
    model, made = sparse_model(preset, **({"bottleneck_size": 8} if preset == "compacter" else {}))
    model.save_adapter("a", tmp_path / "dense")
    sparsify(model, "a", 0.9)
    model.save_adapter("a", tmp_path / "sparse")
    size = {name: (tmp_path / name / "adapter.safetensors").stat().st_size for name in ("dense", "sparse")}
    model.load_adapter(tmp_path / "sparse", "b")
    other = model.adapters["b"]
    assert all(torch.equal(tensor, other.tensors()[name]) for name, tensor in made.tensors().items())
    assert all(torch.equal(mask, other.masks.by_name()[name]) for name, mask in made.masks.by_name().items())
    model.save_adapter("b", tmp_path / "again")
    data = [(tmp_path / name / "adapter.safetensors").read_bytes() for name in ("sparse", "again")]
    assert data[0] == data[1] and (preset == "compacter" or size["sparse"] < size["dense"])
    assert abs(other.masks.sparsity() - 0.9) < 0.01


def test_copies_are_sparse_on_their_own() -> None:
    model, made = sparse_model(bottleneck_size=8)
    sparsify(model, "a", 0.5)
    twin = copy.deepcopy(model)
    own = twin.adapters["a"]
    gone = zeros(made)
    twin.plan("a").states(**tiny.inputs("bert")).last_hidden_state.square().sum().backward()
    for name, weight in own.weights().items():
        if name in gone:
            assert weight is not made.weights()[name]
            assert weight.grad is not None and not weight.grad[gone[name]].any() and weight.grad.any()
    assert all(weight.grad is None for weight in made.weights().values())


def test_bad_options() -> None:
    model, _ = sparse_model("seq_bn")
    model.add_adapter("lora", "lora")
    model.add_adapter("bias", "bitfit")
    model.add_head("lora", "classification", labels=["no", "yes"])
    with pytest.raises(RegistryError, match="no adapter 'b'"):
        sparsify(model, "b")
    for sparsity in (1.0, -0.1, True, float("nan"), "half"):
        with pytest.raises(ConfigError, match="from 0 to below 1"):
            sparsify(model, "a", sparsity)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no kind of pruning 'size'"):
        sparsify(model, "a", 0.5, "size")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="'snip' needs data"):
        sparsify(model, "a", 0.5, "snip")
    with pytest.raises(ConfigError, match="no weight of this adapter matters"):
        sparsify(model, "lora", 0.5, "snip", [batch()])
    with pytest.raises(ConfigError, match="no matrices"):
        sparsify(model, "bias")
    with pytest.raises(ConfigError, match="no neurons"):
        prune_neurons(model, "lora")
    with pytest.raises(ConfigError, match=r"(?s)leaves 0 of 4 neurons.*try: sparsity=0.5"):
        prune_neurons(model, "a", 0.9)
    with pytest.raises(FileError, match=r"no weight '0\.ffn\.dwon\.weight'"):
        model.adapters["a"].mask({"0.ffn.dwon.weight": torch.ones(2, 2)})


@pytest.mark.parametrize("kind", ["magnitude", "snip", "random"])
@pytest.mark.parametrize("preset", ["double_seq_bn", "par_bn"])
def test_neurons_that_are_gone(tmp_path: Path, preset: str, kind: Any) -> None:
    """As if the others were all that is left of the matrices; FLOPs fall by as much, and files are smaller."""
    model, made = sparse_model(preset, bottleneck_size=16, use_gating=True, scaling="learned")
    model.add_head("a", "classification", labels=["no", "yes"])
    inputs, plan = tiny.inputs("bert"), model.plan("a")
    before = {name: tensor.clone() for name, tensor in made.tensors().items()}
    plain = model.plan(None).explain().flops
    gate = 2 * 8 * 128 * 32 * len(made.spec.parts)
    cost = plan.explain().flops - plain - gate
    pruned = compose.prune_neurons(model, "a", 0.75, kind, [batch()] if kind == "snip" else None)
    smaller = model.adapters["a"]
    ranks = {f"{part.layer}.{part.site}": part.rank for part in smaller.spec.parts}
    assert sum(ranks.values()) == pruned.kept == 16 * len(ranks) // 4 and min(ranks.values()) >= 1
    assert plan.explain().flops - plain - gate == pytest.approx(cost / 4, rel=0.01)
    explained = plan.explain(rows=3, tokens=7)
    states_alone = explained.flops - sum(head.flops for head in explained.heads)
    assert states_alone == pytest.approx(flops(plan.states, **inputs), rel=0.01)
    # the same with zeros in the place of what is gone
    model.add_adapter("b", made.config)
    other = model.adapters["b"]
    other.load_tensors(before)
    for site in ranks:
        kept = [
            bool((smaller.tensors()[f"{site}.down.weight"] == row).all(1).any())
            for row in before[f"{site}.down.weight"]
        ]
        with torch.no_grad():
            other.weights()[f"{site}.up.weight"][:, ~torch.tensor(kept)] = 0
    found, expected = (model.plan(name).states(**inputs).last_hidden_state for name in ("a", "b"))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    model.save_adapter("a", tmp_path / "a")
    model.load_adapter(tmp_path / "a", "c")
    assert torch.equal(model.plan("c").states(**inputs).last_hidden_state, found)
    assert model.adapters["c"].spec.parts == smaller.spec.parts


def test_the_best_neurons_of_all_sites_are_kept() -> None:
    model, made = sparse_model(bottleneck_size=8)
    with torch.no_grad():
        for name, weight in made.weights().items():
            if name.startswith("1.ffn.") and weight.dim() > 1:
                weight.mul_(100)
    prune_neurons(model, "a", 0.6)
    ranks = {f"{part.layer}.{part.site}": part.rank for part in model.adapters["a"].spec.parts}
    assert ranks["1.ffn"] == 8 and sum(ranks.values()) == 32 - round(0.6 * 32)
    prune_neurons(model, "a", 0.2)
    assert sum(part.rank for part in model.adapters["a"].spec.parts) == 13 - round(0.2 * 13)


def test_pruned_adapters_compose() -> None:
    """Fused, beside others, and sparse as well; frozen ones stay frozen."""
    model, made = sparse_model(bottleneck_size=8)
    tiny.randomize(model.add_adapter("b", "double_seq_bn", bottleneck_size=8), 2)
    tiny.randomize(model.add_fusion(Fuse("a", "b")), 3)
    sparsify(model, "a", 0.5)
    made.requires_grad_(False)
    prune_neurons(model, "a", 0.5)
    smaller = model.adapters["a"]
    assert not any(parameter.requires_grad for parameter in smaller.parameters())
    assert smaller.masks and all(
        not smaller.tensors()[name][~mask].any() for name, mask in smaller.masks.by_name().items()
    )
    assert model.adapters.names == ("a", "b")
    inputs = tiny.inputs("bert")
    with torch.no_grad():
        found = model.plan(Fuse("a", "b")).states(**inputs).last_hidden_state
        plain = model.plan(Fuse("a", "b"), ("fold",)).states(**inputs).last_hidden_state
        torch.testing.assert_close(found, plain, rtol=1e-9, atol=1e-9)
        both = model.plan(Parallel("a", "b")).states(**inputs).last_hidden_state
        torch.testing.assert_close(both[:3], model.plan("a").states(**inputs).last_hidden_state)


def test_flops_of_sites_are_those_of_their_sizes() -> None:
    spec, y = encoder(1, 512), torch.randn(2, 16, 512)
    found = {}
    for size in (1024, 256):
        made = Adapter("a", make_config("seq_bn", bottleneck_sizes={"0.ffn": size}), spec)
        assert made.spec.parts[0].rank == size
        found[size] = flops(made.part(0, "ffn"), y, Context(residual=y))
    assert found[256] == found[1024] / 4 > 0


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("preset", ["double_seq_bn", "par_bn"])
def test_flops_of_an_adapter_fall_by_the_sparsity(preset: str, sparsity: float) -> None:
    """What torch counts in a forward pass, less what it counts in one of the backbone alone."""
    model = tiny.model("bert", dtype=torch.float32, attn_implementation="eager")
    for name in ("whole", "pruned"):
        model.add_adapter(name, preset, bottleneck_size=160)
    prune_neurons(model, "pruned", sparsity)
    inputs = tiny.inputs("bert", dtype=torch.float32)
    plain, whole, pruned = (flops(model.plan(name).states, **inputs) for name in (None, "whole", "pruned"))
    assert (pruned - plain) / (whole - plain) == pytest.approx(1 - sparsity)


def test_sizes_at_sites_where_it_does_not_act() -> None:
    with pytest.raises(ConfigError, match=r"bottleneck_sizes names 1.attn, where it does not act"):
        Adapter("a", make_config("seq_bn", bottleneck_sizes={"1.attn": 3}), encoder())
    with pytest.raises(ConfigError, match="a mapping from layers and sites"):
        make_config("seq_bn", bottleneck_sizes={"ffn": 3})
    for wrong in ((1, 2), [1], "ab", 4, {"0.ffn": 0}):
        with pytest.raises(ConfigError, match="a mapping from layers and sites"):
            make_config("seq_bn", bottleneck_sizes=wrong)


def test_checkpoints_hold_the_masks() -> None:
    model, made = sparse_model(bottleneck_size=8)
    sparsify(model, "a", 0.5)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    twin, other = sparse_model(bottleneck_size=8)
    sparsify(twin, "a", 0.5, "random", seed=0)
    twin.load_state_dict(state)
    twin.plan("a").states(**tiny.inputs("bert"))
    assert all(torch.equal(mask, other.masks.by_name()[name]) for name, mask in made.masks.by_name().items())
    assert all(torch.equal(tensor, other.tensors()[name]) for name, tensor in made.tensors().items())
    twin.to(torch.float32)
    assert other.masks.sparsity() == 0.5 and all(mask.dtype == torch.bool for mask in other.masks.by_name().values())
    assert all(not tensor[zeros(made)[name]].any() for name, tensor in other.tensors().items() if name in zeros(made))


SNIP_DATA: dict[str, tuple[Any, type[Exception], str]] = {
    "texts": (["a text"], InputError, "batch 0 is a str"),
    "a text": ("a text", InputError, "data is a str, but batches are needed"),
    "a number": (5, InputError, "data is a int"),
    "names that are none": ([{1: 2}], InputError, "mapping of inputs by name"),
    "nothing": ([], InputError, "there is no batch"),
    "no labels": ([tiny.inputs("bert")], InputError, "without labels"),
}


def test_what_is_merged_is_not_pruned() -> None:
    """The backbone's weights would go on holding what is gone."""
    model = tiny.model("bert")
    tiny.randomize(model.add_adapter("a", "lora"))
    before = {key: weight.clone() for key, weight in model.adapters["a"].tensors().items()}
    with model.merge("a"), pytest.raises(RegistryError, match="'a' is merged into the backbone's weights"):
        sparsify(model, "a", 0.5)
    assert all(torch.equal(weight, before[key]) for key, weight in model.adapters["a"].tensors().items())


@pytest.mark.parametrize("case", SNIP_DATA)
def test_data_that_gives_no_gradients(case: str) -> None:
    data, error, words = SNIP_DATA[case]
    model, made = sparse_model("seq_bn")
    model.add_head("a", "classification", labels=["no", "yes"])
    asked = [weight.requires_grad for weight in made.parameters()]
    for prune in (sparsify, prune_neurons):
        with pytest.raises(error, match=words):
            prune(model, "a", 0.5, "snip", data)
    assert not made.masks and asked == [weight.requires_grad for weight in made.parameters()]


def test_a_single_batch_is_data_and_so_is_what_can_be_read_once() -> None:
    found = []
    for data in (batch(), [batch()], iter([batch()])):
        model, made = sparse_model("seq_bn")
        tiny.randomize(model.add_head("a", "classification", labels=["no", "yes"]))
        sparsify(model, "a", 0.5, "snip", data)
        found.append(torch.cat([mask.flatten() for mask in made.masks.by_name().values()]))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_what_snip_cannot_weigh() -> None:
    model, made = sparse_model("seq_bn")
    model.add_head("a", "classification", labels=["no", "yes"])
    model.add_adapter("lora", "lora")
    with pytest.raises(ExpressionError, match="'lora' does not stand in \"a\""):
        sparsify(model, "lora", 0.5, "snip", [batch()], expression="a")
    nothing = {"inputs_embeds": torch.full((2, 3, 32), torch.nan), "labels": torch.tensor([0, 1])}
    with pytest.raises(ConfigError, match=r"'snip' cannot weigh '0\.ffn\.down\.weight'"):
        sparsify(model, "a", 0.5, "snip", [nothing])
    model.merge("lora")
    with pytest.raises(BackboneError, match="'lora' is merged"):
        sparsify(model, "a", 0.5, "snip", [batch()])
    model.unmerge()
    with torch.no_grad():
        made.weights()["1.ffn.up.weight"][0, 0] = torch.nan
    for prune in (sparsify, prune_neurons):
        with pytest.raises(ConfigError, match=r"'magnitude' cannot weigh '1\.ffn\.up\.weight'"):
            prune(model, "a", 0.5)


@pytest.mark.parametrize("preset", ["lora", "par_bn"])
def test_by_magnitude_what_was_never_trained_would_never_be(preset: str) -> None:
    """One of two factors starts at zero: all of it would go first, and the adapter would stay as it is for ever."""
    model = tiny.model("bert")
    made = model.add_adapter("a", preset)
    with pytest.raises(ConfigError, match=r"(?s)would go first.*kind='random'"):
        sparsify(model, "a", 0.5)
    sparsify(model, "a", 0.5, "random", seed=0)
    with pytest.raises(ConfigError, match="would go first"):
        sparsify(model, "a", 0.75)
    tiny.randomize(made)
    sparsify(model, "a", 0.75)
    assert made.masks.sparsity() == 0.75


def test_options_out_of_range() -> None:
    model, _ = sparse_model("seq_bn")
    for seed in ("x", -1, 1.5, 2**63):
        with pytest.raises(ConfigError, match="seed must be"):
            sparsify(model, "a", 0.5, "random", seed=seed)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"(?s)leaves none of the 256 weights of 'a'.*sparsity=0.996094 at most"):
        sparsify(model, "a", 0.999)
    assert sparsify(model, "a", 0.996094).kept == 1


def test_an_invertible_part_keeps_its_networks(tmp_path: Path) -> None:
    model, made = sparse_model("seq_bn_inv", bottleneck_size=8)
    before = {name: tensor.clone() for name, tensor in made.tensors().items() if name.startswith("-1.embed")}
    pruned = prune_neurons(model, "a", 0.875)
    smaller = model.adapters["a"]
    assert (pruned.kept, pruned.total) == (2, 16)
    assert before and all(torch.equal(smaller.tensors()[name], tensor) for name, tensor in before.items())
    model.save_adapter("a", tmp_path / "a")
    model.load_adapter(tmp_path / "a", "b")
    inputs = tiny.inputs("bert")
    found = [model.plan(name).states(**inputs).last_hidden_state for name in "ab"]
    assert torch.equal(*found)
    model.add_adapter("alone", "seq_bn", output_adapter=False, inv_adapter="nice")
    with pytest.raises(ConfigError, match="no neurons"):
        prune_neurons(model, "alone", 0.5)


def test_shared_factors_and_sparse_adapters_exclude_each_other() -> None:
    model = tiny.model("bert")
    for name in ("a", "b"):
        tiny.randomize(model.add_adapter(name, "lora"))
    compose.share_factors(model, "a", "b")
    with pytest.raises(ConfigError, match="'a' shares weights with 'b'"):
        sparsify(model, "a", 0.5)
    compose.unshare_factors(model, "b")
    sparsify(model, "a", 0.5)
    for share in (lambda: compose.share_factors(model, "b", "a"), lambda: compose.unshare_factors(model, "a")):
        with pytest.raises(ConfigError, match="'a' is sparse"):
            share()
