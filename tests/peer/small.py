"""A recipe that the peer can do, on a tiny backbone without dropout: a label and tags of words."""

from __future__ import annotations

import json
from pathlib import Path

from tests.recipes.made import rows, write_experiment

RECIPE = """\
recipe: 1
name: same
seeds: [3]
backbone: {name: BACKBONE}
data:
  letter: {kind: jsonl, train: words.jsonl, test: words.jsonl, label: letter}
  town: {kind: jsonl, train: words.jsonl, test: words.jsonl, tokens: tokens, tags: tags}
adapters:
  letter: {method: seq_bn, reduction_factor: 2}
  town: {method: seq_bn, reduction_factor: 4}
heads:
  letter: {kind: classification, pooling: first, layers: 2}
  town: {kind: tagging}
train:
  - {name: letter, expression: letter, epochs: 2, batch_size: 8, learning_rate: 1e-2, weight_decay: 0.1}
  - {name: town, expression: town, epochs: 3, batch_size: 8, learning_rate: 1e-2}
evaluate:
  expressions: {adapters: 'Parallel("letter", "town")'}
report: {plots: false}
"""
TAGS = {"new": "B-town", "york": "I-town"}


def write_small(folder: Path) -> Path:
    """Writes backbone, data and recipe into a folder; gives the recipe's file."""
    write_experiment(folder)
    backbone = folder / "backbone"
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    _change(backbone / "config.json", dropout)
    _change(backbone / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})  # as older ones call it
    made = [
        {**row, "tokens": str(row["text"]).split(), "tags": [TAGS.get(word, "O") for word in str(row["text"]).split()]}
        for row in rows()
    ]
    (folder / "words.jsonl").write_text("\n".join(map(json.dumps, made)), "utf-8")
    path = folder / "same.yaml"
    path.write_text(RECIPE.replace("BACKBONE", str(backbone)), "utf-8")
    return path


def _change(path: Path, values: dict[str, object]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | values), "utf-8")
