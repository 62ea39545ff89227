"""What `explain` says: ranges of layers, forks with their reason, costs counted by hand."""

from __future__ import annotations

import json

import pytest

from compose.compile import Options, compile_plan
from compose.dsl import Expression, parse
from compose.errors import InputError
from compose.explain import Explanation, explain
from compose.graph.draw import picture
from compose.specs import HeadSpec
from tests.graph.vocabularies import INNER, WIDTH, Kind, vocabulary

ROWS, TOKENS = 8, 10
ATTENTION = 4 * WIDTH * WIDTH * TOKENS + 2 * WIDTH * TOKENS * TOKENS
LAYER = ATTENTION + 2 * WIDTH * INNER * TOKENS
"""Multiply-adds a row."""
POOLER = WIDTH * WIDTH
BOTTLENECK = 2 * WIDTH * 4 * TOKENS


def explained(
    text: str | None,
    kind: Kind = "post",
    layers: int = 12,
    rows: int = ROWS,
    training: bool = False,
    **given: int,
) -> Explanation:
    expression: Expression = parse(text) if text else None
    words = vocabulary(kind, layers, expression)
    plan = compile_plan(expression, words, Options(training))
    heads = {
        name: HeadSpec(name, "classification", row_multiplies=2 * WIDTH) for name in ("a", "b", "t1", "t2", "x", "y")
    }
    return explain(plan, words, heads, rows, given.pop("tokens", TOKENS), **given)


def test_plain_backbone() -> None:
    found = explained(None)
    assert found.flops == found.plain.flops == found.separate_flops == 2 * ROWS * (12 * LAYER + POOLER)
    assert [(each.first, each.last, each.rows) for each in found.ranges] == [(0, 11, ROWS)]
    assert found.bytes == 4 * (12 * (4 * WIDTH * WIDTH + 2 * WIDTH * INNER) + POOLER)


def test_branches_share_a_trunk() -> None:
    children = ", ".join(f"t{number}=Drop('{name}', first=6)" for number, name in enumerate("abpd"))
    found = explained(f"Parallel({children})")
    before, at, after = found.ranges
    assert (before.first, before.last, before.classes, before.rows, before.sites) == (0, 5, 1, ROWS, ())
    # One of the four acts after attention; at the end of its layer the others part.
    assert (at.first, at.last, at.classes, at.classes_after) == (6, 6, 1, 4)
    assert (after.first, after.last, after.classes, after.rows) == (7, 11, 4, 4 * ROWS)
    assert [(fork.layer, fork.site, fork.branches) for fork in found.forks] == [
        (6, "attn", ((0, 1, 2), (3,))),
        (6, "ffn", ((0,), (1,), (2,))),
    ]
    rows = 6 + 1 + 4 * 5  # layers a trunk row passes through, but for the half of layer 6 that has two
    feed_forward = LAYER - ATTENTION
    expected = rows * LAYER + feed_forward + 4 * POOLER + 5 * 6 * BOTTLENECK
    heads = 2 * 2 * WIDTH  # t1 and t2 have one
    assert found.flops == 2 * ROWS * (expected + heads)
    assert found.separate.passes == 4
    assert found.separate_flops == 2 * ROWS * (4 * (12 * LAYER + POOLER) + 5 * 6 * BOTTLENECK + heads)


def test_pre_norm_branches_part_at_the_input_where_they_cannot_part_inside() -> None:
    found = explained("Parallel('q', Drop('a', first=1))", "pre", 2)
    assert [(fork.layer, fork.site) for fork in found.forks] == [(0, "")]
    assert "attn.q" in found.forks[0].why and "inside the layer" in found.forks[0].why
    assert found.ranges[0].classes == 2


def test_equal_branches_are_one_pass() -> None:
    found = explained("Parallel(t1='a', t2='a')")
    one = explained("'a'")
    head = 2 * 2 * WIDTH * ROWS
    assert found.flops == one.flops + head and not found.forks
    assert found.separate_flops == 2 * one.flops
    assert any("t1, t2 never part" in note for note in found.notes)


def test_fusion_forms() -> None:
    text = "Fuse('a', 'b', name='f')"
    down = 2 * WIDTH * 4  # of both children, a token
    columns = 2 * (4 + 1)
    plain = explained(None).flops
    folded = explained(text).flops - plain
    assert folded == 2 * ROWS * TOKENS * 12 * (down + 2 * WIDTH * columns)
    unfolded = explained(text, training=True).flops - plain
    assert unfolded == folded + 2 * columns * 12 * 3 * WIDTH * WIDTH
    few = explained(text, rows=1, tokens=columns - 1)  # then the matrices meet the tokens
    more = explained(text, training=True, rows=1, tokens=columns - 1)
    assert more.flops == few.flops + 2 * (columns - 1) * 12 * 3 * WIDTH * WIDTH


def test_pieces() -> None:
    plain = explained(None, layers=1).flops
    a_token = 2 * BOTTLENECK // TOKENS
    rows = explained("BatchSplit('a', 'c', sizes=[3, None])", layers=1).flops - plain
    assert rows == TOKENS * (3 * a_token + 5 * a_token // 2) + 2 * 3 * 2 * WIDTH
    tokens = explained("Split('a', None, sizes=[4, None])", layers=1).flops - plain
    assert tokens == ROWS * 4 * a_token
    routed = explained("Route(t1='a', t2='b')", layers=1)
    assert routed.flops - plain == ROWS * TOKENS * a_token + ROWS * 2 * 2 * WIDTH
    assert [head.rows for head in routed.heads] == [ROWS / 2, ROWS / 2]
    assert any("equal numbers" in note for note in routed.notes)
    with pytest.raises(InputError, match=r"BatchSplit add up to 3, but there are 8 rows"):
        explained("BatchSplit('a', 'b', sizes=[1, 2])")
    with pytest.raises(InputError, match=r"Split add up to 3, but there are 10 tokens"):
        explained("Split('a', 'b', sizes=[1, 2])")


def test_encoder_and_decoder_have_their_own_tokens() -> None:
    found = explained(None, "both", 1, decoder_tokens=3)
    feed = 2 * WIDTH * INNER
    own = 4 * WIDTH * WIDTH * 3 + 2 * WIDTH * 3 * 3
    cross = 2 * WIDTH * WIDTH * 3 + 2 * WIDTH * WIDTH * TOKENS + 2 * WIDTH * 3 * TOKENS
    assert found.flops == 2 * ROWS * (LAYER + own + cross + 3 * feed)
    assert "3 in the decoder" in str(found)


@pytest.mark.parametrize("given", [{"rows": 0}, {"tokens": 0}, {"decoder_tokens": 0}])
def test_nothing_to_explain(given: dict[str, int]) -> None:
    with pytest.raises(InputError, match="nothing to explain"):
        explained("'a'", **given)


def test_text() -> None:
    found = explained("Parallel(x=Fuse('a', 'b', name='f'), y=Drop('d', first=6))")
    assert str(found).splitlines()[:5] == [
        "Parallel",
        '├─ x = Fuse (name="f")',
        "│  ├─ a",
        "│  └─ b",
        "└─ y = Drop (first=6)",
    ]
    assert "layers 1-5: 2 branches, 16 rows" in str(found)
    assert "after ffn of layer 0: x | y; they differ in folded fuse f (a, b) | nothing" in str(found)
    assert "2 separate passes" in str(found)


def test_data() -> None:
    found = explained("Parallel(Route(t1='a', t2='b'), y='b')")
    data = json.loads(json.dumps(found.to_dict()))
    assert data["cost"] == {"flops": found.flops, "bytes": found.bytes, "passes": 1}
    assert data["layers"][0]["sites"] == {"ffn": ["(t1: a, t2: b)", "b"]}
    assert [head["task"] for head in data["heads"]] == ["t1", "t2", "y"]
    assert data["forks"][0]["branches"] == [[0], [1]]


def test_pictures() -> None:
    found = explained("Parallel(t1=Drop('a', first=1), t2=Drop('d', first=2))", layers=4)
    assert [box.text() for box in picture(found.graph)] == [
        ("input",),
        ("layers 0-1",),
        ("layer 1: end", "ffn: a"),
        ("layer 1: end",),
        ("layers 2-3", "ffn: a"),
        ("layers 2-3", "attn: d", "ffn: d"),
        ("head t1",),
        ("head t2",),
    ]
    assert '["head t1"]' in found.mermaid()
    assert "layers 2-3<br/>attn: d<br/>ffn: d" in found.mermaid()
    assert 'label="layers 2-3\\nattn: d\\nffn: d"' in found.dot()
