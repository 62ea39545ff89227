"""Text and JSON forms, places of nodes, and reading an expression."""

import json

import pytest
from hypothesis import given

from compose.dsl import (
    MAX_NODES,
    Average,
    BatchSplit,
    Block,
    Drop,
    Fuse,
    Parallel,
    Route,
    Split,
    Stack,
    from_json,
    fuses,
    leaves,
    locate,
    own_name,
    to_json,
    to_text,
    walk,
    with_children,
)
from compose.errors import ExpressionError
from tests.dsl.strategies import nestings


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("nli", '"nli"'),
        (None, "None"),
        (Stack("en", None), 'Stack("en", None)'),
        (Fuse("a", "b", name="f"), 'Fuse("a", "b", name="f")'),
        (Parallel("a", t="b"), 'Parallel("a", t="b")'),
        (Parallel("a", {"sst-2": "b"}, t=None), 'Parallel("a", {"sst-2": "b", "t": None})'),
        (Parallel({"class": "b"}), 'Parallel({"class": "b"})'),
        (Parallel({"__debug__": "b"}), 'Parallel({"__debug__": "b"})'),
        (Route({"m.nli": "a"}), 'Route({"m.nli": "a"})'),
        (Drop("a", first=(0, 10)), 'Drop("a", first=(0, 10))'),
        (Drop("a", layers=[2, 1]), 'Drop("a", layers=[1, 2])'),
        (Drop("a", layers=[]), 'Drop("a", layers=[])'),
        (Drop("a", last=0), 'Drop("a", last=0)'),
        (Average("a"), 'Average("a")'),
        (Average("a", weights=[2], normalize=False), 'Average("a", weights=[2.0], normalize=False)'),
        (Split("a", "b", sizes=[1, None]), 'Split("a", "b", sizes=[1, None])'),
        (BatchSplit("a", sizes=[1]), 'BatchSplit("a", sizes=[1])'),
    ],
)
def test_texts(expression, text):
    assert to_text(expression) == text
    if isinstance(expression, Block):
        assert repr(expression) == text


@given(nestings())
def test_json_reads_back(expression):
    assert from_json(json.loads(json.dumps(to_json(expression), allow_nan=False))) == expression
    assert from_json(to_json(expression)) == expression


@given(nestings())
def test_every_node_is_where_locate_says(expression):
    for path, node in walk(expression):
        text, (start, end) = locate(expression, path)
        assert text == to_text(expression)
        assert text[start:end] == to_text(node)


@given(nestings())
def test_a_block_is_rebuilt_from_its_children(expression):
    if isinstance(expression, Block):
        assert with_children(expression, expression.children) == expression


def test_locate_refuses_a_path_that_leads_nowhere():
    with pytest.raises(IndexError):
        locate(Stack("a"), (0, 0))
    with pytest.raises(IndexError):
        locate(Stack("a"), (1,))


@pytest.mark.parametrize(
    ("form", "where", "said"),
    [
        (3, "$", "is no expression"),
        (["a"], "$", "is no expression"),
        (True, "$", "is no expression"),
        ("a b", "$", "not a legal adapter name"),
        ({}, "$.block", "missing"),
        ({"block": "Stak", "children": ["a"]}, "$.block", "'Stack'"),
        ({"block": 3, "children": ["a"]}, "$.block", "no block is called 3"),
        ({"block": "Stack"}, "$.children", "must be a list"),
        ({"block": "Stack", "children": "ab"}, "$.children", "must be a list"),
        ({"block": "Stack", "children": []}, "$", "empty"),
        ({"block": "Stack", "children": ["a", 3]}, "$.children[1]", "is no expression"),
        ({"block": "Stack", "children": ["a"], "nme": 1}, "$", "Stack has no 'nme'"),
        ({"block": "Stack", "children": ["a"], 3: 1}, "$", "Stack has no 3"),
        ({"block": "Stack", "children": ["a"], "tasks": ["t"]}, "$.tasks", "has no tasks"),
        ({"block": "Parallel", "children": ["a"], "tasks": []}, "$.tasks", "an item per child"),
        ({"block": "Parallel", "children": ["a"], "tasks": ["a b"]}, "$.tasks", "not a legal task name"),
        ({"block": "Parallel", "children": ["a", "b"], "tasks": ["t", None]}, "$.tasks", "come first"),
        ({"block": "Parallel", "children": ["a", "b"], "tasks": ["t", "t"]}, "$.tasks", "two children"),
        ({"block": "Parallel", "children": ["a"], "tasks": [["t"]]}, "$.tasks", "must be a string"),
        ({"block": "Route", "children": ["a"]}, "$", "without a task"),
        ({"block": "Drop", "children": ["a"], "first": -1}, "$.first", "cannot be -1"),
        ({"block": "Drop", "children": ["a"], "first": None}, "$", "nothing says what to drop"),
        ({"block": "Split", "children": ["a", "b"], "sizes": [1]}, "$.sizes", "1 sizes for 2 children"),
        ({"block": "Average", "children": ["a"], "weights": ["1"]}, "$.weights", "not a weight"),
    ],
)
def test_json_that_is_refused(form, where, said):
    with pytest.raises(ExpressionError) as caught:
        from_json(form)
    assert caught.value.problems[0].where == where
    assert said in str(caught.value)


def test_all_problems_of_a_json_form_at_once():
    inner = {"block": "Fus", "children": ["a b"]}
    with pytest.raises(ExpressionError) as caught:
        from_json({"block": "Stack", "children": [inner, 3], "x": 1})
    wheres = [problem.where for problem in caught.value.problems]
    assert wheres == ["$.children[0].block", "$.children[0].children[0]", "$.children[1]", "$"]


def test_json_is_bounded():
    form = {"block": "Stack", "children": []}
    form["children"] = [form, form]
    with pytest.raises(ExpressionError):
        from_json(form)
    with pytest.raises(ExpressionError):
        from_json({"block": "Stack", "children": ["a"] * (2 * MAX_NODES)})
    deep = "a"
    for _ in range(500):
        deep = {"block": "Stack", "children": [deep]}
    with pytest.raises(ExpressionError, match="too deep"):
        from_json(deep)


def test_information_that_other_setup_files_lose():
    for expression in (
        Fuse("a", "b", name="myfuse"),
        Average("a", "b", weights=[2, 2], normalize=False),
        Parallel("a", Drop("b", layers=[0])),
    ):
        assert from_json(to_json(expression)) == expression
    assert from_json(to_json(Fuse("a", "b", name="myfuse"))).name == "myfuse"
    assert from_json(to_json(Average("a", "b", weights=[2, 2], normalize=False))).weights == (2.0, 2.0)


@pytest.mark.parametrize(
    ("expression", "name"),
    [
        ("a", "a"),
        (None, None),
        (Stack("a", "b"), "b"),
        (Stack("a", None), None),
        (Stack("a", Stack("b", "c")), "c"),
        (Drop("a", first=1), "a"),
        (Drop(None, first=1), None),
        (Fuse("a", "b"), "a,b"),
        (Fuse("a", "b", name="f"), "f"),
        (Fuse("a", None, Average("x", "y"), Stack("c", "b")), "a,b"),
        (Fuse(None), None),
        (Fuse(None, name="f"), "f"),
        (Fuse(Fuse("a", "b"), "c"), "a,b,c"),
        (Average("a", "a"), None),
        (Parallel("a"), None),
        (Split("a", sizes=[1]), None),
        (BatchSplit("a", sizes=[1]), None),
        (Route(t="a"), None),
    ],
)
def test_own_names(expression, name):
    assert own_name(expression) == name


def test_leaves_and_fuses():
    expression = Parallel(Fuse("b", Fuse("a", "b")), t=Stack("c", None, Fuse("a", "b")))
    assert leaves(expression) == ("b", "a", "c")
    assert fuses(expression) == (Fuse("b", Fuse("a", "b")), Fuse("a", "b"))
    assert leaves(None) == () and leaves("a") == ("a",)
    assert [path for path, _ in walk(Stack("a", Stack("b")))] == [(), (0,), (1,), (1, 0)]
