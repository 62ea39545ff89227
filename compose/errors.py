"""Errors for people: what is wrong, where, why, and what would be legal.

One base class and one subclass per stage. An error carries a list of `Problem`s, so that
everything that is wrong with an input is said at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_SHOWN = 12


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Args:
        what: the fault in one sentence.
        where: a path, a `file:line:column`, or a site; empty if `text` says it all.
        why: the reason, if it is not obvious.
        hint: what would work.
        text: the expression or source line that `span` marks.
        span: start and end (exclusive) of the marked part of `text`, in characters.
        got: the name that was not found; sorts `legal` so that the nearest comes first.
        legal: the names that would have been legal.
    """

    what: str
    where: str = ""
    why: str = ""
    hint: str = ""
    text: str = ""
    span: tuple[int, int] | None = None
    got: str = ""
    legal: tuple[str, ...] = ()

    def render(self) -> str:
        """The problem as text of one or more lines."""
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.text:
            lines += underline(self.text, self.span)
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.legal:
            lines.append(f"  legal: {listing(self.legal, self.got)}")
        if self.hint:
            lines.append(f"  try: {self.hint}")
        return "\n".join(lines)


class ComposeError(Exception):
    """Base of all errors that a user's input can cause.

    Build it from problems, or from the fields of a single `Problem`.
    """

    def __init__(self, problem: str | Problem | Sequence[Problem], **fields: object) -> None:
        if isinstance(problem, str):
            problem = Problem(problem, **fields)  # type: ignore[arg-type]
        self.problems: tuple[Problem, ...] = (problem,) if isinstance(problem, Problem) else tuple(problem)
        super().__init__(self.problems)

    def __str__(self) -> str:
        shown = [problem.render() for problem in self.problems[:MAX_SHOWN]]
        if len(self.problems) > MAX_SHOWN:
            shown.append(f"... and {len(self.problems) - MAX_SHOWN} more")
        return "\n".join(shown)

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.problems,))


class ExpressionError(ComposeError):
    """An expression that cannot be read or built."""


class CompileError(ComposeError):
    """An expression that has no meaning over this backbone and these adapters."""


class ConfigError(ComposeError):
    """An option of a method, a fusion or a head that is unknown or out of range."""


class RegistryError(ComposeError):
    """A name that is unknown, taken or not legal."""


class BackboneError(ComposeError):
    """A backbone that is not understood or cannot be loaded."""


class InputError(ComposeError):
    """A call with inputs, labels or rows that do not fit the plan."""


class FileError(ComposeError):
    """A file or folder that is damaged, foreign or does not fit."""


class RecipeError(ComposeError):
    """A recipe that cannot be read or makes no sense."""


class BenchError(ComposeError):
    """A measurement whose worker failed."""


def nearest(got: str, legal: Iterable[str]) -> list[str]:
    """`legal` with the names most like `got` first.

    >>> nearest("bart", ["gpt2", "bert"])
    ['bert', 'gpt2']
    """

    def likeness(name: str) -> float:
        return difflib.SequenceMatcher(None, got.lower(), name.lower()).ratio()

    return sorted(legal, key=likeness, reverse=True) if got else list(legal)


def listing(legal: Iterable[str], got: str = "") -> str:
    """Names in quotes, the one nearest to `got` first, cut to a readable number."""
    names = [f"'{name}'" for name in nearest(got, legal)]
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return ", ".join(names[:MAX_SHOWN]) + more


def underline(text: str, span: tuple[int, int] | None, width: int = 100) -> list[str]:
    """`text` with carets under `span`, cut to `width` characters around it."""
    if span is None:
        return [f"  | {text[:width]}{'...' if len(text) > width else ''}"]
    start, end = span
    left = max(0, min(start - width // 3, len(text) - width))
    right = min(len(text), left + width)
    shown = text[left:right].replace("\n", " ").replace("\t", " ")
    head, tail = ("..." if left else ""), ("..." if right < len(text) else "")
    carets = "^" * max(1, min(end, right) - start)
    return [f"  | {head}{shown}{tail}", f"  | {' ' * (len(head) + start - left)}{carets}"]
