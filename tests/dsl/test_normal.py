"""Branches, outputs, and nestings that have no meaning."""

import pytest
from hypothesis import given

from compose.dsl import (
    Average,
    BatchSplit,
    Branch,
    Drop,
    Fuse,
    Output,
    Parallel,
    Route,
    Routed,
    Slice,
    Split,
    Stack,
    branches,
    leaves,
    outputs,
    parse,
    walk,
)
from compose.errors import CompileError
from tests.dsl.strategies import expressions, nestings


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (None, [(None, None)]),
        ("a", [("a", "a")]),
        (Stack("a", "b"), [("b", Stack("a", "b"))]),
        (Parallel("a", None, t="c"), [("a", "a"), (None, None), ("t", "c")]),
        (Parallel(t1="s", t2="s"), [("t1", "s"), ("t2", "s")]),
        (Parallel(Parallel("a", t="b"), "c"), [("a", "a"), ("t", "b"), ("c", "c")]),
        (Stack("x", Parallel("a", t="b")), [("a", Stack("x", "a")), ("t", Stack("x", "b"))]),
        (Stack(Parallel("a", None), "x"), [("a", Stack("a", "x")), (None, Stack(None, "x"))]),
        (
            Drop(Stack("x", Parallel("a", "b")), first=2),
            [("a", Drop(Stack("x", "a"), first=2)), ("b", Drop(Stack("x", "b"), first=2))],
        ),
        (
            Parallel(Stack("x", Parallel("a", Drop(Parallel("b"), last=1)))),
            [("a", Stack("x", "a")), ("b", Stack("x", Drop("b", last=1)))],
        ),
        (Parallel(Fuse("a", "b"), Average("a", "b")), [("a,b", Fuse("a", "b")), (None, Average("a", "b"))]),
    ],
)
def test_branches(expression, expected):
    assert branches(expression) == tuple(Branch(task, branch) for task, branch in expected)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (None, [Output(None, None)]),
        ("a", [Output("a", "a")]),
        (Fuse("a", "b"), [Output("a,b", "a,b")]),
        (Average("a", "b"), [Output(None, None)]),
        (Split("a", "b", sizes=[1, None]), [Output(None, None)]),
        (Stack(BatchSplit("a", "b", sizes=[1, 1]), "c"), [Output("c", "c")]),
        (
            Stack("c", Drop(BatchSplit("a", None, sizes=[1, None]), first=1)),
            [Output("a", "a", (Slice(0, (1, None)),)), Output(None, None, (Slice(1, (1, None)),))],
        ),
        (
            Route(t="a", u=Stack("b", "c")),
            [Output("t", "t", (Routed("t"),)), Output("u", "u", (Routed("u"),))],
        ),
        (
            BatchSplit("a", Route(t="b", u="c"), sizes=[2, 2]),
            [
                Output("a", "a", (Slice(0, (2, 2)),)),
                Output("t", "t", (Slice(1, (2, 2)), Routed("t"))),
                Output("u", "u", (Slice(1, (2, 2)), Routed("u"))),
            ],
        ),
    ],
)
def test_outputs(expression, expected):
    assert outputs(expression) == tuple(expected)


def test_the_task_of_a_branch_is_that_of_its_one_output():
    assert outputs(Branch("t", Stack("a", "b"))) == (Output("t", "t"),)
    assert outputs(Branch("t", None)) == (Output("t", "t"),)
    assert outputs(Branch(None, Stack(None, "x"))) == (Output(None, None),)
    split = BatchSplit("a", "b", sizes=[1, 1])
    assert outputs(Branch(None, split)) == outputs(split)


@pytest.mark.parametrize(
    ("text", "marked", "said"),
    [
        ('Stack(Parallel("a", "b"), Parallel("c", "d"))', 'Parallel("c", "d")', "second Parallel"),
        ('Stack(Parallel("a"), "x", Drop(Parallel("c"), first=1))', 'Drop(Parallel("c"), first=1)', "second"),
        ('Fuse(Parallel("a", t="b"), "c")', 'Parallel("a", t="b")',
         'Parallel(a=Fuse("a", "c"), t=Fuse("b", "c"))'),
        ('Fuse(Stack("x", Parallel("a", "b")), "c")', 'Parallel("a", "b")', "the Fuse in each branch"),
        ('Average(Parallel("a", None), weights=[2.0])', 'Parallel("a", None)',
         'Parallel(Average("a", weights=[2.0]), Average(None, weights=[2.0]))'),
        ('Split(Parallel("a"), "b", sizes=[1, None])', 'Parallel("a")', "Parallel inside a Split"),
        ('BatchSplit(Parallel("a", "b"), "c", sizes=[1, None])', 'Parallel("a", "b")',
         'Parallel(BatchSplit("a", "c", sizes=[1, None]), BatchSplit("b", "c", sizes=[1, None]))'),
        ('Route(t=Parallel("a", "b"))', 'Parallel("a", "b")', "Parallel inside a Route"),
        ('Parallel(x=Parallel("a", "b"))', 'Parallel("a", "b")', "'x' is given to a Parallel"),
        ('Parallel(x=Stack(Parallel("a"), "b"))', 'Stack(Parallel("a"), "b")', "'x' is given to a Parallel"),
        ('Parallel("b", x=BatchSplit("a", "b", sizes=[1, 1]))', 'BatchSplit("a", "b", sizes=[1, 1])',
         "'x' names nothing"),
        ('Stack("c", Parallel(x=Route(t="a")))', 'Route(t="a")', "'x' names nothing"),
        ('Route(t=BatchSplit("a", "b", sizes=[1, 1]))', 'BatchSplit("a", "b", sizes=[1, 1])',
         "several outputs"),
        ('Route(t=Stack("x", Route(t="a", u="b")))', 'Route(t="a", u="b")', "Route inside a Route"),
    ],
)  # fmt: skip
def test_nestings_without_a_meaning(text, marked, said):
    with pytest.raises(CompileError) as caught:
        branches(parse(text))
    [problem] = caught.value.problems
    assert problem.text == text
    assert text[slice(*problem.span)] == marked
    assert said in str(caught.value)
    assert problem.why and problem.hint


def test_every_nesting_without_a_meaning_is_said():
    expression = Parallel(x=Parallel("a"), y=Fuse(Parallel("b"), Average(Parallel("c"), Parallel("d"))))
    with pytest.raises(CompileError) as caught:
        branches(expression)
    assert len(caught.value.problems) == 5


def test_hints_work():
    for text in ('Fuse(Parallel("a", t="b"), "c")', 'BatchSplit(Parallel("a", "b"), "c", sizes=[1, None])'):
        with pytest.raises(CompileError) as caught:
            branches(parse(text))
        assert branches(parse(caught.value.problems[0].hint))


def test_what_would_be_too_large_is_refused():
    with pytest.raises(CompileError, match="too large"):
        branches(Stack(*["a"] * 4000, Parallel(*["b"] * 4000)))
    assert len(branches(Parallel(*["b"] * 9000))) == 9000


def test_outputs_of_a_parallel():
    with pytest.raises(CompileError):
        outputs(Parallel("a"))


@given(expressions(["a", "b", "c"], max_leaves=10))
def test_branches_contain_no_parallel_and_all_adapters(expression):
    found = branches(expression)
    assert not any(isinstance(node, Parallel) for branch in found for _, node in walk(branch.expression))
    assert {name for branch in found for name in leaves(branch.expression)} == set(leaves(expression))
    assert all(outputs(branch) for branch in found)
    assert branches(Parallel(expression)) == found or len(found) == 1


@given(nestings())
def test_anything_is_taken_apart_or_refused(expression):
    try:
        found = branches(expression)
    except CompileError as error:
        assert all(problem.span for problem in error.problems)
    else:
        assert all(branches(branch.expression) for branch in found)
        assert all(outputs(branch) for branch in found)
