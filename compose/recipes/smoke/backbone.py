"""A tiny random backbone of the kind of another one, with a tokenizer over made words."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compose.backbones.resolve import TABLES
from compose.errors import BackboneError, Problem
from compose.recipes.smoke.words import WORDS
from compose.runtime.attach import locate_backbone
from compose.runtime.random_backbone import random_backbone

WIDTH, HEADS, INNER = 128, 4, 256
"""Sizes that every method's defaults divide."""

LONGEST = 512
"""The most tokens of a text."""


@dataclass(frozen=True)
class Family:
    """What is tiny in a backbone of an architecture, and how its tokenizer marks texts.

    Args:
        sizes: of its configuration.
        layers: what its configuration calls the number of its layers.
        special: the special tokens in the order of their ids, and what they are for.
        single: what stands around a text, `$A`.
        pair: what stands around the texts of a pair.
        segments: whether the backbone is told which of the two a token belongs to.
        settings: what its configuration has beside the options of its architecture.
    """

    sizes: Mapping[str, Any]
    layers: tuple[str, ...]
    special: Mapping[str, tuple[str, ...]]
    single: str
    pair: str
    segments: bool = False
    settings: tuple[tuple[str, Any], ...] = ()


_BERT_SIZES = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "intermediate_size": INNER}
_BERT_MARKS: Mapping[str, Any] = {
    "special": {"[PAD]": ("pad",), "[UNK]": ("unk",), "[CLS]": ("cls",), "[SEP]": ("sep",), "[MASK]": ("mask",)},
    "single": "[CLS] $A [SEP]",
    "pair": "[CLS] $A [SEP] $B:1 [SEP]:1",
}
_ROBERTA_MARKS: Mapping[str, Any] = {
    "special": {
        "<s>": ("bos", "cls"),
        "<pad>": ("pad",),
        "</s>": ("eos", "sep"),
        "<unk>": ("unk",),
        "<mask>": ("mask",),
    },
    "single": "<s> $A </s>",
    "pair": "<s> $A </s> </s> $B </s>",
}

FAMILIES: Mapping[str, Family] = {
    "bert": Family(_BERT_SIZES, ("num_hidden_layers",), **_BERT_MARKS, segments=True),
    "distilbert": Family({"dim": WIDTH, "n_heads": HEADS, "hidden_dim": INNER}, ("n_layers",), **_BERT_MARKS),
    "roberta": Family(_BERT_SIZES, ("num_hidden_layers",), **_ROBERTA_MARKS),
    "xlm-roberta": Family(_BERT_SIZES, ("num_hidden_layers",), **_ROBERTA_MARKS),
    "gpt2": Family(  # which has no token for padding
        {"n_embd": WIDTH, "n_head": HEADS, "n_inner": INNER, "bos_token_id": 0, "eos_token_id": 0},
        ("n_layer",),
        {"<|endoftext|>": ("bos", "eos", "unk")},
        "$A",
        "$A $B",
    ),
    "llama": Family(
        {**_BERT_SIZES, "num_key_value_heads": HEADS // 2},
        ("num_hidden_layers",),
        {"<unk>": ("unk",), "<s>": ("bos",), "</s>": ("eos",)},
        "<s> $A",
        "<s> $A $B",
    ),
    "t5": Family(
        {"d_model": WIDTH, "num_heads": HEADS, "d_kv": WIDTH // HEADS, "d_ff": INNER},
        ("num_layers", "num_decoder_layers"),
        {"<pad>": ("pad",), "</s>": ("eos",), "<unk>": ("unk",)},
        "$A </s>",
        "$A </s> $B </s>",
        settings=(("decoder_start_token_id", 0),),
    ),
}
"""By transformers' `model_type`."""

ALSO = {"distilroberta": "roberta", "distilgpt2": "gpt2", "minilm": "bert"}
"""Names of backbones that do not say their architecture."""


def made_backbone(name: str, layers: int, folder: Path) -> Path:
    """The folder of a tiny random backbone of the architecture of another one.

    Args:
        name: the other one: a short name, a hub id, or a folder. Nothing is fetched.
        layers: how many it has, if it is not known that the other one has fewer.
        folder: where the backbone's folder is to be.

    Raises:
        BackboneError: the architecture cannot be told from the name, or compose does not know it.
    """
    known = _known_config(name)
    architecture = known.model_type if known is not None else architecture_of(name)
    family = FAMILIES.get(architecture) if architecture in TABLES else None
    if family is None:
        raise BackboneError(
            f"the backbone '{name}' is of the architecture '{architecture}', of which nothing tiny can be made",
            hint=f"--set backbone=NAME, of the architectures {', '.join(one for one in FAMILIES if one in TABLES)}",
        )
    vocabulary = [*family.special, *WORDS]
    counts = {key: min(layers, getattr(known, key, None) or layers) for key in family.layers}
    sizes = {**family.sizes, **counts, "vocab_size": len(vocabulary)}
    digest = hashlib.sha256(json.dumps([sizes, family.special, family.single, family.pair]).encode()).hexdigest()
    place = folder / f"{architecture}-{digest[:8]}"
    if not place.exists():
        model = random_backbone(architecture, sizes)
        model.config.update(dict(family.settings))
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temporary:
            made = Path(temporary) / place.name
            model.backbone.save_pretrained(made)  # type: ignore[operator]
            _tokenizer(family, vocabulary).save_pretrained(made)
            _move(made, place)
    return place


def architecture_of(name: str) -> str:
    """The architecture that the name of a backbone says: the longest of transformers' that stands in it.

    Raises:
        BackboneError: it says none.

    >>> architecture_of("FacebookAI/roberta-base"), architecture_of("openai-community/gpt2")
    ('roberta', 'gpt2')
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    last = name.rstrip("/").rsplit("/", 1)[-1].lower()
    found = [
        one for one in (*CONFIG_MAPPING_NAMES, *ALSO) if re.search(rf"(?<![a-z0-9]){re.escape(one)}(?![a-z0-9])", last)
    ]
    if not found:
        raise BackboneError(
            Problem(
                f"which architecture the backbone '{name}' has is not known here",
                why="it is not in the cache of the hub, and its name says no architecture",
                hint="--set backbone=NAME, a folder or a name that says it, such as bert-base-uncased",
            )
        )
    longest = max(found, key=len)
    return ALSO.get(longest, longest)


def _known_config(name: str) -> Any:
    """The configuration of a backbone that is on this machine; None if it is not."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(locate_backbone(name), local_files_only=True)
    except (OSError, ValueError, KeyError):
        return None


def _tokenizer(family: Family, vocabulary: list[str]) -> Any:
    """A tokenizer whose tokens are words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = {f"{use}_token": token for token, uses in family.special.items() for use in uses}
    ids = {token: place for place, token in enumerate(vocabulary)}
    rust = Tokenizer(models.WordLevel(ids, unk_token=names["unk_token"]))
    rust.normalizer = normalizers.Lowercase()
    rust.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = [(token, ids[token]) for token in family.special if token in f"{family.single} {family.pair}"]
    rust.post_processor = processors.TemplateProcessing(single=family.single, pair=family.pair, special_tokens=marks)
    inputs = ["input_ids", *(["token_type_ids"] if family.segments else []), "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=rust, model_max_length=LONGEST, model_input_names=inputs, **names)


def _move(made: Path, place: Path) -> None:
    """Moves a folder to its place, unless another process was faster, whose is the same."""
    try:
        os.replace(made, place)
    except OSError:
        if not place.exists():
            raise
