"""The answers of a row, in any of the forms that data sets have them in; each is held against its text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compose.train.data import Span
from compose.train.row_error import RowError, require

FORMS = "{text: [...], answer_start: [...]}, or a list of {text, answer_start}, {start, end} or texts"
"""What a column of answers holds."""


def read_answers(given: Any, text: str) -> tuple[Span, ...]:
    """The answers to a question: start, end (exclusive) and text of each; none where there is no answer.

    Args:
        given: as SQuAD has them, a mapping of two lists, `text` and `answer_start`; or a list of mappings with `text`
            and `answer_start`, or with `start` and `end`, or of texts, each of which stands where it first occurs.
        text: the text that they stand in.

    Raises:
        RowError: it is nothing of that, or an answer does not stand where it should.

    >>> read_answers({"text": ["noon"], "answer_start": [3]}, "at noon"), read_answers([{"start": 0, "end": 2}], "at")
    (((3, 7, 'noon'),), ((0, 2, 'at'),))
    """
    if isinstance(given, Mapping):
        texts, starts = given.get("text"), given.get("answer_start")
        lists = isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts)
        require(lists, "answers must be two lists of one length, text and answer_start", hint=FORMS)
        given = [{"text": each, "answer_start": start} for each, start in zip(texts or (), starts or (), strict=True)]
    require(isinstance(given, list), "answers must be a list, or SQuAD's mapping of two", hint=FORMS)
    return tuple(_answer(each, text) for each in given)


def _answer(given: Any, text: str) -> Span:
    if isinstance(given, str):
        place = text.find(given)
        require(given and place >= 0, f"the answer {given!r} does not stand in the text")
        return place, place + len(given), given
    require(isinstance(given, Mapping), f"{given!r} is no answer", hint=FORMS)
    said, start, end = given.get("text"), given.get("answer_start", given.get("start")), given.get("end")
    whole = all(isinstance(each, int) and not isinstance(each, bool) for each in (start, 0 if end is None else end))
    named = isinstance(said, str) or (said is None and end is not None)
    require(whole and named, "an answer has a text and an answer_start, or a start and an end", hint=FORMS)
    end = start + len(said) if end is None else end
    require(0 <= start < end <= len(text), f"an answer goes from {start} to {end}, but its text from 0 to {len(text)}")
    stands = text[start:end]
    if said not in (None, stands):
        found = text.find(said)
        hint = f"it stands at {found}; places are counted in characters" if found >= 0 else ""
        raise RowError(f"the answer {said!r} does not stand at {start}", why=f"there stands {stands!r}", hint=hint)
    return start, end, stands
