"""Texts to rows for a backbone: checked, tokenised, and cut into windows where they are too long."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from compose.errors import InputError, Problem
from compose.heads.spans import Source, Token, Word, places_of, words_given, words_of

Input = str | tuple[str, str] | list[str]
"""A text, a pair of texts, or the words of a text."""

TOO_LONG = "truncate=True, or stride=n for windows that overlap by n tokens"
"""What to do about an input that is too long."""

UNLIMITED = 10**9
"""Tokenizers that know no limit say a huge number."""

# A tokenizer's settings are its state, and changing them while another thread encodes is an error.
_TOKENIZING = threading.Lock()


class Row(NamedTuple):
    """One row for the backbone.

    Features are lists of numbers or tensors by name; `words` are for each token the index of its word.
    """

    features: dict[str, Any]
    words: tuple[int | None, ...]
    places: Sequence[int] = ()
    """Of a part of an input: the places of its tokens in the whole; else nothing."""
    tokens: tuple[Token, ...] = ()
    """Where each token comes from, where that is wanted; else nothing."""

    def of_token(self, token: int | None) -> dict[int, int]:
        """Where a token stands: by its places in the whole input those in this row."""
        ids = self.features.get("input_ids", ())  # images have none
        return {place: row for row, place in enumerate(self.places or range(len(ids))) if ids[row] == token}


class Item(NamedTuple):
    """An input in rows: one, or its windows; `cut` says that some of it is in none."""

    source: Source
    rows: tuple[Row, ...]
    cut: bool = False


def longest(tokenizer: Any, backbone: nn.Module) -> int | None:
    """The most tokens that a row may have, None if nothing limits it."""
    limits = [int(getattr(tokenizer, "model_max_length", None) or UNLIMITED)]
    positions = getattr(getattr(backbone, "config", None), "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        limits.append(positions - first_position(backbone))
    limit = min(limits)
    return limit if limit < UNLIMITED else None


def learned_positions(backbone: nn.Module) -> int | None:
    """The most tokens that a backbone's table of positions has room for, None if it has no such table."""
    for name, module in backbone.named_modules():
        if name.endswith(("position_embeddings", "wpe")) and isinstance(module, nn.Embedding):
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return None


def first_position(backbone: nn.Module) -> int:
    """RoBERTa's positions begin after the one kept for padding."""
    for name, module in backbone.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0


def check(inputs: object) -> list[Input]:
    """The inputs, if each is a text, a pair of texts or a list of words.

    Raises:
        InputError: some are not; all of them at once.
    """
    if isinstance(inputs, str) or not isinstance(inputs, Sequence):
        hint = "[text]" if isinstance(inputs, str) else "a list"
        raise InputError(f"inputs of type {type(inputs).__name__}, but a list of inputs is needed", hint=hint)
    problems = []
    for index, given in enumerate(inputs):
        parts = given if isinstance(given, (tuple, list)) else (given,)
        wrong = [type(part).__name__ for part in parts if not isinstance(part, str)]
        if wrong:
            what = f"{wrong[0]} where a text is needed"
        elif isinstance(given, tuple) and len(given) != 2:
            what = f"a tuple of {len(given)}, but a pair of texts has 2 (words come as a list)"
        else:
            continue
        problems.append(Problem(what, where=f"input {index}", why="an input is a text, a pair or a list of words"))
    if problems:
        raise InputError(problems)
    return list(inputs)


def encode(
    tokenizer: Any,
    inputs: Sequence[Input],
    limit: int | None,
    truncate: bool = False,
    stride: int | None = None,
    words: bool = True,
    tokens: bool = False,
) -> list[Item]:
    """Inputs as rows.

    Args:
        tokenizer: the backbone's.
        inputs: checked ones.
        limit: the most tokens of a row, those that the tokenizer adds among them.
        truncate: cut what is too long.
        stride: instead, cut it into windows that overlap by so many tokens.
        words: whether words are needed; looking for them takes longer than tokenising.
        tokens: whether rows keep where each token comes from, which is many times as large as its id.

    Raises:
        InputError: some inputs are too long and neither way was chosen, or no window fits.
    """
    if words and not tokenizer.is_fast:
        raise InputError(
            "a tagging or question answering head needs to know where tokens come from",
            why="this tokenizer cannot tell",
            hint="a fast one",
        )
    items: list[Item | None] = [None] * len(inputs)
    problems = []
    for pair in (False, True):
        places = [index for index, given in enumerate(inputs) if isinstance(given, tuple) == pair]
        for index, (source, row, rust) in zip(
            places, _tokenized(tokenizer, [inputs[index] for index in places], pair, words), strict=True
        ):
            length, row = len(row.words), row if tokens else row._replace(tokens=())
            if limit is None or length <= limit:
                items[index] = Item(source, (row,))
                continue
            what = f"{length} tokens, but the backbone takes {limit}"
            if not truncate and stride is None:
                problems.append(Problem(what, where=f"input {index}", hint=TOO_LONG))
            elif rust is None:
                problems.append(Problem(what, where=f"input {index}", why="only a fast tokenizer's rows can be cut"))
            else:
                sequences = rust.sequence_ids
                spans = _kept(sequences, limit) if stride is None else _windows(sequences, limit, stride)
                if not spans:
                    why = f"nothing of it fits beside a stride of {stride}"
                    problems.append(Problem(what, where=f"input {index}", why=why, hint="a smaller stride"))
                items[index] = Item(source, tuple(_cut(row, span) for span in spans), stride is None)
    if problems:
        raise InputError(problems)
    return [item for item in items if item is not None]


def _tokenized(
    tokenizer: Any, inputs: Sequence[Input], pair: bool, wanted: bool
) -> Iterator[tuple[Source, Row, Any | None]]:
    """Source, uncut row and, of a fast tokenizer, its encoding, of inputs that all are pairs or all are not."""
    if not inputs:
        return
    texts = [
        given if isinstance(given, tuple) else (given if isinstance(given, str) else " ".join(given),)
        for given in inputs
    ]
    columns = [list(column) for column in zip(*texts, strict=True)]
    with _TOKENIZING:
        encoded = tokenizer(*columns, padding=False, truncation=False, verbose=False)
    rusts = encoded.encodings if tokenizer.is_fast else [None] * len(inputs)
    named = {name: encoded[name] for name in encoded if name in tokenizer.model_input_names}

    def text_of(token: int) -> str:
        return str(tokenizer.decode([token]))

    for index, (given, rust) in enumerate(zip(inputs, rusts, strict=True)):
        features = {name: column[index] for name, column in named.items()}
        if not features["input_ids"]:  # an empty text, where the tokenizer adds nothing
            blank = {"input_ids": _filler(tokenizer), "token_type_ids": 0}
            features, rust = {name: [blank.get(name, 1)] for name in features}, None
        words: tuple[Word, ...] = ()
        places: tuple[int | None, ...] = (None,) * len(features["input_ids"])
        tokens: list[Token] = []
        if wanted:
            tokens = _tokens(rust, len(places))
            words, places = _words(given, texts[index], tokens)
        source = Source(tuple(texts[index]), words, isinstance(given, list), text_of)
        yield source, Row(features, places, tokens=tuple(tokens)), rust


def _tokens(rust: Any | None, count: int) -> list[Token]:
    """Where an encoding's tokens come from; nowhere without one."""
    if rust is None:
        return [Token(None, None, (0, 0))] * count
    return [Token(*each) for each in zip(rust.sequence_ids, rust.word_ids, rust.offsets, strict=True)]


def _words(
    given: Input, texts: Sequence[str], tokens: Sequence[Token]
) -> tuple[tuple[Word, ...], tuple[int | None, ...]]:
    """An input's words, and for each token its word's index."""
    if isinstance(given, list):
        words = words_given(given)[1]
        return words, places_of(tokens, words, texts[0])
    return words_of(tokens, texts)


def _filler(tokenizer: Any) -> int:
    """A token that stands for nothing."""
    ids = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, 0)
    return int(next(token for token in ids if token is not None))


def _parts(sequences: Sequence[int | None]) -> list[list[int]]:
    """The positions of each text's tokens."""
    return [
        [place for place, sequence in enumerate(sequences) if sequence == part]
        for part in sorted({sequence for sequence in sequences if sequence is not None})
    ]


def _kept(sequences: Sequence[int | None], limit: int) -> list[list[int]]:
    """The positions that stay when a row is truncated: of a pair the longer text loses first."""
    parts = _parts(sequences)
    excess = len(sequences) - limit
    lengths = [len(part) for part in parts]
    for _ in range(excess):
        longer = max(range(len(lengths)), key=lengths.__getitem__)
        lengths[longer] = max(0, lengths[longer] - 1)
    dropped = {place for part, length in zip(parts, lengths, strict=True) for place in part[length:]}
    return [[place for place in range(len(sequences)) if place not in dropped]]


def _windows(sequences: Sequence[int | None], limit: int, stride: int) -> list[list[int]]:
    """The positions of each window; of a pair the longer text is cut and the other is in all of them."""
    long = max(_parts(sequences), key=len)
    room = limit - (len(sequences) - len(long))
    if room <= stride:
        return []
    windows = []
    for start in range(0, len(long), room - stride):
        inside = set(long[start : start + room])
        outside = set(long) - inside
        windows.append([place for place in range(len(sequences)) if place not in outside])
        if start + room >= len(long):
            break
    return windows


def _cut(row: Row, places: Sequence[int]) -> Row:
    features = {name: [values[place] for place in places] for name, values in row.features.items()}
    tokens = tuple(row.tokens[place] for place in places) if row.tokens else ()
    return Row(features, tuple(row.words[place] for place in places), places, tokens)


def batch_of(rows: Sequence[Mapping[str, Sequence[int]]], tokenizer: Any, device: torch.device) -> dict[str, Tensor]:
    """Rows padded at their right ends to one length, as tensors `[rows, tokens]`.

    On the right whatever the tokenizer's own side, since positions count from the left.
    """
    width = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": _filler(tokenizer), "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0)}
    batch = {name: np.full((len(rows), width), fill.get(name, 0), np.int64) for name in (*rows[0], "attention_mask")}
    for index, row in enumerate(rows):
        batch["attention_mask"][index, : len(row["input_ids"])] = 1
        for name, values in row.items():
            batch[name][index, : len(values)] = values
    return {name: torch.from_numpy(values).to(device) for name, values in batch.items()}
