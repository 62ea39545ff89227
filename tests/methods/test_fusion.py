"""The three forms of a fusion are one function; temperature, cache, cost, files."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from compose.errors import FileError
from compose.methods.fusion.module import AttentionPart
from compose.methods.fusion.part import FusionPlace
from compose.methods.fusion.spec import FusionConfig
from compose.methods.fusion.whole import Fusion
from compose.methods.fusions import make_fusion_config
from compose.methods.part import LowRank, Part
from tests.methods.shapes import FEWER, adapter, encoder, first_part, randomised

WIDTH = 8
OPTIONS = st.fixed_dictionaries(
    {
        "key": st.booleans(),
        "query": st.booleans(),
        "value": st.booleans(),
        "residual_before": st.booleans(),
        "value_before_softmax": st.booleans(),
        "temperature": st.booleans(),
    }
)
# a candidate: its rank and whether it has a bias, or dense, or none
KINDS = st.tuples(st.integers(1, 4), st.booleans()) | st.sampled_from(["dense", "none"])


def attention(preset: str = "dynamic", width: int = WIDTH, dropout: float = 0.0, **options: Any) -> AttentionPart:
    config = make_fusion_config(preset, **options)
    assert isinstance(config, FusionConfig)
    return AttentionPart(config, FusionPlace(width, dropout=dropout))


def made_of(options: dict[str, Any], width: int = WIDTH, dropout: float = 0.0) -> AttentionPart:
    part = randomised(attention(width=width, dropout=dropout, **options))
    assert isinstance(part, AttentionPart)
    return part


def candidate(kind: Any) -> LowRank | Tensor | None:
    def weight(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64).requires_grad_()

    if kind == "none":
        return None
    if kind == "dense":
        return weight(2, 3, WIDTH)
    rank, biased = kind
    return LowRank(weight(2, 3, rank), weight(WIDTH, rank), weight(WIDTH) if biased else None)


def dense(one: LowRank | Tensor | None) -> Tensor | None:
    return one.dense() if isinstance(one, LowRank) else one


def leaves(candidates: list[Any], *others: Tensor) -> list[Tensor]:
    found = list(others)
    for one in candidates:
        found += [one] if isinstance(one, Tensor) else [t for t in (one or ())[:3] if t is not None]
    return found


@given(OPTIONS, st.lists(KINDS, min_size=1, max_size=5), st.booleans(), st.integers(0, 999))
def test_all_forms_are_equal_gradients_included(
    options: dict[str, Any], kinds: list[Any], residual_is_there: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    part = made_of(options)
    candidates = [candidate(kind) for kind in kinds]
    query = torch.randn(2, 3, WIDTH, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 3, WIDTH, dtype=torch.float64, requires_grad=True)
    residual = x if residual_is_there else None
    plain, weights = part.reference(query, [dense(one) for one in candidates], residual)
    fast, fast_weights = part.mix(query, candidates, residual)
    folded, folded_weights = part.mix_folded(query, candidates, residual)
    for got in (fast, folded):
        torch.testing.assert_close(got, plain, rtol=1e-10, atol=1e-10)
    for got in (fast_weights, folded_weights):
        torch.testing.assert_close(got, weights, rtol=1e-10, atol=1e-10)
    assert weights.shape == (2, 3, len(kinds))

    wanted_in = [*leaves(candidates, query, x), *part.parameters()]
    direction, tilt = torch.randn_like(plain), torch.randn_like(weights)
    grads = []
    for out, attention in ((plain, weights), (fast, fast_weights)):
        loss = (out * direction).sum() + (attention * tilt).sum() + 0 * query.sum()
        grads.append(torch.autograd.grad(loss, wanted_in, allow_unused=True, materialize_grads=True))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


@FEWER
@given(OPTIONS, st.lists(KINDS, min_size=1, max_size=4), st.integers(0, 999))
def test_score_dropout_falls_on_the_same_scores(options: dict[str, Any], kinds: list[Any], seed: int) -> None:
    torch.manual_seed(seed)
    part = made_of(options, dropout=0.5).train()
    candidates = [candidate(kind) for kind in kinds]
    query, x = torch.randn(2, 2, 3, WIDTH, dtype=torch.float64).unbind()
    results = []
    for form in (part.reference, part.mix, part.mix_folded):
        torch.manual_seed(seed)
        given_candidates: Any = [dense(one) if form == part.reference else one for one in candidates]
        results.append(form(query, given_candidates, x)[0])
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(results[2], results[0], rtol=1e-9, atol=1e-9)


def test_what_it_computes() -> None:
    part = made_of({})
    assert part.query is not None and part.key is not None and part.value is not None
    us = torch.randn(3, 4, WIDTH, dtype=torch.float64)
    h, x = torch.randn(2, 4, WIDTH, dtype=torch.float64)
    q = part.query(h)
    scores = torch.stack([(q * part.key(u)).sum(-1) for u in us], -1)
    p = scores.softmax(-1)
    wanted = x + sum(p[:, i, None] * part.value(us[i]) for i in range(3))
    got, weights = part.mix(h, list(us), x)
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(weights, p)


def test_how_weights_start_and_their_sizes() -> None:
    part = attention(width=64)
    assert part.query is not None and part.key is not None and part.value is not None
    assert sum(parameter.numel() for parameter in part.parameters()) == 3 * 64 * 64 + 2 * 64
    for matrix in (part.query, part.key):
        assert 0.018 < float(matrix.weight.detach().std()) < 0.022 and not matrix.bias.any()
    assert torch.equal(part.value.weight, torch.full((64, 64), 1e-6).fill_diagonal_(1.0))
    static = attention("static", width=64)
    assert static.value is None
    free = attention(value_initialized=False, width=64)
    assert free.value is not None and abs(float(free.value.weight.detach().std()) - 0.02) < 2e-3


def candidates_of(parts: list[Part], states: Tensor) -> list[LowRank]:
    found = [part.low_rank(states) for part in parts]
    return [one for one in found if one is not None]


def setting(**options: Any) -> tuple[AttentionPart, list[Any], Tensor]:
    torch.manual_seed(0)
    spec = encoder(1, WIDTH)
    parts: list[Any] = [
        first_part(randomised(adapter("seq_bn", spec, bottleneck_size=2, scaling="learned", init_weights=name)))
        for name in ("bert", "houlsby")
    ]
    return made_of(options).eval(), parts, torch.randn(2, 3, WIDTH, dtype=torch.float64)


def test_products_are_kept_until_a_weight_changes() -> None:
    part, parts, h = setting()
    first = part.fold([one.factors for one in candidates_of(parts, h)])
    assert part.fold([one.factors for one in candidates_of(parts, h)]) is first
    assert part.fold([one.factors() for one in parts]) is first
    changes = [
        lambda: parts[0].up.weight.add_(1),
        lambda: parts[1].up.bias.mul_(2),
        lambda: parts[1].scaling.mul_(2),
        lambda: part.key.weight.zero_(),  # type: ignore[union-attr]
        lambda: part.query.bias.add_(1),  # type: ignore[union-attr]
        lambda: setattr(parts[0].up, "weight", torch.nn.Parameter(torch.randn(WIDTH, 2).double())),
        lambda: setattr(parts[0].up.weight, "data", torch.randn(WIDTH, 2).double()),
        lambda: parts[0].load_state_dict(copy.deepcopy(parts[1].state_dict())),
    ]
    kept = first
    for change in changes:
        with torch.no_grad():
            change()
        candidates = candidates_of(parts, h)
        assert part.fold([one.factors for one in candidates]) is not kept
        kept = part.fold([one.factors for one in candidates])
        torch.testing.assert_close(part.mix_folded(h, candidates, h), part.mix(h, candidates, h))
    part.float()
    torch.testing.assert_close(part.mix_folded(h, candidates, h), part.mix(h, candidates, h))


def test_an_optimizer_step_changes_the_products() -> None:
    part, parts, h = setting()
    optimizer = torch.optim.AdamW([*part.parameters(), *parts[0].parameters()], lr=0.1)
    for _ in range(3):
        part.mix_folded(h, candidates_of(parts, h), h)
        part.mix(h, candidates_of(parts, h), h)[0].square().sum().backward()
        optimizer.step()
        candidates = candidates_of(parts, h)
        torch.testing.assert_close(part.mix_folded(h, candidates, h), part.mix(h, candidates, h))


def test_several_sets_of_candidates_and_no_piling_up() -> None:
    part, parts, h = setting()
    both, one = candidates_of(parts, h), candidates_of(parts[:1], h)
    kept = part.fold([c.factors for c in both]), part.fold([c.factors for c in one])
    assert (part.fold([c.factors for c in both]), part.fold([c.factors for c in one])) == kept
    for _ in range(9):  # weights that live no longer than the call
        loose = LowRank(torch.randn(2, 3, 2).double(), torch.randn(WIDTH, 2).double())
        part.mix_folded(h, [loose, both[0]], h)
    assert len(part._folds) <= 4
    assert part.fold([c.factors for c in both]) is kept[0]


def test_order_and_repetition_of_candidates_count() -> None:
    part, parts, h = setting()
    a, b = candidates_of(parts, h)
    for candidates in ([a, b], [b, a], [a, a], [a, None, b], [None, None], [a, b.dense()]):
        torch.testing.assert_close(part.mix_folded(h, candidates, h), part.mix(h, candidates, h))


def test_products_made_in_inference_mode_serve_elsewhere() -> None:
    part, parts, h = setting()
    with torch.inference_mode():
        part.mix_folded(h, candidates_of(parts, h), h)
    query = h.clone().requires_grad_()
    part.mix_folded(query, candidates_of(parts, h), h)[0].sum().backward()
    assert query.grad is not None


def test_copies_and_pickles_leave_the_products_behind() -> None:
    part, parts, h = setting()
    candidates = candidates_of(parts, h)
    part.mix_folded(h, candidates, h)
    clone = copy.deepcopy(part)
    assert len(part._folds) == 1 and len(clone._folds) == 0
    assert len(pickle.loads(pickle.dumps(part))._folds) == 0
    assert set(part.state_dict()) == {"query.weight", "query.bias", "key.weight", "key.bias", "value.weight"}
    randomised(clone)
    assert not torch.equal(clone.mix_folded(h, candidates, h)[0], part.mix_folded(h, candidates, h)[0])
    torch.testing.assert_close(clone.mix_folded(h, candidates, h), clone.mix(h, candidates, h))


def test_threads_share_the_products() -> None:
    part, parts, h = setting()
    candidates = candidates_of(parts, h)
    sets = [candidates, candidates[:1], candidates[1:], candidates[::-1], [*candidates, *candidates]]
    wanted = [part.mix(h, list(one), h)[0] for one in sets]
    wrong: list[int] = []

    def work(start: int) -> None:
        for step in range(100):
            index = (start + step) % len(sets)
            if not torch.allclose(part.mix_folded(h, list(sets[index]), h)[0], wanted[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@torch.no_grad()
def test_compiled_code_takes_products_that_were_made_before() -> None:
    part, parts, h = setting()
    candidates = candidates_of(parts, h)
    folded = part.fold([one.factors for one in candidates])
    wanted = part.mix(h, candidates, h)
    compiled = torch.compile(part.mix_folded, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(h, candidates, h, folded), wanted)
    torch.testing.assert_close(compiled(h, candidates, h), wanted)


def test_cost_grows_with_the_ranks_not_with_the_candidates_times_width_squared() -> None:
    width, rank, tokens, children = 64, 4, 6, 8
    part = attention(width=width).eval()
    candidates = [
        LowRank(torch.randn(1, tokens, rank), torch.randn(width, rank), torch.randn(width)) for _ in range(children)
    ]
    h = torch.randn(1, tokens, width)
    part.mix_folded(h, candidates, h)
    counted = {}
    for form in (part.mix, part.mix_folded):
        with FlopCounterMode(display=False) as counter:
            form(h, candidates, h)
        counted[form.__name__] = counter.get_total_flops() // (2 * tokens)
    columns = children * (rank + 1)
    assert counted == {"mix": 3 * width * width + 2 * width * columns, "mix_folded": 2 * width * columns}


def test_matrices_meet_the_columns_where_these_are_fewer_than_the_tokens() -> None:
    width, rank, tokens, children = 64, 2, 100, 8
    part = attention(width=width, dropout=0.1).train()
    candidates = [LowRank(torch.randn(1, tokens, rank), torch.randn(width, rank), None) for _ in range(children)]
    h = torch.randn(1, tokens, width)
    with FlopCounterMode(display=False) as counter:
        part.mix(h, candidates, h)
    columns = children * rank
    shared = 2 * width * (tokens + width + columns)  # the score that all share, which dropout takes from some
    assert counter.get_total_flops() == 2 * columns * (3 * width * width + 2 * width * tokens) + shared


def test_no_tensor_of_candidates_times_width() -> None:
    """Nothing that a training step keeps is as large as all increments side by side."""
    width, rank, tokens, children = 64, 2, 100, 16
    part = attention(width=width)
    candidates = [
        LowRank(torch.randn(1, tokens, rank, requires_grad=True), torch.randn(width, rank), torch.randn(width))
        for _ in range(children)
    ]
    h = torch.randn(1, tokens, width)
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.numel()), t)[1], lambda t: t):
        part.mix(h, candidates, h)
    assert max(sizes) <= tokens * width < tokens * width * children


def test_temperature_falls_by_training_steps_alone() -> None:
    torch.manual_seed(0)
    part, parts, h = setting(temperature=True)
    assert part.temperature is not None
    candidates = candidates_of(parts, h)
    first = part.mix(h, candidates, h)[0]
    for form in (part.mix, part.mix_folded):
        for _ in range(5):
            assert torch.allclose(form(h, candidates, h)[0], first)
    part.train()
    part.mix(h, candidates, h)
    assert float(part.temperature) == 50.0
    for _ in range(10):
        part.advance()
    assert float(part.temperature) == pytest.approx(49.5)
    assert not torch.allclose(part.mix(h, candidates, h)[0], first)
    torch.testing.assert_close(part.mix_folded(h, candidates, h), part.mix(h, candidates, h))
    other = AttentionPart(part.config, FusionPlace(WIDTH)).double()
    other.load_state_dict(part.state_dict())
    assert torch.equal(other.mix(h, candidates, h)[0], part.mix(h, candidates, h)[0])
    for _ in range(2000):
        part.advance()
    assert float(part.temperature) == 1.0


def test_regularization_pulls_the_value_matrix_to_the_identity() -> None:
    part = attention(width=4)
    assert part.value is not None
    assert float(part.regularization_loss().detach()) == pytest.approx(0.0, abs=1e-10)
    with torch.no_grad():
        part.value.weight.copy_(torch.eye(4) + 2)
    assert float(part.regularization_loss().detach()) == pytest.approx(0.01 * 16 * 4)
    part.regularization_loss().backward()
    assert part.value.weight.grad is not None
    assert float(attention("static", width=4).regularization_loss()) == 0
    assert float(attention(regularization=False, width=4).regularization_loss()) == 0


def test_dropout_is_the_backbones_unless_the_config_says() -> None:
    assert attention(width=4, dropout=0.1).dropout == 0.1
    assert attention(dropout_prob=0.3, width=4, dropout=0.1).dropout == 0.3
    assert attention(dropout_prob=0.0, width=4, dropout=0.1).dropout == 0.0


def test_scores_of_half_precision_inputs_are_computed_in_the_fusions_dtype() -> None:
    part = attention(width=WIDTH)
    h = torch.randn(2, 3, WIDTH).bfloat16()
    out, weights = part.mix(h, [h, None, LowRank(h[..., :2], torch.randn(WIDTH, 2).bfloat16())], h)
    assert out.dtype == weights.dtype == torch.float32


def fusion(**options: Any) -> Fusion:
    sites = {(0, "attn"): 4, (0, "ffn"): 4, (3, "cross.attn"): 4}
    return Fusion("a,b", make_fusion_config(**options), sites, dropout=0.1)


def test_a_fusion_over_its_sites() -> None:
    made = fusion(temperature=True)
    assert made.spec.name == "a,b" and made.spec.sites == {(0, "attn"), (0, "ffn"), (3, "cross.attn")}
    matrices = ("query.weight", "query.bias", "key.weight", "key.bias", "value.weight", "temperature")
    assert set(made.tensors()) == {f"{at}.{m}" for at in ("0.attn", "0.ffn", "3.cross.attn") for m in matrices}
    assert made.part(3, "cross.attn").dropout == 0.1
    made.advance()
    for name, tensor in made.tensors().items():
        assert not name.endswith("temperature") or float(tensor) == pytest.approx(49.95)
    assert float(made.regularization_loss().detach()) == pytest.approx(0, abs=1e-9)
    copied = fusion(temperature=True)
    copied.load_tensors(made.tensors())
    assert all(torch.equal(tensor, copied.tensors()[name]) for name, tensor in made.tensors().items())


def test_the_value_matrices_can_be_found_by_name() -> None:
    """What exempts them from weight decay must match names as they are."""
    names = [name for name, _ in fusion().named_parameters()]
    assert [name for name in names if name.endswith(".value.weight")] == [
        f"parts.{at}.value.weight" for at in ("0:attn", "0:ffn", "3:cross:attn")
    ]
    assert len(names) == 15


def test_loading_a_fusion_is_all_or_nothing() -> None:
    made = fusion()
    given_tensors = dict(fusion().tensors())
    del given_tensors["0.ffn.key.bias"]
    before = copy.deepcopy(made.tensors())
    with pytest.raises(FileError, match=r"fusion 'a,b': the weight '0.ffn.key.bias'"):
        made.load_tensors(given_tensors)
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.tensors().items())
