"""Made texts: words that a made tokenizer knows."""

from __future__ import annotations

from random import Random

WORDS = tuple(
    "a about after all and answer back blue book by came city cold day door far few first for found from garden good "
    "green had house in is it kind last light little long made man morning much never new night no of old on one open "
    "our over paper quiet rain read red river road said sea she small some song story street table that the then they "
    "three time to tree two under very was water we well went what when white who wind window with word year yes "
    "you . , ? !".split()
)
SHORTEST, LONGEST = 4, 10


def sentence(draw: Random) -> list[str]:
    """The words of a made text."""
    return [draw.choice(WORDS[:-4]) for _ in range(draw.randint(SHORTEST, LONGEST))]
