"""Blocks: construction, canonical values, equality, and what they refuse."""

import copy
import dataclasses
import enum
import itertools
import pickle
import subprocess
import sys

import pytest
from hypothesis import given

from compose.dsl import (
    BLOCKS,
    MAX_DEPTH,
    MAX_NODES,
    MAX_TEXT,
    Average,
    BatchSplit,
    Drop,
    Fuse,
    Parallel,
    Route,
    Split,
    Stack,
    check_name,
)
from compose.errors import ExpressionError
from tests.dsl.strategies import nestings


def fault(build):
    """The text of the error that `build` raises."""
    with pytest.raises(ExpressionError) as caught:
        build()
    return str(caught.value)


def test_blocks_are_frozen_and_hashable():
    block = Stack("a", "b")
    with pytest.raises(dataclasses.FrozenInstanceError):
        block.children = ()
    assert {block: 1}[Stack("a", "b")] == 1


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (Stack("a"), Stack("a", "b")),
        (Stack("a", "b"), Stack("b", "a")),
        (Stack("a"), Stack(None)),
        (Stack("a"), Parallel("a")),
        (Average("a", "b", weights=[0.9, 0.1]), Average("a", "b", weights=[0.1, 0.9])),
        (Average("a", weights=[2]), Average("a", weights=[2], normalize=False)),
        (Average("a"), Average("a", weights=[1])),
        (Fuse("a"), Fuse("a", name="f")),
        (Split("a", "b", sizes=[1, 2]), Split("a", "b", sizes=[2, 1])),
        (Split("a", "b", sizes=[1, None]), Split("a", "b", sizes=[None, 1])),
        (BatchSplit("a", "b", sizes=[1, 2]), BatchSplit("a", "b", sizes=[2, 1])),
        (Split("a", sizes=[1]), BatchSplit("a", sizes=[1])),
        (Drop("a", first=1), Drop("a", last=1)),
        (Drop("a", first=1), Drop("a", layers=[1])),
        (Drop("a", first=1), Drop("a", first=(1, 1))),
        (Drop("a", layers=[0, 1]), Drop("a", layers=[0])),
        (Parallel("a", t="b"), Parallel("a", "b")),
        (Parallel(t="b"), Parallel(u="b")),
        (Route(t="b"), Route(u="b")),
        (Route(t="a", u="b"), Route(u="b", t="a")),
    ],
)
def test_every_parameter_takes_part_in_equality(left, right):
    assert left != right
    assert repr(left) != repr(right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (Drop("a", layers=[3, 1, 1]), Drop("a", layers=(1, 3))),
        (Drop("a", layers=range(2)), Drop("a", layers={1, 0})),
        (Drop("a", first=[0, 10]), Drop("a", first=(0, 10))),
        (Average("a", "b", weights=[1, 2]), Average("a", "b", weights=(1.0, 2.0))),
        (
            Average("a", "b", weights=[-0.0, 2], normalize=False),
            Average("a", "b", weights=[0, 2], normalize=False),
        ),
        (Split("a", "b", sizes=[1, None]), Split("a", "b", sizes=iter((1, None)))),
        (Parallel({"t": "a"}), Parallel(t="a")),
        (Parallel("x", {"t": "a"}, u="b"), Parallel("x", t="a", u="b")),
        (Route({"t": "a"}, u="b"), Route(t="a", u="b")),
    ],
)
def test_equal_spellings_are_equal(left, right):
    assert left == right
    assert hash(left) == hash(right)
    assert repr(left) == repr(right)


def test_attributes():
    assert Parallel("a", t=None).children == ("a", None)
    assert Parallel("a", t=None).tasks == (None, "t")
    assert Drop("a", layers=[2, 0]).layers == (0, 2)
    assert Drop("a", first=(0, 3)).first == (0, 3)
    assert Average("a", "b", weights=[2, 2], normalize=False).weights == (2.0, 2.0)
    assert Split("a", "b", sizes=[2, None]).sizes == (2, None)
    assert Fuse("a", "b").name is None
    assert Parallel(self="a", name="b").tasks == ("self", "name")


def test_factors():
    assert Average("a", "b").factors == (0.5, 0.5)
    assert Average("a", "b", weights=[1, 3]).factors == (0.25, 0.75)
    assert Average("a", "b", weights=[1, 3], normalize=False).factors == (1.0, 3.0)
    assert Average("a", "b", weights=[1e300, 1e300]).factors == (0.5, 0.5)


def test_strings_of_other_classes_become_plain():
    name = enum.StrEnum("Names", {"A": "a"}).A
    assert type(Stack(name).children[0]) is str
    assert type(Parallel({name: "x"}).tasks[0]) is str


@pytest.mark.parametrize("kind", BLOCKS.values(), ids=BLOCKS)
def test_an_empty_block_is_refused(kind):
    options = {Drop: {"first": 1}, Split: {"sizes": []}, BatchSplit: {"sizes": []}}.get(kind, {})
    assert "empty" in fault(lambda: kind(**options))


@pytest.mark.parametrize("child", [3, 1.5, ["a", "b"], ("a",), {"a"}, {"t": "a"}, b"a", Stack, object(), True])
@pytest.mark.parametrize("kind", [Stack, Fuse, Average, Parallel])
def test_a_child_that_is_no_expression_is_refused(kind, child):
    message = fault(lambda: kind("a", child, "b"))
    assert "child 2" in message
    assert "an adapter's name, None or a block" in message


def test_a_list_of_children_says_what_works():
    assert 'Fuse("a", "b")' in fault(lambda: Fuse(["a", "b"]))
    assert 'Stack("a")' in fault(lambda: Stack(Stack))
    assert "parse()" in fault(lambda: Stack("Fuse('a', 'b')"))


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "a,b", "ä", "a/b", "../x", "..", ".", "a\n", "a\0", "x" * 65, "x" * 10_000, 'a"']
)
def test_adapter_names_that_are_not_legal(name):
    assert "adapter name" in fault(lambda: Stack(name))
    assert len(fault(lambda: Stack(name))) < 300


@pytest.mark.parametrize("name", ["my.sst", "sst-2", "lora", "weight", "_", "2", "none", "x" * 64, "class"])
def test_names_that_are_legal(name):
    assert Stack(name).children == (name,)


@pytest.mark.parametrize("name", ["loss", "labels", "route", "tasks", "loss_weights", "None"])
def test_reserved_names(name):
    assert "reserved" in fault(lambda: Stack(name))
    assert "reserved" in fault(lambda: Parallel({name: "a"}))
    assert "reserved" in fault(lambda: Route({name: "a"}))
    assert "reserved" in fault(lambda: Fuse("a", name=name))
    assert "reserved" in fault(lambda: Fuse("a", name=f"a,{name}"))


def test_joined_names():
    assert check_name("a,b", "head") == "a,b"
    assert Fuse("c", name="a,b").name == "a,b"
    assert Parallel({"a,b": Fuse("a", "b")}).tasks == ("a,b",)
    for wrong in ("a,", ",", "a,,b", "a, b"):
        assert "not a legal" in fault(lambda wrong=wrong: Fuse("c", name=wrong))
    with pytest.raises(ExpressionError):
        check_name("a,b", "adapter")
    with pytest.raises(ExpressionError):
        check_name(3, "head")


def test_tasks():
    assert "two children are called 't'" in fault(lambda: Parallel({"t": "a"}, t="b"))
    assert "task name" in fault(lambda: Parallel({"a b": "a"}))
    assert "task name must be a string" in fault(lambda: Parallel({1: "a"}))
    assert "task name must be a string" in fault(lambda: Parallel("x", {None: "a"}))
    assert "without a task" in fault(lambda: Route("a", "b"))
    assert "without a task" in fault(lambda: Route("a", {"t": "b"}))
    assert "comes last" in fault(lambda: Parallel({"t": "a"}, "b"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing says what to drop"),
        ({"first": 1, "last": 1}, "first and last at once"),
        ({"first": 1, "layers": [1], "last": 1}, "first and layers and last at once"),
        ({"first": -1}, "first cannot be -1"),
        ({"first": True}, "first cannot be True"),
        ({"first": 1.0}, "first cannot be 1.0"),
        ({"first": "3"}, "first cannot be '3'"),
        ({"first": (3, 1)}, "empty"),
        ({"first": (1, 2, 3)}, "first cannot be"),
        ({"first": (-1, 2)}, "first cannot be"),
        ({"first": (False, 2)}, "first cannot be"),
        ({"last": -1}, "last cannot be"),
        ({"last": (0, 1)}, "last cannot be"),
        ({"layers": 3}, "layers must be a list"),
        ({"layers": "01"}, "layers must be a list"),
        ({"layers": [0, -1]}, "-1 is not a layer"),
        ({"layers": [True]}, "True is not a layer"),
        ({"layers": [0.5]}, "0.5 is not a layer"),
        ({"layers": itertools.count()}, "layers"),
        ({"first": 10**5000}, "first cannot be"),
    ],
)
def test_drops_that_are_refused(options, message):
    try:
        assert message in fault(lambda: Drop("a", **options))
    except ValueError as error:  # the repr of an integer has a limit of its own
        pytest.fail(str(error))


def test_drop_has_one_child():
    assert "has one" in fault(lambda: Drop("a", "b", first=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": [1]}, "1 weights for 2 children"),
        ({"weights": [1, 2, 3]}, "3 weights for 2 children"),
        ({"weights": [1, float("nan")]}, "not a weight"),
        ({"weights": [1, float("inf")]}, "not a weight"),
        ({"weights": [1, 10**400]}, "not a weight"),
        ({"weights": [1, True]}, "True is not a weight"),
        ({"weights": [1, "2"]}, "'2' is not a weight"),
        ({"weights": [1, -1]}, "no usable sum"),
        ({"weights": [0, 0]}, "no usable sum"),
        ({"weights": 1.0}, "weights must be a list"),
        ({"weights": {1.0, 2.0}}, "weights must be a list"),
        ({"normalize": 0}, "normalize must be True or False"),
    ],
)
def test_averages_that_are_refused(options, message):
    assert message in fault(lambda: Average("a", "b", **options))


def test_weights_without_a_sum_are_legal_when_not_normalised():
    assert Average("a", "b", weights=[1, -1], normalize=False).factors == (1.0, -1.0)


@pytest.mark.parametrize("kind", [Split, BatchSplit])
@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (None, "sizes are missing"),
        ([1], "1 sizes for 2 children"),
        ([1, -1], "-1 is not a size"),
        ([1, True], "True is not a size"),
        ([1, 2.0], "2.0 is not a size"),
        ([None, None], "more than one size is None"),
        (3, "sizes must be a list"),
        ({1, 2}, "sizes must be a list"),
        ("12", "sizes must be a list"),
        (itertools.repeat(1), "sizes for 2 children"),
    ],
)
def test_sizes_that_are_refused(kind, sizes, message):
    assert message in fault(lambda: kind("a", "b", sizes=sizes))


def test_all_faults_at_once():
    with pytest.raises(ExpressionError) as caught:
        Split("a b", 3, sizes=[-1])
    assert len(caught.value.problems) == 4


def test_the_depth_limit():
    block = "a"
    for _ in range(MAX_DEPTH):
        block = Stack(block)
    assert block.depth == MAX_DEPTH
    assert f"at most {MAX_DEPTH}" in fault(lambda: Stack(block))


def test_the_size_limit_counts_shared_parts_each_time():
    assert Stack(*["a"] * (MAX_NODES - 1)).size == MAX_NODES
    assert f"at most {MAX_NODES}" in fault(lambda: Stack(*["a"] * MAX_NODES))

    def doubling():
        block = "a"
        for _ in range(40):
            block = Stack(block, block)

    assert f"at most {MAX_NODES}" in fault(doubling)
    assert f"longer than {MAX_TEXT}" in fault(lambda: Stack(*["x" * 64] * 2000))


@given(nestings())
def test_copies_are_equal(expression):
    assert pickle.loads(pickle.dumps(expression)) == expression
    assert copy.deepcopy(expression) == expression


def test_a_pickle_keeps_its_hash_in_another_process():
    data = pickle.dumps(Parallel("a", t=Fuse("a", "b"))).hex()
    code = (
        "import pickle; from compose.dsl import Parallel, Fuse\n"
        f"assert pickle.loads(bytes.fromhex({data!r})) in {{Parallel('a', t=Fuse('a', 'b'))}}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_blocks_match_by_position():
    match Fuse("a", name="f"):
        case Fuse(children, name):
            assert (children, name) == (("a",), "f")


def test_the_language_knows_no_torch():
    code = "import sys, compose.dsl; assert not {'torch', 'networkx'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
