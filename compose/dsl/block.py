"""What all blocks share: children, limits, equality, and the text form."""

from __future__ import annotations

import keyword
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias, Union

from compose.dsl.names import name_problem, plain, shorten
from compose.dsl.options import Faults

MAX_DEPTH = 64
MAX_NODES = 10_000
MAX_TEXT = 64 * 1024

Expression: TypeAlias = Union[str, "Block", None]
"""An adapter's name, None (nothing acts), or a block of expressions."""


@dataclass(frozen=True, init=False, repr=False)
class Block:
    """Base of all blocks; build one of its subclasses.

    Blocks are values: frozen, hashable, and equal when everything they were built from is. Their
    repr is the text form that `parse` reads.

    Args:
        children: the expressions that the block combines.
        depth: number of blocks nested in each other, this one included.
        size: number of blocks, names and Nones in it, itself included.
        text: the text form.
    """

    takes_tasks: ClassVar[bool] = False
    option_names: ClassVar[tuple[str, ...]] = ()

    children: tuple[Expression, ...]
    depth: int = field(init=False, compare=False)
    size: int = field(init=False, compare=False)
    text: str = field(init=False, compare=False)

    @property
    def labels(self) -> tuple[str | None, ...]:
        """The task that each child was given as a keyword, None for the others."""
        return (None,) * len(self.children)

    @property
    def options(self) -> dict[str, object]:
        """The keyword arguments that differ from their defaults."""
        return {}

    def __repr__(self) -> str:
        return self.text

    def __reduce__(self) -> tuple[object, ...]:
        return (build, (type(self), self.children, self.labels, self.options))

    def _fill(self, faults: Faults, children: tuple[Expression, ...], **fields: object) -> None:
        """Set all fields once, or raise what is wrong with them."""
        depth = 1 + max((depth_of(child) for child in children), default=0)
        size = 1 + sum(child.size if isinstance(child, Block) else 1 for child in children)
        if not children:
            faults.add(None, f"{faults.block} is empty", why="a block needs at least one child")
        if depth > MAX_DEPTH:
            faults.add(None, f"blocks are nested {depth} deep", why=f"at most {MAX_DEPTH} are legal")
        if size > MAX_NODES:
            faults.add(None, f"the expression has {size} nodes", why=f"at most {MAX_NODES} are legal")
        faults.raise_any()
        for name, value in {"children": children, **fields, "depth": depth, "size": size}.items():
            object.__setattr__(self, name, value)
        parts = [part if isinstance(part, str) else text_of(children[part]) for part in self.pieces()]
        if sum(map(len, parts)) > MAX_TEXT:  # so that every text form is short enough to be read back
            faults.add(None, f"the expression's text is longer than {MAX_TEXT} characters")
        faults.raise_any()
        object.__setattr__(self, "text", "".join(parts))

    def pieces(self) -> Iterator[str | int]:
        """The text form in pieces: text, and the index of a child where its text stands."""
        yield f"{type(self).__name__}("
        mapped = any(label is not None and not is_keyword(label) for label in self.labels)
        before = ""
        opened = False
        for index, label in enumerate(self.labels):
            if label is None:
                yield before
            elif not mapped:
                yield f"{before}{label}="
            else:
                yield f'{before}{"" if opened else "{"}"{label}": '
                opened = True
            yield index
            before = ", "
        if opened:
            yield "}"
        for name, value in self.options.items():
            yield f", {name}={literal(value)}"
        yield ")"


def depth_of(expression: Expression) -> int:
    """Number of blocks nested in each other; 0 for a name and None."""
    return expression.depth if isinstance(expression, Block) else 0


def text_of(expression: Expression) -> str:
    """The text form of an expression."""
    if isinstance(expression, Block):
        return expression.text
    return "None" if expression is None else f'"{expression}"'


def is_keyword(task: str) -> bool:
    """Whether Python takes a task as a keyword argument's name."""
    return task.isidentifier() and not keyword.iskeyword(task) and task != "__debug__"


def literal(value: object) -> str:
    """An option's value as text."""
    return f'"{value}"' if isinstance(value, str) else repr(value)


def build(
    kind: type[Block],
    children: Sequence[Expression],
    labels: Sequence[str | None],
    options: Mapping[str, object],
) -> Block:
    """A block from its parts, as `Block.children`, `.labels` and `.options` give them."""
    unnamed: list[object] = [child for child, label in zip(children, labels, strict=True) if label is None]
    named = {label: child for child, label in zip(children, labels, strict=True) if label is not None}
    if named:
        unnamed.append(named)
    return kind(*unnamed, **options)


def with_children(block: Block, children: Sequence[Expression]) -> Block:
    """The same block around other children, as many as it has.

    >>> from compose.dsl.blocks import Fuse
    >>> with_children(Fuse("a", "b", name="f"), ["a", "c"])
    Fuse("a", "c", name="f")
    """
    return build(type(block), children, block.labels, block.options)


def take_children(faults: Faults, given: Sequence[object]) -> tuple[Expression, ...]:
    """Children as expressions; what is none is noted, and None stands in its place."""
    children: list[Expression] = []
    for index, child in enumerate(given):
        if child is None or isinstance(child, Block):
            children.append(child)
            continue
        problem = None
        if not isinstance(child, str):
            why = "a child is an adapter's name, None or a block"
            faults.add(index, f"{shorten(child)} is no expression", why, child_hint(faults.block, child))
        elif (problem := name_problem(child, "adapter")) is not None:
            faults.add(index, problem.what, problem.why, problem.hint)
        children.append(plain(child) if isinstance(child, str) and problem is None else None)
    return tuple(children)


def child_hint(block: str, child: object) -> str:
    """What would work instead of something that is no expression."""
    if isinstance(child, list | tuple | set):
        return f'{block}("a", "b"): the children one after another'
    if isinstance(child, Mapping):
        return "a mapping of tasks comes last, and only in Parallel and Route"
    if isinstance(child, type) and issubclass(child, Block):
        return f'{child.__name__}("a"): a block with children'
    return ""


def take_named(
    faults: Faults, given: Sequence[object], named: Mapping[str, object]
) -> tuple[tuple[Expression, ...], tuple[str | None, ...]]:
    """Children of a block that names them by task: positional, by a mapping in the last place, by keyword.

    Returns:
        The children, and the task of each, None for positional ones.
    """
    unnamed: Sequence[object] = given
    mapping: Mapping[object, object] = {}
    if given and isinstance(given[-1], Mapping):
        unnamed, mapping = given[:-1], given[-1]
    pairs: list[tuple[object, object]] = [(None, child) for child in unnamed]
    pairs += [*mapping.items(), *named.items()]
    tasks: list[str | None] = [None] * len(unnamed)
    seen: set[str] = set()
    for task, _ in pairs[len(unnamed) :]:
        problem = name_problem(task, "task")
        if problem is not None:
            faults.add(task if isinstance(task, str) else None, problem.what, problem.why)
            continue
        name = plain(task)
        if name in seen:
            faults.add(name, f"two children are called {shorten(name)}", why="a task has one child")
        seen.add(name)
        tasks.append(name)
    return take_children(faults, [child for _, child in pairs]), tuple(tasks)
