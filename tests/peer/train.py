"""AdapterHub's side of a training, run by its own interpreter: an adapter and its head learn, and answer.

A job is a folder with `job.json` (backbone, rows, steps, settings) and AdapterHub's own files of the adapter and the
head as they are before training. `answers.json` comes beside them. It imports nothing of compose.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import nn

NAME = "peer"
IGNORED = -100
TEST_ROWS = 32
"""Rows that are answered at a time."""

Rows = list[dict[str, list[int]]]


class Kind(NamedTuple):
    """What a kind of head learns and answers.

    Args:
        label: the label of a row, from what is right, the ids of labels and the word of each token.
        answer: what the logits of a row say, from the names of labels, the word of each token and how many words.
    """

    label: Callable[[Any, Mapping[str, int], Sequence[int | None]], Any]
    answer: Callable[[torch.Tensor, Sequence[str], Sequence[int | None], int], Any]


def first_pieces(words: Sequence[int | None]) -> dict[int, int]:
    """The place of each word's first token."""
    found: dict[int, int] = {}
    for place, word in enumerate(words):
        if word is not None:
            found.setdefault(word, place)
    return found


def token_labels(tags: Sequence[str], ids: Mapping[str, int], words: Sequence[int | None]) -> list[int]:
    """Tags of words on their first tokens; no other token is counted."""
    labels = [IGNORED] * len(words)
    for word, place in first_pieces(words).items():
        labels[place] = ids[tags[word]]
    return labels


def word_tags(logits: torch.Tensor, names: Sequence[str], words: Sequence[int | None], count: int) -> list[str | None]:
    """The tag of each word, that of its first token; None of a word that was cut off."""
    places = first_pieces(words)
    best = logits.argmax(-1).tolist()
    return [names[best[places[word]]] if word in places else None for word in range(count)]


KINDS: Mapping[str, Kind] = {
    "classification": Kind(
        label=lambda target, ids, words: ids[target],
        answer=lambda logits, names, words, count: names[int(logits.argmax())],
    ),
    "tagging": Kind(label=token_labels, answer=word_tags),
}


class Training:
    """A job under way.

    Args:
        folder: of the job.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.job = json.loads((folder / "job.json").read_text("utf-8"))
        self.head = json.loads((folder / "files" / "head_config.json").read_text("utf-8"))["config"]
        self.kind = KINDS[self.head["head_type"]]
        ids = self.head["label2id"]
        self.ids = {str(name): int(number) for name, number in ids.items()}
        self.names = sorted(self.ids, key=self.ids.__getitem__)
        torch.manual_seed(self.job["seed"])
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(self.job["backbone"])
        self.model = self._model()

    def run(self) -> dict[str, Any]:
        """Trains and answers; gives what `answers.json` holds."""
        train, words = self._encoded(self.job["train"])
        for row, example, own in zip(train, self.job["train"], words, strict=True):
            row["labels"] = self.kind.label(example["target"], self.ids, own)
        self.model.train_adapter(NAME)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        start = time.perf_counter()
        losses = self._train(train, trained)
        seconds = time.perf_counter() - start
        return {
            "answers": self._answers(),
            "losses": [sum(steps) / len(steps) for steps in losses],
            "step_losses": losses,
            "seconds": seconds,
            "trained_parameters": sum(parameter.numel() for parameter in trained),
            "threads": torch.get_num_threads(),
        }

    def _model(self) -> Any:
        adapters = importlib.import_module("adapters")
        config = transformers.AutoConfig.from_pretrained(self.job["backbone"])
        if not self.job["dropout"]:
            for name in [name for name, value in config.to_dict().items() if "drop" in name and value]:
                setattr(config, name, 0.0)
        model = adapters.AutoAdapterModel.from_pretrained(self.job["backbone"], config=config)
        files = self.folder / "files"
        if self.job["start"] == "compose":
            model.load_adapter(str(files), load_as=NAME, use_safetensors=True, set_active=True)
        else:
            config = json.loads((files / "adapter_config.json").read_text("utf-8"))["config"]
            model.add_adapter(NAME, config=adapters.AdapterConfig.load(config))
            model.add_prediction_head_from_config(NAME, dict(self.head))
        return model

    def _encoded(self, examples: Sequence[Mapping[str, Any]]) -> tuple[Rows, list[list[int | None]]]:
        """Inputs as rows, and the word of each token."""
        rows, words = [], []
        for example in examples:
            given, split = example["input"], example["words"]
            texts = given if isinstance(given, list) and not split else [given]
            found = self.tokenizer(
                *texts, is_split_into_words=split, truncation=True, max_length=self.job["max_length"]
            )
            words.append(found.word_ids())
            rows.append(dict(found))
        return rows, words

    def _train(self, rows: Rows, trained: Sequence[nn.Parameter]) -> list[list[float]]:
        """The steps; gives their losses, epoch by epoch."""
        settings, epochs = self.job["settings"], self.job["steps"]
        total = sum(map(len, epochs))
        rising = max(1, round(total * settings["warmup"]))
        matrices = [parameter for parameter in trained if parameter.dim() > 1]
        others = [parameter for parameter in trained if parameter.dim() <= 1]
        groups = [
            {"params": matrices, "weight_decay": settings["weight_decay"]},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=settings["learning_rate"])
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: (step + 1) / rising if step < rising else (total - step) / max(1, total - rising),
        )
        self.model.train()
        losses = []
        for steps in epochs:
            found = []
            for places in steps:
                loss = self.model(**self._batch([rows[place] for place in places])).loss
                loss.backward()
                nn.utils.clip_grad_norm_(trained, settings["max_norm"])
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                found.append(float(loss))
            losses.append(found)
        return losses

    def _batch(self, rows: Rows) -> dict[str, torch.Tensor]:
        """Rows padded to one length."""
        batch = dict(
            self.tokenizer.pad(
                [{name: value for name, value in row.items() if name != "labels"} for row in rows],
                return_tensors="pt",
            )
        )
        if "labels" in rows[0]:
            width = batch["input_ids"].shape[1]
            labels: list[Any] = [row["labels"] for row in rows]
            if isinstance(labels[0], list):
                labels = [[*label, *[IGNORED] * (width - len(label))] for label in labels]
            batch["labels"] = torch.tensor(labels)
        return batch

    def _answers(self) -> list[Any]:
        """What it answers to the test rows."""
        rows, words = self._encoded(self.job["test"])
        self.model.eval()
        answers: list[Any] = [None] * len(rows)
        order = sorted(range(len(rows)), key=lambda place: len(rows[place]["input_ids"]))
        with torch.no_grad():
            for start in range(0, len(order), TEST_ROWS):
                places = order[start : start + TEST_ROWS]
                logits = self.model(**self._batch([rows[place] for place in places])).logits
                for place, row in zip(places, logits, strict=True):
                    count = len(self.job["test"][place]["input"])
                    answers[place] = self.kind.answer(row, self.names, words[place], count)
        return answers


def versions() -> dict[str, str]:
    """Of what it runs on."""
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in ("adapters", "transformers", "torch")
    }


def main(folders: Sequence[str]) -> None:
    """Does each job of some folders; a file of answers is written whole, or not at all."""
    for folder in map(Path, folders):
        digest = hashlib.sha256((folder / "job.json").read_bytes()).hexdigest()
        found = {"job": digest, "versions": versions(), **Training(folder).run()}
        partial = folder / "answers.json.partial"
        partial.write_text(json.dumps(found), "utf-8")
        os.replace(partial, folder / "answers.json")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main(sys.argv[1:])
