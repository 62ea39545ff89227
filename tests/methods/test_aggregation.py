"""Layer aggregation alone: its equations written out, padding, options and costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compose.errors import ConfigError
from compose.methods.aggregation.module import AggregationPart, attention
from compose.methods.part import Context
from compose.methods.registry import make_config
from compose.methods.states import LayerStates
from tests.methods.shapes import BERT_BASE, adapter, encoder, encoder_decoder, first_part, randomised

LAYERS, WIDTH = 2, 12
VARIANTS: list[dict[str, Any]] = [
    {},
    {"tailor": False},
    {"tailor_attention": False},
    {"size": 6, "heads": 3, "leave_out": [0], "tailor": False},
    {"size": 5, "heads": 1, "leave_out": [1]},
]


def part_of(**options: Any) -> AggregationPart:
    part = randomised(first_part(adapter("layer_aggregation", **options))).eval()
    assert isinstance(part, AggregationPart)
    return part


def states_of(rows: int = 3, tokens: int = 5, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, tokens, WIDTH, generator=generator, dtype=torch.float64) * 0.4 for _ in range(LAYERS + 1)]


@torch.no_grad()
def written_out(part: AggregationPart, layers: list[Tensor]) -> Tensor:
    """The equations for rows without padding, token by token and layer by layer."""
    config = part.config
    chosen = [layers[number] for number in range(len(layers)) if number not in config.leave_out]
    rows, tokens, _ = layers[0].shape
    results = torch.zeros_like(layers[0])
    for row in range(rows):
        keys = [part.key(sum(states[row, i] for i in range(tokens)) / tokens) for states in chosen]
        mixture = []
        for i in range(tokens):
            query = part.query(sum(states[row, i] for states in chosen) / len(chosen))
            weights = torch.tensor(head_average(query, keys, config.heads), dtype=torch.float64)
            mixture.append(sum(weight * states[row, i] for weight, states in zip(weights, chosen, strict=True)))
        if part.tailor is None:
            results[row] = torch.stack(mixture)
            continue
        tailor = part.tailor
        x = [r + torch.relu(tailor.dense(tailor.norm(r))) for r in mixture]
        if config.tailor_attention:
            queries = [tailor.query(tailor.reduce(each)) for each in x]
            tokens_keys = [tailor.key(tailor.reduce(each)) for each in x]
            x = [
                sum(share * other for share, other in zip(head_average(q, tokens_keys, config.heads), x, strict=True))
                for q in queries
            ]
        results[row] = torch.stack([r + each for r, each in zip(mixture, x, strict=True)])
    return results


def head_average(query: Tensor, keys: list[Tensor], heads: int) -> list[float]:
    """Attention weights of one query, head by head, then averaged."""
    size = len(query) // heads
    shares = []
    for head in range(heads):
        place = slice(head * size, (head + 1) * size)
        scores = [float(query[place] @ key[place]) / size**0.5 for key in keys]
        shares.append(torch.tensor(scores, dtype=torch.float64).softmax(0))
    return torch.stack(shares).mean(0).tolist()


@pytest.mark.parametrize("options", VARIANTS)
def test_it_is_the_equation(options: dict[str, Any]) -> None:
    part, layers = part_of(**options), states_of()
    found = part(layers[-1], Context(states=LayerStates(layers)))
    torch.testing.assert_close(found, written_out(part, layers), rtol=1e-11, atol=1e-11)


def test_its_attention_is_torchs() -> None:
    """`nn.MultiheadAttention` with identities as maps gives the same averaged weights, masked or not."""
    query, key = torch.randn(2, 5, 6, dtype=torch.float64), torch.randn(2, 4, 6, dtype=torch.float64)
    reference = nn.MultiheadAttention(6, 3, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.eye(6).repeat(3, 1))
        reference.in_proj_bias.zero_()
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    for given in (None, mask):
        expected = reference(query, key, key, key_padding_mask=None if given is None else given == 0)[1]
        torch.testing.assert_close(attention(query, key, 3, given), expected)


@pytest.mark.parametrize("options", VARIANTS)
def test_padding_and_batch_mates_change_nothing(options: dict[str, Any]) -> None:
    part, layers = part_of(**options), states_of(rows=3, tokens=6)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1]])
    found = part(layers[-1], Context(states=LayerStates(layers, mask)))
    for row, place in enumerate((slice(0, 6), slice(0, 3), slice(2, 6))):
        alone = [states[row : row + 1, place] for states in layers]
        expected = part(alone[-1], Context(states=LayerStates(alone)))
        torch.testing.assert_close(found[row : row + 1, place], expected, rtol=1e-11, atol=1e-11)


def test_a_row_of_padding_alone_stays_finite() -> None:
    part, layers = part_of(), states_of(rows=2)
    mask = torch.tensor([[1] * 5, [0] * 5])
    found = part(layers[-1], Context(states=LayerStates(layers, mask)))
    found.sum().backward()
    assert found.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in part.parameters())


def test_siblings_share_the_means() -> None:
    layers = states_of()
    states = LayerStates(layers)
    once = states.means((0, 1, 2))
    assert states.means((0, 1, 2)) is once and states.means((1, 2)) is not once
    parts = [part_of(), part_of(tailor=False)]
    ys = torch.stack([layers[-1]] * 2)
    found = AggregationPart.grouped(parts, ys, Context(states=states))
    for part, one in zip(parts, found, strict=True):
        torch.testing.assert_close(one, part(layers[-1], Context(states=LayerStates(layers))))


@pytest.mark.parametrize("options", VARIANTS)
def test_every_weight_is_counted_and_matters(options: dict[str, Any]) -> None:
    part = part_of(**options)
    made = adapter("layer_aggregation", **options)
    assert made.spec.parts[0].parameters == sum(p.numel() for p in made.parameters())
    layers = states_of()
    found = part(layers[-1], Context(states=LayerStates(layers)))
    (found * torch.randn_like(found)).sum().backward()
    assert all(float(p.grad.abs().max()) > 1e-9 for p in part.parameters())


def test_it_starts_near_the_mean_of_the_layers() -> None:
    """On normalised states as BERT's; the same for one seed, another for another."""
    made = [first_part(adapter("layer_aggregation", BERT_BASE, init_weights_seed=seed)) for seed in (1, 1, 2)]
    layers = [nn.functional.layer_norm(torch.randn(2, 9, 768), (768,)) for _ in range(13)]
    shares = made[0].weights(LayerStates(layers))  # type: ignore[operator]
    torch.testing.assert_close(shares, torch.full_like(shares, 1 / 13), atol=0.02, rtol=0)
    one, again, other = (part.state_dict() for part in made)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["query.weight"], other["query.weight"])
    assert not torch.equal(one["tailor.dense.weight"], other["tailor.dense.weight"])


def test_dropout_is_in_the_tailor_block_and_in_training_only() -> None:
    layers = states_of()
    context = Context(states=LayerStates(layers))
    for options, random in (({"dropout": 0.5}, True), ({"dropout": 0.5, "tailor": False}, False)):
        part = part_of(**options).train()
        assert torch.equal(part(layers[-1], context), part(layers[-1], context)) != random
        assert torch.equal(part.eval()(layers[-1], context), part(layers[-1], context))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 7}, "size=7 cannot be divided among heads=2"),
        ({"heads": 0}, "heads must be a whole number of at least 1"),
        ({"dropout": 1.0}, "dropout must be a number from 0 to below 1"),
        ({"tailer": True}, "there is no option 'tailer'"),
        ({"leave_out": [3]}, "leave_out names the state 3, but there are 3, 0 to 2"),
        ({"leave_out": [0, 1, 2]}, "leave_out names all states"),
        ({"leave_out": [-1]}, "leave_out must be a list of numbers of states"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config("layer_aggregation", **options).describe("a", encoder())
    assert message in str(caught.value)


def test_an_encoder_decoder_is_refused() -> None:
    with pytest.raises(ConfigError, match="two stacks"):
        make_config("layer_aggregation").describe("a", encoder_decoder())


def test_its_options_come_back_from_what_a_file_holds() -> None:
    config = make_config("layer_aggregation", leave_out=[2, 0], tailor=False)
    assert make_config(config.method, **config.to_dict()) == config
    assert config.to_dict()["leave_out"] == [0, 2]


def test_a_part_without_an_increment_says_so() -> None:
    part = part_of()
    y = torch.zeros(1, 2, WIDTH, dtype=torch.float64)
    with pytest.raises(TypeError, match="no increment"):
        part.prepare(y, Context())
    with pytest.raises(ValueError, match="lacks its states"):
        part(y, Context())


def test_states_that_lie_one_after_the_other_are_not_copied() -> None:
    whole = torch.randn(LAYERS + 1, 3, 5, WIDTH, dtype=torch.float64)
    parts, loose = list(whole), [part.clone() for part in whole]
    weights = torch.randn(3, 5, LAYERS + 1, dtype=torch.float64).softmax(-1)
    for chosen, shares in (((0, 1, 2), weights), ((1, 2), weights[..., 1:]), ((0, 2), weights[..., ::2])):
        one, other = LayerStates(parts), LayerStates(loose)
        torch.testing.assert_close(one.mixed(chosen, shares), other.mixed(chosen, shares))
        for found, expected in zip(one.means(chosen), other.means(chosen), strict=True):
            torch.testing.assert_close(found, expected)
        copied = one._stacked(chosen).untyped_storage().data_ptr() != whole.untyped_storage().data_ptr()
        assert copied == (chosen == (0, 2))
    backwards = LayerStates(parts[::-1])
    torch.testing.assert_close(
        backwards.mixed((0, 1, 2), weights.flip(-1)), LayerStates(loose).mixed((0, 1, 2), weights)
    )
