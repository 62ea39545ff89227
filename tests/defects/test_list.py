"""The list of AdapterHub's and PEFT's defects, by number, and that every one of them has a test in this folder.

A test says in its docstring which numbers it is for: `Case 3: ...`, `Cases 7 and P3: ...`. What of a number no test
here can show, since it is about something that is not there, `NOT_HERE` says.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ADAPTERHUB = {
    # silent wrong results
    "1": "a Parallel that is in use for a while runs every head on the rows of all branches",
    "2": "Average divides by the number of children twice",
    "3": "MultiTask gives wrong rows with bottlenecks",
    "4": "MultiTask runs the last head on all rows",
    "5": "of ReFT and prompts in Parallel or BatchSplit the first alone runs",
    "6": "in Parallel all branches get the first one's invertible part",
    "7": "in Parallel all branches of DoRA but the last are wrong",
    "8": "a fresh LoRA in a Stack turns the trained one off, or crashes",
    "9": "sequential and parallel bottlenecks in a BatchSplit, and prefixes of unequal lengths, disturb each other",
    "10": "a prompt that is loaded under another name stays random",
    "11": "the weight is another one after DoRA was merged and reset",
    "12": "on some models every layer reads the last one's LayerNorm",
    "13": "compositions that differ are equal, and none can be hashed",
    "14": "skipped layers are forgotten by the next activation and by files",
    # crashes
    "15": "generating with Parallel or BatchSplit on decoders, with a mask or beams",
    "16": "methods mixed in Parallel and BatchSplit, unlike bottlenecks in Fuse",
    "17": "labels by task in Parallel, and language models in Parallel",
    "18": "heads of unlike sizes, and tagging in a BatchSplit",
    "19": "calls as documented: a Fuse of Stacks, merging by weights, MTL-LoRA with a full matrix",
    "20": "files of compositions lose a fusion's name and weights that are not normalised",
    "21": "prefixes cannot be saved: their tensors are registered twice",
    # size and hygiene
    "22": "VeRA trains and stores square matrices",
    "23": "LoReFT stores a square matrix for every unit",
    "24": "a file holds whatever has a name that begins like the one asked for",
    "25": "a model's head is written into every adapter's file, and replaces the target's",
    "26": "the value matrix of a fusion is not exempt from weight decay",
    # further ones
    "F1": "a fusion's temperature falls in evaluation too, and is not saved",
    "F2": "a file does not tell DiReFT from NoReFT",
    "F3": "an adapter with missing weights is loaded without an error",
    "F4": "a Fuse without weights fails in the forward pass",
    "F5": "empty blocks and None as a child are accepted, and act otherwise or fail later",
    "F6": "whether a model can run a block is checked for the outermost one alone",
    "F7": "a batch of another size than the sizes say",
    "F8": "names with dots",
    "F9": "Adapter+ needs a package that nobody mentions",
    "F10": "what a block cannot do with a method at a site is passed over",
    "F11": "docstrings say something else than the code does",
    "F12": "DoRA on GPT-2's fused map",
    "F13": "a Stack inside Parallel or Fuse prepares its input twice",
}
PEFT = {
    "P1": "rows of a mixed batch get the active adapter's output, but with LoRA",
    "P2": "no mixed batches in training",
    "P3": "no mixed batches with DoRA",
    "P4": "all tasks have one classifier",
    "P5": "several active adapters only by an inner call",
    "P6": "mixed methods are refused, or cannot be saved",
    "P7": "adapters with heads cannot be merged by weights",
    "P8": "DistilBERT has no defaults",
    "P9": "names of targets match more maps than they mean",
    "P10": "a config with entries twice over",
    "P11": "missing weights are a warning, names are traps, a second adapter does not train, one runs after another",
}
DEFECTS = ADAPTERHUB | PEFT

NOT_HERE = {
    "15": "generating and beams themselves: there is no `generate`; tested are caches, padding and a loop of steps",
    "P1": "LoHa: there is no such method",
    "P11": "a backbone's module whose name contains 'weight': none of the architectures has one",
}
"""What a number is about beyond what its tests show."""

NUMBER = r"[FP]?\d+"
NUMBERS = re.compile(rf"(?:Cases? )?({NUMBER}(?:(?:, | and ){NUMBER})*)[:.]")


def written() -> Iterator[tuple[str, str]]:
    """All tests of this folder with their docstrings."""
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path.name == Path(__file__).name:
            continue
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield f"{path.name}: {node.name}", ast.get_docstring(node) or ""


def numbers(docstring: str) -> list[str]:
    """The numbers that a docstring begins with."""
    found = NUMBERS.match(docstring)
    return re.findall(NUMBER, found[1]) if found else []


def test_every_number_has_a_test() -> None:
    tested = {number for _, docstring in written() for number in numbers(docstring)}
    assert tested == DEFECTS.keys()
    assert NOT_HERE.keys() <= DEFECTS.keys()


def test_the_list_is_whole() -> None:
    assert list(ADAPTERHUB) == [*map(str, range(1, 27)), *(f"F{number}" for number in range(1, 14))]
    assert list(PEFT) == [f"P{number}" for number in range(1, 12)]


def test_every_test_says_what_it_is_for() -> None:
    silent = [
        name for name, docstring in written() if not numbers(docstring) and not docstring.startswith("All cases:")
    ]
    assert not silent
