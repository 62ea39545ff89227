"""Schemes of tagging: how the tags of words say where entities begin and end. Brought to BIO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Scheme = Literal["bio", "iob1", "bioes"]

BEGINS: dict[Scheme, dict[str, str]] = {
    "bio": {"B": "B", "I": "I"},
    "iob1": {"B": "B", "I": "I"},
    "bioes": {"B": "B", "I": "I", "E": "I", "S": "B", "L": "I", "U": "B"},
}
"""The marks of each scheme, and what BIO calls them; BILOU is BIOES with other letters."""


def to_bio(tags: Sequence[str], scheme: Scheme) -> tuple[str, ...]:
    """The tags of a sentence in BIO: `B-` begins an entity, `I-` goes on with it.

    In IOB1 (CoNLL-2003 as it was published) an entity begins with `I-`, and with `B-` only right after another of its
    type. Tags that are BIO already may be anything, parts of speech too, and stay as they are.

    Args:
        tags: of the words, in order.
        scheme: what they are written in.

    Raises:
        ValueError: a tag that is not of the scheme.

    >>> to_bio(["I-PER", "I-PER", "B-PER", "O", "I-LOC"], "iob1")
    ('B-PER', 'I-PER', 'B-PER', 'O', 'B-LOC')
    >>> to_bio(["S-PER", "B-LOC", "E-LOC"], "bioes")
    ('B-PER', 'B-LOC', 'I-LOC')
    """
    if scheme == "bio":
        return tuple(tags)
    found: list[str] = []
    before = ""
    for tag in tags:
        mark, dash, kind = tag.partition("-")
        if tag != "O" and (not dash or mark not in BEGINS[scheme]):
            raise ValueError(tag)
        bio = BEGINS[scheme].get(mark, "O")
        begins = bio == "B" or (scheme == "iob1" and bio == "I" and before != kind)
        found.append("O" if tag == "O" else f"{'B' if begins else 'I'}-{kind}")
        before = kind
    return tuple(found)
