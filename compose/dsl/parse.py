"""Reading the text form: a whitelist over Python's `ast`, nothing is ever evaluated."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from compose.dsl.block import Block, Expression, build
from compose.dsl.blocks import BLOCKS
from compose.dsl.names import name_problem, shorten
from compose.dsl.options import BlockError, Place
from compose.dsl.source import Positions, Span, check_bounds, tree_of
from compose.errors import ExpressionError, Problem
from compose.specs import NAME

CONSTRUCTS: Mapping[type[ast.AST], str] = {
    ast.Attribute: "an attribute",
    ast.BinOp: "an operator",
    ast.BoolOp: "an operator",
    ast.Compare: "a comparison",
    ast.UnaryOp: "an operator",
    ast.JoinedStr: "an f-string",
    ast.Starred: "a starred argument",
    ast.Lambda: "a function",
    ast.IfExp: "a condition",
    ast.NamedExpr: "an assignment",
    ast.Subscript: "an index",
    ast.Set: "a set",
    ast.ListComp: "a comprehension",
    ast.SetComp: "a comprehension",
    ast.DictComp: "a comprehension",
    ast.GeneratorExp: "a comprehension",
}
OPTION = "an option is a number, a name in quotes, True, False, None, or a list of these"
CHILD = "a child is an adapter's name in quotes, None or a block"


class Refused:
    """Stands for a part of the text that was refused, with its problem noted."""


REFUSED = Refused()
Read: TypeAlias = str | Block | Refused | None


def parse(text: Expression) -> Expression:
    """The expression that a text stands for.

    Args:
        text: the text form, such as `Stack("en", Drop("ner", first=5))`; names in single or double
            quotes. A block or None is returned as it is.

    Returns:
        The expression.

    Raises:
        ExpressionError: the text is not an expression; every problem that can be found is in it, marked
            under the text.

    >>> parse("Parallel('nli', tone=Fuse('a', 'b'))")
    Parallel("nli", tone=Fuse("a", "b"))
    >>> parse("Stack('en', Fus('a'))")
    Traceback (most recent call last):
    ...
    compose.errors.ExpressionError: no block is called 'Fus'
      | Stack('en', Fus('a'))
      |             ^^^
      legal: 'Fuse', 'Stack', 'Split', 'Route', 'BatchSplit', 'Parallel', 'Drop', 'Average'
    """
    if text is None or isinstance(text, Block):
        return text
    if not isinstance(text, str):
        raise ExpressionError(f"{shorten(text)} is no expression", why="it is a text, a block or None")
    check_bounds(text)
    tree, positions = tree_of(text)
    reader = Reader(text, positions)
    expression = reader.child(tree)
    if reader.problems or isinstance(expression, Refused):
        raise ExpressionError(reader.problems)
    return expression


def as_expression(value: Expression) -> Expression:
    """What a user means by a value: an adapter's bare name as well as all that `parse` reads.

    Args:
        value: a block, None, the name of one adapter, or a text form.

    Returns:
        The expression.

    Raises:
        ExpressionError: the value is none of these.

    >>> as_expression("sst-2"), as_expression("Stack('a', 'b')")
    ('sst-2', Stack("a", "b"))
    """
    bare = isinstance(value, str) and value != "None" and NAME.fullmatch(value)
    return value if bare and name_problem(value, "adapter") is None else parse(value)


class Reader:
    """Turns a syntax tree into an expression and collects what is wrong."""

    def __init__(self, text: str, positions: Positions) -> None:
        self.text = text
        self.positions = positions
        self.problems: list[Problem] = []

    def refuse(self, span: Span, what: str, why: str = "", hint: str = "") -> Refused:
        """Note a problem at a place."""
        self.problems.append(Problem(what, why=why, hint=hint, text=self.text, span=span))
        return REFUSED

    def unknown(self, span: Span, what: str, got: str, legal: tuple[str, ...]) -> Refused:
        """Note a name that is not among the legal ones."""
        self.problems.append(Problem(what, text=self.text, span=span, got=got[:64], legal=legal))
        return REFUSED

    def child(self, node: ast.expr) -> Read:
        """A node that has to be an expression."""
        span = self.positions.span(node)
        match node:
            case ast.Constant(value=None):
                return None
            case ast.Constant(value=str() as name):
                read = self.name(name, span, "adapter")
                return read if isinstance(read, str) else REFUSED
            case ast.Call():
                return self.block(node)
        return self.refuse_node(node, CHILD)

    def name(self, name: str, span: Span, what: str) -> str | Refused:
        """A legal name in one pair of quotes, and no other way to write it."""
        written = self.text[slice(*span)]
        if written not in (f'"{name}"', f"'{name}'"):
            hint = "a comma between two names" if written[:1] in "\"'" else ""
            return self.refuse(span, "a name is written in one pair of quotes", hint=hint)
        problem = name_problem(name, what)
        if problem is not None:
            return self.refuse(span, problem.what, problem.why, problem.hint)
        return name

    def refuse_node(self, node: ast.expr, why: str) -> Refused:
        """Refuse a construct that is not in the language."""
        span = self.positions.span(node)
        written = self.text[slice(*span)]
        if isinstance(node, ast.Name) and node.id in BLOCKS:
            hint = f'{written}("a"): a block has children'
        elif NAME.fullmatch(written) and not isinstance(node, ast.Constant):
            hint = f'write "{written}"'
        else:
            hint = ""
        what = CONSTRUCTS.get(type(node))
        return self.refuse(span, f"{what or shorten(written)} is not legal here", why, hint)

    def block(self, node: ast.Call) -> Read:
        """A call as a block; its arguments are read even if it is none, to find their problems too."""
        span = self.positions.span(node)
        kind: type[Block] | None = None
        if not isinstance(node.func, ast.Name):
            return self.refuse(span, "only blocks are called", CHILD)
        if node.func.id in BLOCKS:
            kind = BLOCKS[node.func.id]
        else:
            what = f"no block is called {shorten(node.func.id)}"
            self.unknown(self.positions.span(node.func), what, node.func.id, tuple(BLOCKS))
        arguments = Arguments(kind, span)
        for index, argument in enumerate(node.args):
            if isinstance(argument, ast.Dict) and index == len(node.args) - 1:
                self.mapping(argument, arguments)
            else:
                arguments.add(None, self.child(argument), self.positions.span(argument))
        for keyword in node.keywords:
            self.keyword(keyword, arguments)
        return self.built(arguments)

    def mapping(self, node: ast.Dict, arguments: Arguments) -> None:
        """Children by task: `{"sst-2": "a"}`."""
        if arguments.kind and not arguments.kind.takes_tasks:
            self.refuse(self.positions.span(node), f"{arguments.kind.__name__} takes no mapping", CHILD)
        if not node.keys:
            arguments.complete = arguments.complete and bool(arguments.children)
            self.refuse(self.positions.span(node), "the mapping is empty", why="it has a task per child")
        for key, value in zip(node.keys, node.values, strict=True):
            read = self.child(value)
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                span = self.positions.span(key)
                task = self.name(key.value, span, "task")
                self.task(arguments, task, read, self.positions.span(value), span)
            else:
                where = self.positions.span(key or value)
                self.refuse(where, "a task is a name in quotes", hint='{"sst-2": "a"}')
                arguments.complete = False

    def keyword(self, node: ast.keyword, arguments: Arguments) -> None:
        """A keyword argument: an option of the block, or a child by its task."""
        kind = arguments.kind
        span = self.positions.span(node)
        if node.arg is None:
            self.refuse(span, "** is not legal here", hint='the mapping itself: Parallel({"sst-2": "a"})')
            arguments.complete = False
            return
        key = (span[0], span[0] + len(node.arg))
        if kind is None:
            if isinstance(node.value, ast.Call):
                self.child(node.value)
        elif kind.takes_tasks:
            problem = name_problem(node.arg, "task")
            task = self.refuse(key, problem.what, problem.why) if problem else node.arg
            self.task(arguments, task, self.child(node.value), self.positions.span(node.value), key)
        elif node.arg not in kind.option_names:
            what = f"{kind.__name__} takes no keyword {shorten(node.arg)}"
            if kind.option_names:
                self.unknown(key, what, node.arg, kind.option_names)
            else:
                self.refuse(key, what, why="it takes children only")
            arguments.complete = False
        elif node.arg in arguments.options:
            self.refuse(key, f"{node.arg} is given twice")
        else:
            value = self.option(node.value)
            arguments.complete = arguments.complete and not isinstance(value, Refused)
            arguments.options[node.arg] = value
            arguments.spans[node.arg] = self.positions.span(node.value)

    def task(self, arguments: Arguments, task: str | Refused, child: Read, span: Span, key: Span) -> None:
        """Note a child by its task, once."""
        if isinstance(task, str) and task in arguments.tasks:
            self.refuse(key, f"two children are called {shorten(task)}", why="a task has one child")
            task = REFUSED
        if isinstance(task, Refused):
            arguments.complete = False
            return
        arguments.tasks.add(task)
        arguments.spans[task] = key
        arguments.add(task, child, span)

    def option(self, node: ast.expr) -> object:
        """The value of an option: a literal."""
        match node:
            case ast.Constant(value=str() as name):
                return self.name(name, self.positions.span(node), "fusion")
            case ast.Constant(value=None | bool() | int() | float() as value):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)) if not (
                isinstance(value, bool)
            ):
                return -value
            case ast.List(elts=nodes) | ast.Tuple(elts=nodes):
                values = [self.option(item) for item in nodes]
                if any(isinstance(value, Refused) for value in values):
                    return REFUSED
                return values if isinstance(node, ast.List) else tuple(values)
        return self.refuse_node(node, OPTION)

    def built(self, arguments: Arguments) -> Read:
        """The block from what was read of it; what the block itself refuses is marked in the text."""
        if arguments.kind is None or not arguments.complete:
            return REFUSED
        refused = any(isinstance(child, Refused) for child in arguments.children)
        children = [None if isinstance(child, Refused) else child for child in arguments.children]
        try:
            block = build(arguments.kind, children, arguments.labels, arguments.options)
        except BlockError as error:
            for problem, place in zip(error.problems, error.places, strict=True):
                span = arguments.spans.get(place, arguments.spans[None])
                self.refuse(span, problem.what, problem.why, problem.hint)
            return REFUSED
        return REFUSED if refused else block


@dataclass
class Arguments:
    """The arguments of one call as they are read.

    Args:
        kind: the block, None if there is none of that name.
        span: of the whole call.
    """

    kind: type[Block] | None
    span: Span
    children: list[Read] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    tasks: set[str] = field(default_factory=set)
    options: dict[str, object] = field(default_factory=dict)
    spans: dict[Place, Span] = field(default_factory=dict)
    complete: bool = True

    def __post_init__(self) -> None:
        self.spans[None] = self.span

    def add(self, label: str | None, child: Read, span: Span) -> None:
        """Note a child."""
        self.spans[len(self.children)] = span
        self.children.append(child)
        self.labels.append(label)
