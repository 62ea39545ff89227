"""The reader of recipes: what YAML it takes, and where it says that it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from compose.errors import RecipeError
from compose.recipes import loader
from compose.recipes.loader import MAX_BYTES, MAX_NODES, decode, load_file, load_text, scalar


def error_of(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_text(text, "r.yaml")
    return str(caught.value)


MEBIBYTE = 1 << 20
MALFORMED = {
    "empty": ("", "r.yaml:1:1: the file is empty"),
    "only a comment": ("# nothing\n", "r.yaml:1:1: the file is empty"),
    "tab in the indentation": ("a:\n\tb: 1\n", "r.yaml:2:1: a tab"),
    "tab after spaces": ("a:\n  \tb: 1\n", "r.yaml:2:3: a tab"),
    "duplicate key": ("a: 1\nb: 2\na: 3\n", "r.yaml:3:1: the key 'a' stands here twice"),
    "duplicate key inside": ("a:\n  b: {c: 1, c: 2}\n", "r.yaml:2:13: the key 'c'"),
    "anchor": ("a: &x 1\n", "r.yaml:1:4: anchors"),
    "alias": ("a: *x\n", "r.yaml:1:4: aliases"),
    "alias bomb": ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "r.yaml:1:4: anchors"),
    "anchor on a key": ("&k a: 1\n", "r.yaml:1:1"),
    "merge key": ("a:\n  <<: 1\n", "r.yaml:2:3: merge keys"),
    "python tag": ("a: !!python/object:os.system x\n", "r.yaml:1:4: tags"),
    "harmless tag": ("a: !!str 5\n", "r.yaml:1:4: tags"),
    "local tag": ("a: !include other.yaml\n", "r.yaml:1:4: tags"),
    "directive": ("%YAML 1.1\n---\na: 1\n", "r.yaml:1:1: YAML directives"),
    "two documents": ("a: 1\n---\nb: 2\n", "r.yaml:2:1: a second document"),
    "key that is a list": ("? [a]\n: 1\n", "r.yaml:1:3: not a key"),
    "not a number": ("a: .nan\n", "r.yaml:1:4: a number that is not finite"),
    "infinite": ("a: 1\nb: -.inf\n", "r.yaml:2:4: a number that is not finite"),
    "too large": ("a: 1e999\n", "r.yaml:1:4: a number that is not finite"),
    "long number": (f"a: {'9' * 30}\n", "r.yaml:1:4: a whole number of more than 18 digits"),
    "colon in a text": ("a: b: c\n", "r.yaml:1:5: not YAML"),
    "open bracket": ("a: [1, 2\n", "r.yaml:1:4: not YAML"),
    "open quote": ('a: "x\n', "r.yaml:1:4: not YAML"),
    "control character": ("a: \0\n", "r.yaml:1:4: a character"),
    "escaped control character": ('a: "b\\0"\n', "r.yaml:1:4: a character"),
    "byte order mark": ("\ufeffa: 1\n", "r.yaml:1:1: a character"),
    "deep": ("[" * 5000, "r.yaml:1:34: nested more than 32 deep"),
    "deep by dashes": ("- " * 5000 + "x", "r.yaml:1:67: nested more than 32 deep"),
    "deep mappings": ("{a: " * 200, "nested more than 32 deep"),
    "too many values": ("[" + "a," * (MEBIBYTE // 2 - 8) + "]", "more than 50,000 values"),
    "too many empty values": ("-\n" * (MEBIBYTE // 2), "more than 50,000 values"),
    "too long": ("a" * (MEBIBYTE + 1), "larger than 1 MiB"),
}


@pytest.mark.parametrize("events", dict.fromkeys([yaml.SafeLoader, loader.EVENTS]), ids=lambda events: events.__name__)
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files_are_located(name: str, events: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0

    class Counted(events):
        def get_event(self) -> Any:
            nonlocal read
            read += 1
            return super().get_event()

    monkeypatch.setattr(loader, "EVENTS", Counted)  # PyYAML comes with libyaml and without
    text, expected = MALFORMED[name]
    assert expected in error_of(text)
    assert read <= MAX_NODES + 4  # however much there is: a value more, and what begins stream, document and list


def test_the_source_line_is_shown_and_marked() -> None:
    assert error_of("good: 1\nbad: {x: *y}\n").splitlines()[:3] == [
        "r.yaml:2:10: aliases are not allowed",
        "  | bad: {x: *y}",
        "  |          ^",
    ]


def test_all_faults_that_can_be_seen_are_told_at_once() -> None:
    found = error_of("a: 1\na: .nan\nb: 1e999\nb: 2\n")
    assert [line.split(": ")[0] for line in found.splitlines() if line.startswith("r.yaml")] == [
        "r.yaml:2:1",
        "r.yaml:2:4",
        "r.yaml:3:4",
        "r.yaml:4:1",
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xef\xbb\xbfa: 1", "r.yaml:1:1: begins with a UTF-8 byte order mark"),
        ("a: 1".encode("utf-16"), "r.yaml:1:1: begins with a UTF-16 byte order mark"),
        ("a: 1\nb: caf\xe9\n".encode("latin-1"), "r.yaml:2:7: byte 0xe9 is not UTF-8"),
        (b"\x7fELF\x02\x01\xff", "r.yaml:1:7: byte 0xff"),
        (b"a" * (MAX_BYTES + 1), "larger than 1 MiB"),
    ],
)
def test_bytes_that_are_no_text(content: bytes, expected: str) -> None:
    with pytest.raises(RecipeError) as caught:
        decode(content, "r.yaml")
    assert expected in str(caught.value)


def test_a_large_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    with open(path, "wb") as file:
        file.truncate(10**9)  # sparse: takes no room
    with pytest.raises(RecipeError, match="larger than 1 MiB"):
        load_file(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read: No such file"):
        load_file(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-5", 5e-5),
        ("1e-4", 1e-4),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-2", -2),
        ("010", 10),
        ("0x1F", "0x1F"),
        ("0o17", "0o17"),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2024-01-02", "2024-01-02"),
        ("true", True),
        ("false", False),
        ("True", "True"),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("null", None),
        ("~", None),
        ("", None),
        ("=", "="),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    found = scalar(text)
    assert found == value and type(found) is type(value)
    assert load_text(f"a: {text}\n").data == {"a": value} or text == "="


def test_quoted_scalars_are_text() -> None:
    assert load_text("a: \"5\"\nb: 'true'\nc: |\n  1\n").data == {"a": "5", "b": "true", "c": "1\n"}


def test_every_path_has_its_place() -> None:
    document = load_text("a:\n  - b: 1\n    c: two\n", "r.yaml")
    assert str(document.place(("a", 0, "c"))) == "r.yaml:3:8"
    assert str(document.place(("a", 0, "c"), key=True)) == "r.yaml:3:5"
    assert document.place(("a", 0, "c")).width == 3
    assert str(document.place(("a", 0, "missing"))) == "r.yaml:2:5"  # the nearest thing around it


def test_columns_count_characters_not_bytes() -> None:
    assert "r.yaml:1:17: aliases" in error_of("{ü: é, a: ß, b: *x}")


def test_windows_line_ends() -> None:
    assert "r.yaml:3:4" in error_of("a: 1\r\nb: 2\r\nc: *x\r\n")


@given(st.text(st.sampled_from("ab:-[]{},\"'#&*!|>%@`\n\t ?<0.e5~"), max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        load_text(text, "r.yaml")
    except RecipeError as error:
        assert "r.yaml" in str(error)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        load_text(decode(content, "r.yaml"), "r.yaml")
    except RecipeError as error:
        assert "r.yaml" in str(error)
