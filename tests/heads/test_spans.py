"""Words, tags and entities."""

from __future__ import annotations

from compose.heads.spans import Token, Word, bio_tags, entities, places_of, spread, words_given, words_of


def test_words_end_at_white_space_too() -> None:
    """Some tokenizers call the whole text one word, and have the space inside a token."""
    text = "Ann lives here"
    tokens = [Token(0, 0, span) for span in ((0, 2), (2, 3), (3, 9), (9, 10), (10, 14))]
    words, index = words_of(tokens, [text])
    assert [text[word.start : word.end] for word in words] == ["Ann", "lives", "here"]
    assert index == (0, 0, 1, None, 2)


def test_words_of_a_pair() -> None:
    tokens = [Token(0, 0, (0, 2)), Token(None, None, (0, 0)), Token(1, 0, (0, 2)), Token(1, 1, (2, 3))]
    words, index = words_of(tokens, ["hi", "yo!"])
    assert words == (Word(0, 0, 2), Word(1, 0, 2), Word(1, 2, 3)) and index == (0, None, 1, 2)


def test_given_words_keep_their_places() -> None:
    text, words = words_given(["don't", "", "x"])
    assert text == "don't  x"
    tokens = [Token(0, 0, (0, 3)), Token(0, 1, (3, 5)), Token(0, 2, (6, 8))]
    assert places_of(tokens, words, text) == (0, 0, 2)


def test_tags_and_entities_are_inverse() -> None:
    text, words = words_given(["Ann", "Lee", "moved", "to", "New", "York", "in", "May"])
    spans = [(0, 7, "person"), (17, 25, "place"), (29, 32, "date")]
    tags = bio_tags(words, spans)
    assert tags == ["B-person", "I-person", "O", "O", "B-place", "I-place", "O", "B-date"]
    found = entities(tags, [1.0] * len(tags), words, [text])
    assert [(entity["start"], entity["end"], entity["type"]) for entity in found] == spans
    assert [entity["text"] for entity in found] == ["Ann Lee", "New York", "May"]


def test_a_span_inside_a_word_covers_the_word() -> None:
    text, words = words_given(["order", "#4711!"])
    tags = bio_tags(words, [(7, 11, "order-number")])
    assert tags == ["O", "B-order-number"]
    assert entities(tags, [1, 0.5], words, [text])[0]["text"] == "#4711!"


def test_broken_and_other_schemes() -> None:
    text, words = words_given(list("abcdefg"))

    def decode(*tags: str | None) -> list[tuple[str, str]]:
        found = entities(tags, [1.0] * len(tags), words, [text])
        return [(entity["type"], entity["text"]) for entity in found]

    assert decode("I-x", "I-x", "I-y", "B-y", "O", "I-y") == [
        ("x", "a b"),
        ("y", "c"),
        ("y", "d"),
        ("y", "f"),
    ]
    assert decode("B-x", "E-x", "I-x", "S-x", "U-y") == [("x", "a b"), ("x", "c"), ("x", "d"), ("y", "e")]
    assert decode("N", "N", "V", None, "V") == [("N", "a b"), ("V", "c"), ("V", "e")]
    assert decode() == []


def test_an_entity_ends_with_its_text() -> None:
    words = [Word(0, 0, 1), Word(1, 0, 1)]
    found = entities(["I-x", "I-x"], [1, 1], words, ["a", "b"])
    assert [(entity["text"], entity["sequence"]) for entity in found] == [("a", 0), ("b", 1)]


def test_labels_lie_on_first_tokens() -> None:
    assert spread([None, 0, 0, 2, None], ["a", "b", "c"], "-") == ["-", "a", "-", "c", "-"]
