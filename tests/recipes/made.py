"""A small experiment on a tiny backbone of its own and made data: seconds to run."""

from __future__ import annotations

import json
from pathlib import Path

from tests.heads.texts import bert, tokenizer

EXPERIMENT = """\
recipe: 1
name: made
description: Letters and towns.
seed: 3
backbone: {name: BACKBONE}
data:
  letter: {kind: jsonl, train: rows.jsonl, test: rows.jsonl, label: letter}
  town: {kind: jsonl, train: rows.jsonl, test: rows.jsonl, entities: towns}
adapters:
  letter: {method: seq_bn, reduction_factor: 2}
  town: {method: seq_bn, reduction_factor: 4}
heads:
  letter: {kind: classification, pooling: mean}
  town: {kind: tagging}
fusions:
  letter: {expression: 'Fuse("letter", "town")'}
train:
  - {name: both, expression: 'Parallel("letter", "town")', epochs: 2, learning_rate: 1e-2, batch_size: 8}
evaluate:
  expressions:
    composed: Parallel("letter", "town")
    fused: Parallel(Fuse("letter", "town", name="letter"), "town")
  drop_curve: {expression: 'Parallel("letter", "town")', first: [0, 1]}
  fusion_attention: true
"""


def rows() -> list[dict[str, object]]:
    """Texts whose first letter decides a label and whose length another one, half of them with a town."""
    texts = [f"{letter} {middle}new york{end}" for letter in "abcd" for middle in ("", "d ") for end in ("", " e")]
    texts += [f"{letter} {other}" for letter in "abcd" for other in "fgh"]
    return [
        {
            "text": text,
            "letter": "first" if text[0] in "ab" else "second",
            "length": "long" if len(text) > 5 else "short",
            "towns": [{"start": text.index("new"), "end": text.index("new") + 8, "type": "town"}]
            if "new" in text
            else [],
        }
        for text in texts
    ]


def write_experiment(folder: Path) -> Path:
    """Writes backbone, data and recipe into a folder; gives the recipe's file."""
    bert().save_pretrained(folder / "backbone")
    tokenizer().save_pretrained(folder / "backbone")
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows()), "utf-8")
    path = folder / "made.yaml"
    path.write_text(EXPERIMENT.replace("BACKBONE", str(folder / "backbone")), "utf-8")
    return path
