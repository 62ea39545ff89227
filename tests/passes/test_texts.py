"""Every pass, before and after, as text: `pytest tests/passes --regenerate` writes the files anew."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from compose.dsl import Expression, parse
from compose.graph.build import build
from compose.graph.graph import Graph
from compose.graph.text import graph_text
from compose.graph.verify import verify
from compose.passes import NAMES, PASSES, PassContext
from tests.graph.vocabularies import Kind, vocabulary

GOLDEN = Path(__file__).parent / "golden"


class Case(NamedTuple):
    """One pass on one expression; the passes before it have run."""

    of: str
    name: str
    text: str
    kind: Kind = "post"
    layers: int = 2
    tasks: frozenset[int] | None = None
    training: bool = False

    @property
    def file(self) -> Path:
        return GOLDEN / f"{self.of}-{self.name}.txt"


CASES = (
    Case("drop", "first", "Stack('a', Drop('b', first=1))"),
    Case("drop", "inside", "Average(Stack('a', Drop('b', layers=[0])), 'b')", layers=1),
    Case("prune", "task", "Parallel('a', 'b')", layers=1, tasks=frozenset({1})),
    Case("prune", "rows", "BatchSplit('a', 'b', sizes=[1, None])", layers=1, tasks=frozenset({0})),
    Case("share", "branches", "Parallel(t1='a', t2='a')", layers=1),
    Case("share", "candidates", "Fuse(Stack('a', 'b'), Stack('a', 'p'), name='f')", layers=1),
    Case("fork", "post", "Parallel('a', x=Drop('b', first=1))"),
    Case("fork", "post-attention", "Parallel('d', 'a')", layers=1),
    Case("fork", "pre", "Parallel('a', 'b')", kind="pre"),
    Case("fork", "pre-attention", "Parallel('d', x=Stack('d', 'a'))", kind="pre", layers=1),
    Case("fork", "layer", "Parallel('s', 'a', x=Stack('a', 's'))", kind="pre"),
    Case("fork", "linear", "Parallel('q', 'a')", kind="pre", layers=1),
    Case("drop", "norm", "Stack('q', Drop('n', layers=[0]))", kind="pre", layers=1),
    Case("fork", "norm", "Parallel('n', 'a')", layers=1),
    Case("fork", "norm-pre", "Parallel(Stack('n', 'q'), 'q')", kind="pre", layers=1),
    Case("fork", "encoder", "Parallel('a', x=Drop('a', first=1))", kind="both", layers=1),
    Case("fold", "inference", "Fuse('a', None, 'b', name='f')", layers=1),
    Case("fold", "training", "Fuse('a', 'b', name='f')", layers=1, training=True),
    Case("fold", "nested", "Fuse('a', Average('a', 'b'), Fuse('b', 'a', name='g'), name='f')", layers=1),
    Case("group", "siblings", "Parallel('a', 'b', 'p')", layers=1),
    Case("group", "candidates", "Fuse('a', Stack('a', 'b'), 'b', 'p', name='f')", layers=1),
    Case("group", "stacked", "Parallel(x=Stack('a', 'b'), y=Stack('b', 'a'))", layers=1),
)


def before_and_after(case: Case) -> tuple[Graph, Graph]:
    expression: Expression = parse(case.text)
    context = PassContext(vocabulary(case.kind, case.layers, expression), case.tasks, case.training)
    graph, done = build(expression, context.vocabulary), []
    for name, function in zip(NAMES, PASSES, strict=True):
        after = function(graph, context)
        done.append(name)
        verify(after, context.vocabulary, done)
        if name == case.of:
            return graph, after
        graph = after
    raise AssertionError(f"there is no pass '{case.of}'")


def written(case: Case) -> str:
    before, after = before_and_after(case)
    return f"{case.text} over '{case.kind}'\n\nbefore:\n{graph_text(before)}\nafter:\n{graph_text(after)}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.file.stem)
def test_text(case: Case, request: pytest.FixtureRequest) -> None:
    text = written(case)
    if request.config.getoption("--regenerate", False):
        case.file.write_text(text, "utf-8")
    assert text == case.file.read_text("utf-8"), "pytest tests/passes --regenerate, and look at the difference"


def test_every_pass_has_cases_and_no_file_is_left_over() -> None:
    assert {case.of for case in CASES} == set(NAMES)
    assert {case.file for case in CASES} == set(GOLDEN.glob("*.txt"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.file.stem)
def test_a_pass_changes_something(case: Case) -> None:
    before, after = before_and_after(case)
    assert graph_text(before) != graph_text(after)
