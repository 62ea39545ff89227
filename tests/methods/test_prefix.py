"""Prefix tuning: its equation against attention written out, its weights, and its options."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

import compose
from compose.errors import ConfigError
from compose.methods.prefix.module import PrefixPart, PrefixSource
from compose.methods.registry import make_config
from compose.runtime.model import Model
from tests import tiny
from tests.laws.worlds import close
from tests.methods import shapes

OPTIONS: dict[str, dict[str, Any]] = {
    "mlp": {"bottleneck_size": 6},
    "flat": {"flat": True},
    "relu": {"bottleneck_size": 6, "non_linearity": "relu"},
    "gated": {"bottleneck_size": 6, "use_gating": True},
    "two gates": {"flat": True, "use_gating": True, "shared_gating": False},
}


def keys_and_values(model: Model, layer: int, input: Tensor) -> tuple[Tensor, Tensor]:
    """A prefix's keys and values [rows, length, width] by the equations of the paper, and UniPELT's gates."""
    adapter = model.adapters["p"]
    config, part = adapter.config, adapter.part(layer, "attn.core")
    if config.flat:
        key, value = part.flat
    else:
        source = adapter.shared["self"]
        activation = {"tanh": torch.tanh, "relu": torch.relu}[config.non_linearity]
        hidden = activation(source.embedding @ source.down.weight.T + source.down.bias)
        key, value = (hidden @ part.up.weight.T + part.up.bias).chunk(2, dim=1)
    key, value = key.expand(len(input), -1, -1), value.expand(len(input), -1, -1)
    if config.use_gating:
        gates = torch.sigmoid(input @ part.gate.weight.T + part.gate.bias).mean(1)
        key, value = key * gates[:, :1, None], value * gates[:, -1:, None]
    return key, value


def attention(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, heads: int, groups: int = 1) -> Tensor:
    """Softmax attention of [rows, tokens, width], with `seen` [rows, queries, keys]."""
    rows, queries, width = query.shape

    def split(tensor: Tensor, count: int) -> Tensor:
        return tensor.unflatten(2, (count, -1)).transpose(1, 2)

    q, k, v = split(query, heads), split(key, heads // groups), split(value, heads // groups)
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = (q @ k.transpose(2, 3) / (width // heads) ** 0.5).masked_fill(~seen[:, None], -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).reshape(rows, queries, width)


def seen_by(mask: Tensor, length: int, causal: bool) -> Tensor:
    """[rows, queries, length + keys]: every virtual token, and the row's own that are no padding and not to come."""
    rows, tokens = mask.shape
    seen = mask.bool()[:, None].expand(rows, tokens, tokens)
    if causal:
        seen = seen & torch.ones(tokens, tokens, dtype=torch.bool).tril()
    return torch.cat([torch.ones(rows, tokens, length, dtype=torch.bool), seen], 2)


def bert(module: nn.Module, x: Tensor, *prefix: Tensor, mask: Tensor, **_: Any) -> Tensor:
    key, value = (torch.cat([p, f(x)], 1) for p, f in zip(prefix, (module.key, module.value), strict=True))
    return attention(module.query(x), key, value, seen_by(mask, prefix[0].shape[1], False), 4)


def gpt2(module: nn.Module, x: Tensor, *prefix: Tensor, mask: Tensor, **_: Any) -> Tensor:
    query, *own = module.c_attn(x).chunk(3, 2)
    key, value = (torch.cat([p, y], 1) for p, y in zip(prefix, own, strict=True))
    return module.c_proj(attention(query, key, value, seen_by(mask, prefix[0].shape[1], True), 4))


def llama(module: nn.Module, x: Tensor, *prefix: Tensor, mask: Tensor, rotary: Any = None) -> Tensor:
    query, key = (
        each.unflatten(2, (-1, 8)).transpose(1, 2) for each in (module.q_proj(x), module.k_proj(x))
    )  # the virtual tokens have no position: they are not rotated
    query, key = (each.transpose(1, 2).flatten(2) for each in apply_rotary_pos_emb(query, key, *rotary))
    key, value = torch.cat([prefix[0], key], 1), torch.cat([prefix[1], module.v_proj(x)], 1)
    return module.o_proj(attention(query, key, value, seen_by(mask, prefix[0].shape[1], True), 4, 2))


REFERENCES = {
    "bert": (bert, lambda backbone: [layer.attention.self for layer in backbone.encoder.layer]),
    "gpt2": (gpt2, lambda backbone: [layer.attn for layer in backbone.h]),
    "llama": (llama, lambda backbone: [layer.self_attn for layer in backbone.layers]),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("architecture", REFERENCES)
@torch.no_grad()
def test_the_equation(architecture: str, options: dict[str, Any]) -> None:
    """Every attention sees the virtual tokens before the row's own."""
    reference, attentions = REFERENCES[architecture]
    model = tiny.model(architecture, attn_implementation="sdpa")
    tiny.randomize(model.add_adapter("p", "prefix_tuning", prefix_length=3, **options))
    inputs = tiny.inputs(architecture, padded=True)
    found = model.plan("p").states(**inputs).last_hidden_state

    def replace(layer: int) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            x = args[0] if args else kwargs["hidden_states"]
            prefix = keys_and_values(model, layer, x)
            rotary = kwargs.get("position_embeddings")
            return reference(module, x, *prefix, mask=inputs["attention_mask"], rotary=rotary), None

        return hook

    plain = tiny.backbone(architecture)
    for layer, module in enumerate(attentions(plain)):
        module.register_forward_hook(replace(layer), with_kwargs=True)
    expected = plain(**inputs).last_hidden_state
    seen = inputs["attention_mask"].bool()
    close(found[seen], expected[seen])


def test_weights_are_as_many_as_adapterhubs() -> None:
    made = make_config("prefix_tuning").describe("a", shapes.BERT_BASE)
    assert sum(part.parameters for part in made.parts) + made.shared_parameters == 9_872_384
    flat = make_config("prefix_tuning_flat").describe("a", shapes.BERT_BASE)
    assert sum(part.parameters for part in flat.parts) == 30 * 12 * 2 * 768


@pytest.mark.parametrize("options", [*OPTIONS.values(), {"non_linearity": "prelu"}], ids=[*OPTIONS, "prelu"])
@pytest.mark.parametrize("spec", [shapes.encoder(), shapes.encoder_decoder()], ids=["encoder", "encoder-decoder"])
def test_the_spec_counts_the_weights(spec: Any, options: dict[str, Any]) -> None:
    made = shapes.adapter("prefix_tuning", spec, prefix_length=3, **options)
    counted = sum(part.parameters for part in made.spec.parts) + made.spec.shared_parameters
    assert counted == sum(p.numel() for p in made.parameters()) == sum(t.numel() for t in made.tensors().values())


@pytest.mark.parametrize(
    ("options", "sites"),
    [
        ({}, ["0.attn", "1.attn", "2.attn", "2.cross.attn", "3.attn", "3.cross.attn"]),
        ({"encoder_prefix": False}, ["2.attn", "2.cross.attn", "3.attn", "3.cross.attn"]),
        ({"cross_prefix": False}, ["0.attn", "1.attn", "2.attn", "3.attn"]),
        ({"cross_prefix": False, "leave_out": [0, 3]}, ["1.attn", "2.attn"]),
    ],
)
def test_where_it_acts(options: dict[str, Any], sites: list[str]) -> None:
    spec = make_config("prefix_tuning", **options).describe("a", shapes.encoder_decoder())
    assert [f"{part.layer}.{part.site.removesuffix('.core')}" for part in spec.parts] == sites
    assert not spec.fusible


def test_each_kind_of_attention_has_its_own_mlp() -> None:
    made = shapes.adapter("prefix_tuning", shapes.encoder_decoder(), prefix_length=3, bottleneck_size=4)
    assert {name: type(source) for name, source in made.shared.items()} == dict.fromkeys(
        ("encoder", "self", "cross"), PrefixSource
    )
    cross = made.part(2, "cross.attn.core")
    assert isinstance(cross, PrefixPart) and cross.source is made.shared["cross"]


def test_options_that_are_not_legal() -> None:
    with pytest.raises(ConfigError) as raised:
        make_config("prefix_tuning", prefix_length=0, non_linearity="bend", dropout=1, shared_gating="yes", colour=1)
    assert len(raised.value.problems) == 5
    with pytest.raises(ConfigError, match="would act nowhere"):
        shapes.adapter("prefix_tuning", leave_out=[0, 1])
    with pytest.raises(ConfigError, match="leave_out names layer 7"):
        shapes.adapter("prefix_tuning", leave_out=[7])


def test_dropout_is_each_rows_own() -> None:
    part = shapes.first_part(shapes.adapter("prefix_tuning_flat", prefix_length=4, dropout=0.5))
    assert isinstance(part, PrefixPart)
    states, input = part.states(), torch.zeros(3, 5, 12)
    dropped = part.train().rows(states, input)
    kept = dropped != 0
    assert dropped.shape == (2, 3, 4, 12) and not torch.equal(kept[:, 0], kept[:, 1])
    torch.testing.assert_close(dropped[kept], 2 * states.unsqueeze(1).expand(-1, 3, -1, -1)[kept])
    assert part.eval().rows(states, input).shape == (2, 1, 4, 12)


def test_seeds() -> None:
    first, again, other = (
        shapes.adapter("prefix_tuning", prefix_length=2, bottleneck_size=3, init_weights_seed=seed).tensors()
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["shared.self.embedding"], other["shared.self.embedding"])


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
@torch.no_grad()
def test_ejecting(architecture: str) -> None:
    """A flat prefix takes the place of one that an MLP makes; outputs stay, fewer weights do."""
    model = tiny.model(architecture)
    options = {"prefix_length": 3, "bottleneck_size": 40, "use_gating": True, "leave_out": [1]}
    tiny.randomize(model.add_adapter("p", "prefix_tuning", **options))
    plan, inputs = model.plan("p"), tiny.inputs(architecture, padded=True)
    before = plan.states(**inputs).last_hidden_state
    count = sum(p.numel() for p in model.adapters["p"].parameters())
    flat = model.eject_prefix_tuning("p")
    assert model.adapters["p"] is flat and flat.config.flat and flat.config.leave_out == (1,)
    assert sum(p.numel() for p in flat.parameters()) < count
    for same in (plan, model.plan("p")):
        close(same.states(**inputs).last_hidden_state, before)
    assert model.eject_prefix_tuning("p") is flat


def test_ejecting_what_is_no_prefix() -> None:
    model = tiny.model()
    model.add_adapter("a")
    with pytest.raises(ConfigError, match="adapter 'a' has no prefix to eject"):
        model.eject_prefix_tuning("a")


@pytest.mark.parametrize(
    "members", ["mam", "unipelt", ["vera", {"method": "prefix_tuning", "prefix_length": 2}, "compacter++"]]
)
@torch.no_grad()
def test_ejecting_a_unions_prefix(members: Any) -> None:
    model = tiny.model()
    tiny.randomize(model.add_adapter("u", members), scale=0.1)
    plan, inputs = model.plan("u"), tiny.inputs(padded=True)
    before = plan.states(**inputs).last_hidden_state
    count = sum(p.numel() for p in model.adapters["u"].parameters())
    flat = model.eject_prefix_tuning("u")
    assert sum(p.numel() for p in flat.parameters()) < count
    assert not any(".embedding" in name or ".down." in name for name in flat.tensors() if name.startswith("shared."))
    close(plan.states(**inputs).last_hidden_state, before)
    assert model.eject_prefix_tuning("u") is flat


def test_ejecting_keeps_the_masks_of_what_stays() -> None:
    model = tiny.model()
    model.add_adapter("u", "unipelt")
    compose.sparsify(model, "u", 0.5, "random", seed=0)
    masks = model.adapters["u"].masks.by_name()
    flat = model.eject_prefix_tuning("u")
    kept = flat.masks.by_name()
    assert kept and all(torch.equal(mask, masks[name]) for name, mask in kept.items())
    assert kept.keys() == {name for name in masks if name in flat.weights()}
