"""The parser: what it reads, what it refuses, and that the place is marked."""

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compose.dsl import (
    BLOCKS,
    MAX_DEPTH,
    Average,
    Drop,
    Expression,
    Fuse,
    Parallel,
    Route,
    Split,
    Stack,
    as_expression,
    parse,
    to_text,
)
from compose.errors import ExpressionError
from tests.counting import calls
from tests.dsl.strategies import expressions, nestings


def problems(text):
    """The problems of a text, each with the part that it marks."""
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    str(caught.value)
    return [
        (problem, problem.text[slice(*problem.span)] if problem.span else None) for problem in caught.value.problems
    ]


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ('"nli"', "nli"),
        ("'sst-2'", "sst-2"),
        ("None", None),
        ("  None \n", None),
        ("Stack('a', \"b\")", Stack("a", "b")),
        ("Stack('a', None)", Stack("a", None)),
        ("(Stack(('a')))", Stack("a")),
        ("  Stack(\n  'a',  # first\n  'b',\n)\n", Stack("a", "b")),
        ("Stack('a',\r\n'b')", Stack("a", "b")),
        (
            "Parallel(nli=Fuse('mnli', 'qnli'), tone=Drop('sst2', first=5))",
            Parallel(nli=Fuse("mnli", "qnli"), tone=Drop("sst2", first=5)),
        ),
        ("Parallel({'sst-2': 'a'})", Parallel({"sst-2": "a"})),
        ("Parallel('x', {'sst-2': 'a'}, t='b')", Parallel("x", {"sst-2": "a"}, t="b")),
        ("Route({'sst-2': 'a'})", Route({"sst-2": "a"})),
        ("Fuse('a', 'b', name='both')", Fuse("a", "b", name="both")),
        ("Fuse('a', name=None)", Fuse("a")),
        ("Drop('a', first=(0, 10))", Drop("a", first=(0, 10))),
        ("Drop('a', layers=(2, 0))", Drop("a", layers=[0, 2])),
        (
            "Average('a', 'b', weights=[.7, -1e-1], normalize=False)",
            Average("a", "b", weights=[0.7, -0.1], normalize=False),
        ),
        ("Split('a', 'b', sizes=[None, 0x10])", Split("a", "b", sizes=[None, 16])),
    ],
)
def test_texts(text, expression):
    assert parse(text) == expression


def test_built_expressions_are_returned():
    assert parse(None) is None
    block = Stack("a")
    assert parse(block) is block


@given(nestings())
def test_the_text_form_reads_back(expression: Expression):
    assert parse(to_text(expression)) == expression


@given(expressions(["a", "b-1", "c.2"], max_leaves=12))
def test_meaningful_expressions_read_back(expression: Expression):
    assert parse(to_text(expression)) == expression


@pytest.mark.parametrize(
    ("text", "marked", "said"),
    [
        ("nli", "nli", 'write "nli"'),
        (" sst-2 ", "sst-2", 'write "sst-2"'),
        ("2x", "2x", 'write "2x"'),
        ("Stack", "Stack", 'write Stack("a")'),
        ("Stack(a)", "a", 'write "a"'),
        ("Stack('x', sst-2)", "sst-2", 'write "sst-2"'),
        ("Stack(my.sst)", "my.sst", 'write "my.sst"'),
        ("Stack(Fuse)", "Fuse", "a block has children"),
        ("Stak('a')", "Stak", "'Stack'"),
        ("Fuse('a', nme='b')", "nme", "legal: 'name'"),
        ("Stack('a', name='b')", "name", "children only"),
        ("Drop('a', frist=1)", "frist", "legal: 'first'"),
        ("Drop('a', first=1, first=2)", "first", "twice"),
        ("Parallel(t='a', t='b')", "t", "two children are called 't'"),
        ("Parallel({'t': 'a', 't': 'b'})", "'t'", "two children are called 't'"),
        ("Parallel({'t': 'a'}, t='b')", "t", "two children are called 't'"),
        ("Parallel(loss='a')", "loss", "reserved"),
        ("Parallel({'lo ss': 'a'})", "'lo ss'", "not a legal task name"),
        ("Parallel({t: 'a'})", "t", "a task is a name in quotes"),
        ("Parallel({**x})", "x", "a task is a name in quotes"),
        ("Parallel({}, t='a')", "{}", "the mapping is empty"),
        ("Parallel({})", "{}", "the mapping is empty"),
        ("Parallel({'t': 'a'}, 'b')", "{'t': 'a'}", "is not legal here"),
        ("Stack({'t': 'a'})", "{'t': 'a'}", "takes no mapping"),
        ("Parallel(**{'t': 'a'})", "**{'t': 'a'}", "the mapping itself"),
        ("Route('a')", "'a'", "without a task"),
        ("Stack('a b')", "'a b'", "not a legal adapter name"),
        ("Stack('')", "''", "not a legal adapter name"),
        ("Stack('a' 'b')", "'a' 'b'", "a comma between two names"),
        ("Stack(u'a')", "u'a'", "one pair of quotes"),
        ("Stack('''a''')", "'''a'''", "one pair of quotes"),
        ("Stack(f'{a}')", "f'{a}'", "an f-string"),
        ("Stack(b'a')", "b'a'", "is not legal"),
        ("Stack(*'ab')", "*'ab'", "a starred argument"),
        ("Stack('a' + 'b')", "'a' + 'b'", "an operator"),
        ("Stack(['a', 'b'])", "['a', 'b']", "is not legal"),
        ("Stack(1)", "1", "is not legal"),
        ("Stack(...)", "...", "is not legal"),
        ("Stack(True)", "True", "is not legal"),
        ("Stack(x := 'a')", "x := 'a'", "an assignment"),
        ("Stack('a' if b else 'c')", "'a' if b else 'c'", "a condition"),
        ("Stack(lambda: 'a')", "lambda: 'a'", "a function"),
        ("Stack([x for x in y])", "[x for x in y]", "a comprehension"),
        ("Stack(a[0])", "a[0]", "an index"),
        ("Stack('a')('b')", "Stack('a')('b')", "only blocks are called"),
        ("__import__('os').system('x')", "__import__('os').system('x')", "only blocks are called"),
        ("Stack(eval('a'))", "eval", "no block is called 'eval'"),
        ("Stack()", "Stack()", "empty"),
        ("Stack('a', Fuse())", "Fuse()", "empty"),
        ("Drop('a')", "Drop('a')", "nothing says what to drop"),
        ("Drop('a', first=1, last=2)", "2", "first and last at once"),
        ("Drop('a', first=-1)", "-1", "first cannot be -1"),
        ("Drop('a', first=1+1)", "1+1", "an operator"),
        ("Drop('a', first=-True)", "-True", "an operator"),
        ("Drop('a', first=2j)", "2j", "an option is a number"),
        ("Drop('a', layers=[0, x])", "x", "an option is a number"),
        ("Drop('a', layers={0})", "{0}", "a set"),
        ("Drop('a', first=" + "9" * 5000 + ")", None, ""),
        ("Average('a', weights=[1e999])", "[1e999]", "inf is not a weight"),
        ("Average('a', 'b', weights=[1])", "[1]", "1 weights for 2 children"),
        ("Split('a', 'b', sizes=[1, -2])", "[1, -2]", "-2 is not a size"),
        ("Split('a', 'b')", "Split('a', 'b')", "sizes are missing"),
        ("Fuse('a', name='b c')", "'b c'", "not a legal fusion name"),
        ("Fuse('a', name=3)", "3", "must be a string"),
        ("Stack('\\x61')", "\\", "backslash"),
        ("Stack('a'", "(", "never closed"),
        ("Stack('a'))", ")", "unmatched"),
        ("Stack('a", "'", "unterminated"),
        ("import os", "i", "grammar"),
        ("Stack('a'); Stack('b')", ";", "grammar"),
        ("Stack('a')\nStack('b')", "S", "grammar"),
        ("", None, "empty"),
        (" \n ", None, "empty"),
        ("Stack('a')\0", None, ""),
        ("Stack('\ud800')", None, ""),
        ("\ufeffStack('a')", None, ""),
        ("Stack('é', x)", "'é'", "not a legal adapter name"),
    ],
)
def test_what_is_refused_is_marked(text, marked, said):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = problems(text)
    if marked is not None:
        assert found[0][1] == marked
    assert said in "\n".join(problem.render() for problem, _ in found)


def test_places_are_characters_not_bytes():
    found = problems("Stack('é', 'ü',\n  '日本' , nli)")
    assert [part for _, part in found] == ["'é'", "'ü'", "'日本'", "nli"]


def test_all_problems_at_once():
    text = "Parallel(Stak('a b'), Fuse(), t=Drop(x, first=-1), u=Fus(1), v=Split('a', sizes=[1, 2]))"
    found = problems(text)
    assert [part for _, part in found] == ["Stak", "'a b'", "Fuse()", "x", "-1", "Fus", "1", "[1, 2]"]


def test_a_mark_shows_under_the_text():
    with pytest.raises(ExpressionError) as caught:
        parse("Stack('en', Fus('a'))")
    lines = str(caught.value).splitlines()
    assert lines[1].index("Fus") == lines[2].index("^^^")


def test_an_unknown_block_names_the_legal_ones_nearest_first():
    [(problem, _)] = problems("Averge('a')")
    assert problem.got == "Averge"
    assert set(problem.legal) == set(BLOCKS)
    assert problem.render().index("'Average'") < problem.render().index("'Stack'")


@pytest.mark.parametrize(
    "text",
    [
        "Stack(" * 10_000,
        "Stack(" * 10_000 + "'a'" + ")" * 10_000,
        "Stack(" * (MAX_DEPTH + 1) + "'a'" + ")" * (MAX_DEPTH + 1),
        "(" * 150 + "'a'" + ")" * 150,
        "(" * 60_000,
        "[" * 60_000,
        "{" * 60_000,
        "-" * 60_000 + "1",
        "not " * 16_000 + "1",
        "~" * 60_000,
        "lambda: " * 8_000 + "1",
        "a" + ".b" * 30_000,
        "a" + "[0]" * 20_000,
        "a" + "()" * 30_000,
        "1" + "+1" * 30_000,
        "1" + "**1" * 20_000,
        "'a'" * 20_000,
        "a if b else " * 5_000 + "c",
        "x:=" * 20_000,
        "Stack(" + "'a'," * 16_000 + ")",
        "await " * 10_000,
        "f'" + "{" * 10_000,
        "\n" * 60_000 + "x y",
        "#" * 60_000,
        "x" * 65_537,
        "9" * 60_000,
    ],
    ids=lambda text: f"{text[:12]!r}*{len(text)}",
)
def test_large_and_deep_texts_get_an_error_soon(text):
    """The work grows with the text and no faster."""

    def refused():
        with pytest.raises(ExpressionError) as caught:
            parse(text)
        assert len(str(caught.value)) < 5000

    assert calls(refused) < 20 * len(text)


def test_nesting_up_to_the_limit_is_read():
    block = "a"
    for _ in range(MAX_DEPTH):
        block = Parallel({"sst-2": block})
    assert parse(repr(block)) == block
    assert "nested too deep" in problems("Stack(" * 200 + "'a'" + ")" * 200)[0][0].what
    [(problem, part)] = problems("Stack(" * 65 + "'a'" + ")" * 65)
    assert part is not None and "nested" in problem.what


@pytest.mark.parametrize(
    ("value", "expression"),
    [
        ("nli", "nli"),
        ("sst-2", "sst-2"),
        ("None", None),
        (None, None),
        ("'a'", "a"),
        ("Stack('a')", Stack("a")),
    ],
)
def test_a_bare_name_is_an_adapter_where_users_give_one(value, expression):
    assert as_expression(value) == expression


def test_values_that_are_no_text():
    for value in (3, ["a"], b"a", Stack):
        with pytest.raises(ExpressionError):
            parse(value)


PUNCTUATION = (*"()()[]{},,=:-.*#'", '"', "\\", "\n", " ", "\r", "\f", "\0")
WORDS = ("'a'", '"b"', "None", "first", "sizes", "name", "1", "é", "é'", "f'", "lambda")
PIECES = st.sampled_from([*BLOCKS, *PUNCTUATION, *WORDS])


@given(st.lists(PIECES, max_size=30).map("".join) | st.text(max_size=40))
def test_any_text_is_read_or_refused(text):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expression = parse(text)
        except ExpressionError as error:
            assert str(error)
        else:
            assert parse(to_text(expression)) == expression


@given(nestings(), st.data())
def test_damaged_texts_are_read_or_refused(expression, data):
    text = to_text(expression)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 5)))
    damaged = text[:start] + data.draw(PIECES) + text[end:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            parse(damaged)
        except ExpressionError as error:
            for problem in error.problems:
                assert problem.span is None or 0 <= problem.span[0] <= problem.span[1] <= len(damaged) + 1
