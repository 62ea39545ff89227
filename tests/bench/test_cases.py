"""The table of cases: each contestant runs, and costs the FLOPs that it should."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from compose.bench import peer
from compose.bench.case import SIZES, TINY_ROWS, Case, Contestant
from compose.bench.cases import CASES, find
from compose.bench.loop import Memory, _flops
from compose.bench.setups.models import expression_of, our_model
from compose.bench.texts import bundled_texts
from compose.bench.worker import SETUPS
from compose.bench.workers import PEER
from compose.errors import ConfigError

OURS = [
    pytest.param(
        case,
        one,
        # what is for a GPU is compiled here as `optimize` is, and takes its time
        marks=pytest.mark.skipif(case.device == "cuda" and not torch.cuda.is_available(), reason="there is no GPU"),
    )
    for case in CASES
    for one in case.contestants
    if not one.peer
]
FACTS = {"seconds", "memory", "bound"}


def told_of(case: Case, one: Contestant, size: str = "tiny", texts: str = "") -> dict[str, Any]:
    return case.told(one, size, threads=1, device="cpu", texts=texts)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("texts") / "texts.json"
    path.write_text(json.dumps(bundled_texts(40)), "utf-8")
    return str(path)


def ids(value: object) -> str:
    return value.name if isinstance(value, Case | Contestant) else ""


def test_names_are_unique_and_targets_are_of_contestants() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    for case in CASES:
        names = [one.name for one in case.contestants]
        assert len(set(names)) == len(names), case.name
        for target in case.targets:
            assert target.of in names and target.against in ("", *names), (case.name, target)
            assert target.beyond in ("", *names) and target.adapters >= 1, (case.name, target)


def test_every_contestant_can_be_set_up() -> None:
    for case in CASES:
        for one in case.contestants:
            assert one.setup in (peer.SETUPS if one.peer else SETUPS), (case.name, one.name)


def test_unknown_cases_are_told_with_the_nearest_first() -> None:
    assert find(["parallel", "fuse-inference", "parallel"]) == tuple(
        next(case for case in CASES if case.name == name) for name in ("parallel", "fuse-inference")
    )
    assert find([]) == CASES
    with pytest.raises(ConfigError) as caught:
        find(["fuse-infrence", "parallel", "nothing"])
    first, second = caught.value.problems
    assert "legal: 'fuse-inference'" in first.render() and second.got == "nothing"


@pytest.mark.parametrize(("case", "one"), OURS, ids=ids)
@pytest.mark.filterwarnings("ignore::compose.runtime.precision.SlowPrecisionWarning")
def test_contestants_run_and_cost_what_explain_says(case: Case, one: Contestant, texts: str) -> None:
    told = told_of(case, one, texts=texts)
    work = SETUPS[one.setup](told, told["attention"])
    own = work.call()
    assert own is None or (len(own) == 1 and own[0] > 0)
    if "explained" in work.facts:
        counted = _flops(SETUPS[one.setup](told, "eager"), told)
        assert work.facts["explained"] == pytest.approx(counted, rel=0.01)
        assert sum(work.facts["flops_by_rows"].values()) == work.facts["explained"]
    if case.training:
        assert work.facts["trained"] > 0
    wanted = {target.metric for target in case.targets if target.of == one.name} - {"seconds", "memory", "bound"}
    assert wanted <= set(work.facts)


def test_the_trunk_cache_leaves_only_what_is_above_the_trunk() -> None:
    for name, share in (("drop-training", 0.7), ("aggregation-training", 0.4)):
        cached, not_cached = counted(name, "ours"), counted(name, "ours, no cache")
        assert 0 < cached < share * not_cached


def test_pruned_neurons_leave_their_share_of_the_flops() -> None:
    (case,) = find(["pruned-neurons"])
    told = [told_of(case, one) for one in case.contestants[:2]]
    quarter, whole = (SETUPS[one["setup"]](one, one["attention"]).facts["FLOPs of the adapter"] for one in told)
    assert quarter == pytest.approx(whole / 4, rel=0.01)
    assert counted("pruned-neurons", "plain") < counted("pruned-neurons", "ours")


def counted(name: str, contestant: str) -> int:
    (case,) = find([name])
    one = next(one for one in case.contestants if one.name == contestant)
    told = told_of(case, one)
    return _flops(SETUPS[one.setup](told, "eager"), told)


def test_the_bounds_that_flops_set() -> None:
    plain = counted("fuse-inference", "plain")
    eight = counted("fuse-inference", "ours")
    costs = [counted("fuse-scaling", f"ours, {n}") for n in (2, 4, 8, 16)]
    assert plain < costs[0] < costs[1] < costs[2] == eight < costs[3]
    assert (costs[3] - costs[2]) == 4 * (costs[1] - costs[0])  # each further adapter costs the same
    full, dropped = counted("parallel", "ours"), counted("parallel-drop", "ours")
    assert plain < dropped < 0.75 * full < 8 * plain
    assert counted("parallel", "plain, 8 times the rows") == 8 * plain
    ten, one = counted("shared-heads", "ours"), counted("shared-heads", "ours, one head")
    assert ten - one == 9 * 2 * TINY_ROWS * SIZES["tiny"]["hidden_size"] * 3
    assert counted("single-training", "ours") < counted("single-training", "plain")


FLOPS = {
    ("fuse-inference", "ours"): 200_832_749_568,
    ("fuse-scaling", "ours, 16"): 222_878_011_392,
    ("parallel", "ours"): 1_340_508_241_920,
    ("parallel-drop", "ours"): 707_537_436_672,
    ("shared-heads", "ours"): 180_599_758_848,
    ("shared-heads", "ours, one head"): 180_599_427_072,
}
"""Of the main cases at the size of BERT-base, so that a regression shows without a clock."""


@pytest.mark.parametrize(("name", "contestant"), FLOPS)
def test_flops_at_the_size_of_bert_base(name: str, contestant: str) -> None:
    (case,) = find([name])
    told = told_of(case, next(one for one in case.contestants if one.name == contestant), "base")
    with torch.device("meta"):
        model = our_model({**told, "device": "meta"}, "eager")
        plan = model.plan(expression_of(model, {**told, "device": "meta"}))
    found = plan.explain(rows=told["rows"], tokens=told["tokens"])
    assert found.plain.flops == 178_787_450_880
    assert found.flops == FLOPS[name, contestant]


def test_memory_is_what_is_held_above_the_loaded_model() -> None:
    memory = Memory("cpu")
    memory.start()
    held = bytearray(64 << 20)
    held[::4096] = b"x" * len(held[::4096])
    assert memory.how in ("VmHWM", "ru_maxrss") and memory.peak() > 48 << 20
    del held
    if memory.how == "VmHWM":
        memory.start()
        assert memory.peak() < 48 << 20


def test_the_peers_worker_stands_alone() -> None:
    """It imports nothing of ours, and runs from its path under an interpreter that ignores its surroundings."""
    for path in (PEER, PEER.with_name("loop.py")):
        tree = ast.parse(path.read_text("utf-8"))
        names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        tops = {name.split(".")[0] for name in names}
        assert tops <= {*sys.stdlib_module_names, "torch", "transformers"}
    command = [sys.executable, "-I", str(PEER)]
    order = '{"do": "nothing that there is"}\n'
    done = subprocess.run(command, input=order, capture_output=True, text=True, timeout=120, cwd=Path(PEER.anchor))
    assert done.returncode == 0 and '"error"' in done.stdout
