"""Blocks that cut a value up, in a Fuse: each piece has a Fuse of its own."""

import pytest

from compose.dsl import parse, to_text
from compose.errors import CompileError
from compose.graph.hoist import cuts_outside


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('Fuse("c", Route(t="a", u="b"), name="f")', 'Route(t=Fuse("c", "a", name="f"), u=Fuse("c", "b", name="f"))'),
        (
            'Fuse(Stack("x", Route(t="a", u=None)), Average("c", Route(t="d", u="e"), weights=[3, 1]), name="f")',
            'Route(t=Fuse(Stack("x", "a"), Average("c", "d", weights=[3.0, 1.0]), name="f"), '
            'u=Fuse(Stack("x", None), Average("c", "e", weights=[3.0, 1.0]), name="f"))',
        ),
        (
            'Stack("s", Fuse(Fuse("a", Drop(Split("b", "c", sizes=[2, None]), first=1), name="g"), "d", name="f"))',
            'Stack("s", Split(Fuse(Fuse("a", Drop("b", first=1), name="g"), "d", name="f"), '
            'Fuse(Fuse("a", Drop("c", first=1), name="g"), "d", name="f"), sizes=[2, None]))',
        ),
        # sizes count rows of the whole batch: the Route goes within
        (
            'Fuse(Route(t="a", u="b"), BatchSplit("c", "d", sizes=[1, 3]), name="f")',
            'BatchSplit(Route(t=Fuse("a", "c", name="f"), u=Fuse("b", "c", name="f")), '
            'Route(t=Fuse("a", "d", name="f"), u=Fuse("b", "d", name="f")), sizes=[1, 3])',
        ),
        (
            'Fuse("c", Route(t=BatchSplit("a", "b", sizes=[1, None]), u="d"), name="f")',
            'Route(t=BatchSplit(Fuse("c", "a", name="f"), Fuse("c", "b", name="f"), sizes=[1, None]), '
            'u=Fuse("c", "d", name="f"))',
        ),
        # a Route leaves out rows of tasks that only others name: they are fused all the same
        (
            'Stack(Fuse("c", Route(t="a", u="b"), Route(t="d", v="e"), name="f"), Route(t="a", w="b"))',
            'Stack(Route(t=Fuse("c", "a", "d", name="f"), u=Fuse("c", "b", None, name="f"), '
            'v=Fuse("c", None, "e", name="f"), w=Fuse("c", None, None, name="f")), Route(t="a", w="b"))',
        ),
        ('Average("c", Route(t="a", u="b"))', 'Average("c", Route(t="a", u="b"))'),
        ('Fuse("a", "b")', 'Fuse("a", "b")'),
        ('Route(t=Fuse("a", "b"), u="c")', 'Route(t=Fuse("a", "b"), u="c")'),
    ],
)
def test_pieces(text: str, expected: str) -> None:
    expression = parse(text)
    assert to_text(cuts_outside(expression, expression)) == expected


@pytest.mark.parametrize(
    "text",
    [
        'Fuse(BatchSplit("a", "b", sizes=[1, 3]), BatchSplit("a", "b", sizes=[2, 2]), name="f")',
        'Fuse(Split("a", "b", sizes=[1, 3]), Stack("c", Split("a", "b", sizes=[2, 2])), name="f")',
        'Fuse(BatchSplit("a", "b", sizes=[1, 3]), Route(t=BatchSplit("a", "b", sizes=[1, None]), u="c"), name="f")',
    ],
)
def test_pieces_of_no_common_kind(text: str) -> None:
    expression = parse(text)
    with pytest.raises(CompileError, match="cut it up in different ways") as refused:
        cuts_outside(expression, expression)
    assert len(refused.value.problems) == 2
    assert all(problem.text == text and problem.span and problem.hint for problem in refused.value.problems)
