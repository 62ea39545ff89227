"""The rule for names of adapters, fusions, heads and tasks."""

from __future__ import annotations

import reprlib

from compose.errors import ExpressionError, Problem
from compose.specs import NAME, RESERVED

RULE = "a name is 1 to 64 letters, digits and _ - ."
JOINED = frozenset({"fusion", "head", "task"})
"""What may be called several names joined by commas: the own name that a Fuse derives from its children."""
SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxother = SHORT.maxlong = 40


def shorten(value: object) -> str:
    """The repr of a value, cut to a readable length.

    >>> shorten("nli")
    "'nli'"
    """
    try:
        return SHORT.repr(value)
    except ValueError:  # an int of more digits than Python writes
        return f"such a large {type(value).__name__}"


def name_problem(name: object, what: str) -> Problem | None:
    """What is wrong with a name, None if nothing is.

    Args:
        name: the name.
        what: what it is to name: `adapter`, `fusion`, `head`, `task`. All but an adapter may be
            several names joined by commas.

    Returns:
        The problem, or None.
    """
    if not isinstance(name, str):
        return Problem(f"{what} name must be a string, not {type(name).__name__} {shorten(name)}", why=RULE)
    parts = name.split(",") if what in JOINED else [name]
    for part in parts:
        if part in RESERVED:
            reserved = tuple(sorted(RESERVED))
            return Problem(f"{what} name {shorten(name)} is reserved", why=f"reserved: {', '.join(reserved)}")
        if not NAME.fullmatch(part) or not part.strip("."):
            why = RULE if part.strip(".") or not part else "a name of dots only is not a file name"
            hint = "for an expression in text form, call parse() on it" if "(" in name else ""
            return Problem(f"{shorten(name)} is not a legal {what} name", why=why, hint=hint)
    return None


def check_name(name: object, what: str) -> str:
    """The name, if it is legal.

    Args:
        name: the name.
        what: what it is to name: `adapter`, `fusion`, `head`, `task`.

    Returns:
        The name as a plain string.

    Raises:
        ExpressionError: the name breaks the rule or is reserved.

    >>> check_name("sst-2", "adapter")
    'sst-2'
    >>> check_name("mnli,qnli", "head")
    'mnli,qnli'
    """
    problem = name_problem(name, what)
    if problem is not None:
        raise ExpressionError(problem)
    return plain(name)


def plain(name: object) -> str:
    """A string without the subclass it may have (an enumeration's member, a numpy string)."""
    assert isinstance(name, str)
    return str.__str__(name)
