"""Made texts: words that a made tokenizer knows."""

from __future__ import annotations

from random import Random

_PLAIN = """
a about after all and answer back blue book by came city cold day door far few first for found from garden good green
had house in is it kind last light little long made man morning much never new night no of old on one open our over
paper quiet rain read red river road said sea she small some song story street table that the then they three time to
tree two under very was water we well went what when white who wind window with word year yes you
"""
PLAIN = tuple(_PLAIN.split())
WORDS = (*PLAIN, ".", ",", "?", "!")
SHORTEST, LONGEST = 4, 10
"""How many words a text has."""


def sentence(draw: Random) -> list[str]:
    """The words of a made text."""
    return [draw.choice(PLAIN) for _ in range(draw.randint(SHORTEST, LONGEST))]
