"""Words and the spans marked in them: tokens to words, marked spans to BIO tags and back.

Labels live on words: the first token of a word bears its label, and an entity covers whole words.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from compose.heads.spec import IGNORED

if TYPE_CHECKING:
    from torch import Tensor

BEGINS = frozenset("BSU")
INSIDE = frozenset("IEL")
ENDS = frozenset("ESLU")


class Word(NamedTuple):
    """A word of an input.

    Args:
        sequence: 0, or 1 in the second text of a pair.
        start: its first character in that text.
        end: the character after its last.
    """

    sequence: int
    start: int
    end: int


class Token(NamedTuple):
    """Where a token comes from: the text, the tokenizer's word and the characters; None if it was added."""

    sequence: int | None
    word: int | None
    span: tuple[int, int]


class Source(NamedTuple):
    """An input in people's terms.

    Args:
        texts: its text, or both of a pair; words that were given are joined by spaces.
        words: its words, in order.
        given_words: whether the words were given, not found.
        token: the text of a token id.
    """

    texts: tuple[str, ...]
    words: tuple[Word, ...]
    given_words: bool = False
    token: Callable[[int], str] = str


class Window(NamedTuple):
    """What a head said of a part of an input.

    Args:
        logits: of its one row, without padding.
        words: for each token the index of its word in the source, or None.
        tokens: where each token comes from.
        masked: the mask tokens: by the place of each in the whole input its place in this part.
    """

    logits: Tensor
    words: tuple[int | None, ...]
    tokens: tuple[Token, ...] = ()
    masked: Mapping[int, int] = MappingProxyType({})


def words_of(tokens: Sequence[Token], texts: Sequence[str]) -> tuple[tuple[Word, ...], tuple[int | None, ...]]:
    """The words that tokens make up, and for each token its word's index.

    A word ends where the tokenizer's does and at white space, since some tokenizers know no words.

    >>> tokens = [Token(None, None, (0, 0)), Token(0, 0, (0, 2)), Token(0, 0, (2, 5)), Token(0, 0, (5, 8))]
    >>> words_of(tokens, ["hello yo"])
    ((Word(sequence=0, start=0, end=5), Word(sequence=0, start=6, end=8)), (None, 0, 0, 1))
    """
    words: list[Word] = []
    index: list[int | None] = []
    last: Token | None = None
    for token in tokens:
        if token.sequence is None:
            index.append(None)
            continue
        text = texts[token.sequence]
        start, end = trimmed(text, *token.span)
        if start >= end:
            index.append(None)
            continue
        goes_on = (
            last is not None
            and (last.sequence, last.word) == (token.sequence, token.word)
            and not any(character.isspace() for character in text[last.span[1] : start])
        )
        if goes_on:
            words[-1] = words[-1]._replace(end=max(end, words[-1].end))
        else:
            words.append(Word(token.sequence, start, end))
        index.append(len(words) - 1)
        last = token._replace(span=(start, end))
    return tuple(words), tuple(index)


def words_given(words: Sequence[str]) -> tuple[str, tuple[Word, ...]]:
    """Words that were given as one text, joined by spaces, and their places in it.

    >>> words_given(["New", "York"])
    ('New York', (Word(sequence=0, start=0, end=3), Word(sequence=0, start=4, end=8)))
    """
    places: list[Word] = []
    start = 0
    for word in words:
        places.append(Word(0, start, start + len(word)))
        start += len(word) + 1
    return " ".join(words), tuple(places)


def places_of(tokens: Sequence[Token], words: Sequence[Word], text: str) -> tuple[int | None, ...]:
    """For each token of `text` the index of the given word in which it begins, or None.

    >>> places_of([Token(None, None, (0, 0)), Token(0, 0, (0, 3)), Token(0, 1, (3, 8))],
    ...           words_given(["New", "York"])[1], "New York")
    (None, 0, 1)
    """
    starts = [word.start for word in words]
    index: list[int | None] = []
    for token in tokens:
        start, end = trimmed(text, *token.span)
        place = bisect_right(starts, start) - 1
        inside = token.sequence is not None and start < end and place >= 0 and start < words[place].end
        index.append(place if inside else None)
    return tuple(index)


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """A span without the white space at its ends."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def spread(words: Iterable[int | None], labels: Sequence[Any], blank: Any = IGNORED) -> list[Any]:
    """Words' labels on tokens: on the first token of each word, `blank` on all others.

    >>> spread([None, 0, 0, 1, None], [3, 4])
    [-100, 3, -100, 4, -100]
    """
    seen: set[int] = set()
    out = []
    for word in words:
        first = word is not None and word not in seen
        out.append(labels[word] if first and word is not None else blank)
        if word is not None:
            seen.add(word)
    return out


def bio_tags(words: Sequence[Word], spans: Iterable[tuple[int, int, str]], sequence: int = 0) -> list[str]:
    """BIO tags of words from marked spans of characters; a word is in a span if they overlap.

    Args:
        words: of an input.
        spans: start, end (exclusive) and type of each.
        sequence: the text that the spans are in.

    >>> bio_tags([Word(0, 0, 3), Word(0, 4, 8), Word(0, 9, 11)], [(0, 8, "person")])
    ['B-person', 'I-person', 'O']
    """
    tags = ["O"] * len(words)
    for start, end, kind in spans:
        begins = True
        for index, word in enumerate(words):
            if word.sequence == sequence and word.start < end and start < word.end:
                tags[index] = f"{'B' if begins else 'I'}-{kind}"
                begins = False
    return tags


def entities(
    tags: Sequence[str | None], scores: Sequence[float], words: Sequence[Word], texts: Sequence[str]
) -> list[dict[str, Any]]:
    """The entities that words' tags make up.

    `B-x` begins one, `I-x` goes on with one of the same type or else begins one (`E`/`L` and `S`/`U`,
    last and only words, are read too); `O` and None are outside. Tags without such a prefix are
    types themselves, and equal neighbours are one entity.

    Args:
        tags: of each word.
        scores: how likely each word's tag is.
        words: the words.
        texts: the input's texts.

    Returns:
        For each its type, start, end, text and score (the mean of its words'); in a pair, the
        sequence too.

    >>> entities(["B-city", "I-city", "O"], [1.0, 0.5, 1.0],
    ...          [Word(0, 0, 3), Word(0, 4, 8), Word(0, 9, 11)], ["New York is"])
    [{'type': 'city', 'start': 0, 'end': 8, 'text': 'New York', 'score': 0.75}]
    """
    groups: list[tuple[str, list[int]]] = []
    open_ = False
    for index, tag in enumerate(tags):
        if tag is None or tag == "O":
            open_ = False
            continue
        mark, kind = split_tag(tag)
        same = open_ and groups[-1][0] == kind and words[groups[-1][1][-1]].sequence == words[index].sequence
        if same and mark not in BEGINS:
            groups[-1][1].append(index)
        else:
            groups.append((kind, [index]))
        open_ = mark not in ENDS
    return [_entity(kind, members, scores, words, texts) for kind, members in groups]


def split_tag(tag: str) -> tuple[str, str]:
    """A tag's mark and type.

    >>> split_tag("B-order-number"), split_tag("NOUN")
    (('B', 'order-number'), ('', 'NOUN'))
    """
    mark, dash, kind = tag.partition("-")
    return (mark, kind) if dash and kind and (mark in BEGINS or mark in INSIDE) else ("", tag)


def _entity(
    kind: str, members: list[int], scores: Sequence[float], words: Sequence[Word], texts: Sequence[str]
) -> dict[str, Any]:
    first, last = words[members[0]], words[members[-1]]
    entity = {
        "type": kind,
        "start": first.start,
        "end": last.end,
        "text": texts[first.sequence][first.start : last.end],
        "score": sum(scores[member] for member in members) / len(members),
    }
    return entity | {"sequence": first.sequence} if len(texts) > 1 else entity
