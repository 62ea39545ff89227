"""The trunk cache gives what the trunk gives, whatever became of what it keeps."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from compose import Drop, Parallel
from compose.errors import ConfigError, FileError, InputError
from compose.runtime.attach import attach
from compose.runtime.model import Model
from compose.runtime.runnable import RunnablePlan
from compose.train.segments import OwnFile, Segments
from compose.train.trunk_cache import TrunkCache
from tests import tiny

LAYERS = 4


def model_of(architecture: str = "bert") -> Model:
    model = tiny.model(architecture, LAYERS)
    for seed, (name, preset) in enumerate((("a", "seq_bn"), ("b", "double_seq_bn"))):
        tiny.randomize(model.add_adapter(name, preset), seed)
    return model


def batches() -> Iterator[dict[str, Tensor]]:
    whole = tiny.inputs(rows=5, padded=True)
    for rows in ([0, 1, 2], [3, 4], [4, 0], [2, 1, 3]):
        yield {name: tensor[rows] for name, tensor in whole.items()}


def agrees(cache: TrunkCache, plan: RunnablePlan, tolerance: float = 1e-9) -> None:
    for inputs in batches():
        with torch.no_grad():
            found = plan.states(**inputs, trunk_states=cache.states(plan, inputs)).last_hidden_state
            expected = plan.states(**inputs).last_hidden_state
        there = inputs["attention_mask"].bool()
        found, expected = (states.unflatten(0, (-1, len(there)))[:, there] for states in (found, expected))
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("memory", [0, 3000, 10**9])
@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_each_row_is_computed_once(architecture: str, memory: int) -> None:
    model = model_of(architecture)
    cache = TrunkCache(memory=memory)
    agrees(cache, model.plan(Parallel(Drop("a", first=2), Drop("b", first=3))))
    assert (cache.computed, cache.found) == (5, 5)


def test_a_folder_serves_the_next_run(tmp_path: Path) -> None:
    plan = model_of().plan(Drop("a", first=2))
    agrees(TrunkCache(tmp_path), plan)
    again = TrunkCache(tmp_path)
    agrees(again, plan)
    assert (again.computed, again.found) == (0, 10)


def test_layers_and_weights_have_states_of_their_own(tmp_path: Path) -> None:
    model = model_of()
    agrees(TrunkCache(tmp_path), model.plan(Drop("a", first=2)))
    deeper = TrunkCache(tmp_path)
    agrees(deeper, model.plan(Drop("a", first=3)))
    assert deeper.computed == 5
    with torch.no_grad():
        next(model.backbone.encoder.layer[0].attention.output.LayerNorm.parameters()).add_(0.5)
    changed = TrunkCache(tmp_path)
    agrees(changed, model.plan(Drop("a", first=2)))
    assert changed.computed == 5


def test_a_weight_that_changes_meanwhile_is_seen() -> None:
    model, cache = model_of(), TrunkCache()
    plan = model.plan(Drop("a", first=2))
    agrees(cache, plan)
    with torch.no_grad():
        model.backbone.encoder.layer[1].output.dense.weight.mul_(1.5)
    agrees(cache, plan)
    assert cache.computed == 10


def test_weights_that_are_replaced_are_seen() -> None:
    """The memory of a weight that is gone is given to the next one, which has as many versions."""
    model, cache = model_of(), TrunkCache()
    plan, inputs = model.plan(Drop("a", first=2)), tiny.inputs()
    outputs = [layer.output for layer in model.backbone.encoder.layer[:2]]

    def weight() -> Tensor:
        return torch.randn(32, 64, dtype=torch.float64) * 0.3

    def parameter() -> None:
        outputs[0].dense.weight = torch.nn.Parameter(weight(), requires_grad=False)

    def module() -> None:
        outputs[1].dense = torch.nn.Linear(64, 32, dtype=torch.float64).requires_grad_(False)

    def data() -> None:
        outputs[1].dense.weight.data = weight()

    for change in (parameter, module, data) * 5:
        change()
        with torch.no_grad():
            found = plan.states(**inputs, trunk_states=cache.states(plan, inputs)).last_hidden_state
            expected = plan.states(**inputs).last_hidden_state
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert cache.computed == 15 * len(inputs["input_ids"])
    assert [len(digests) for digests in cache._digests.values()] == [1]


@pytest.mark.parametrize("memory", [0, 10**9])
def test_states_of_weights_that_have_changed_are_forgotten(memory: int) -> None:
    model, cache = model_of(), TrunkCache(memory=memory)
    twin = copy.deepcopy(model)
    held = []
    for _ in range(3):
        agrees(cache, model.plan(Drop("a", first=2)))
        held.append((cache._bytes, len(cache._held), len(cache._files)))
        with torch.no_grad():
            next(model.backbone.parameters()).add_(0.01)
    assert len(set(held)) == 1
    model = copy.deepcopy(twin)
    agrees(cache, twin.plan(Drop("a", first=2)))
    agrees(cache, model.plan(Drop("a", first=2)))
    with torch.no_grad():
        next(model.backbone.parameters()).add_(0.01)
    agrees(cache, model.plan(Drop("a", first=2)))
    before = cache.computed
    agrees(cache, twin.plan(Drop("a", first=2)))  # whose weights are what they were
    assert cache.computed == before


def test_what_lies_above_does_not_matter(tmp_path: Path) -> None:
    model = model_of()
    agrees(TrunkCache(tmp_path), model.plan(Drop("a", first=2)))
    with torch.no_grad():
        model.backbone.encoder.layer[2].output.dense.weight.mul_(1.5)
    again = TrunkCache(tmp_path)
    agrees(again, model.plan(Drop("b", first=2)))
    assert again.computed == 0


@pytest.mark.parametrize("place", [0, 8, 40, 60, 70, -100])
def test_what_is_damaged_is_computed_anew(tmp_path: Path, place: int) -> None:
    plan = model_of().plan(Drop("a", first=2))
    agrees(TrunkCache(tmp_path), plan)
    segment = next(tmp_path.rglob("*.segment"))
    content = bytearray(segment.read_bytes())
    content[place] ^= 0xFF
    segment.write_bytes(content)
    again = TrunkCache(tmp_path)
    agrees(again, plan)
    assert 1 <= again.computed <= 5


@pytest.mark.parametrize("keep", [0, 10, 64, 1000])
def test_what_was_cut_off_is_computed_anew(tmp_path: Path, keep: int) -> None:
    plan = model_of().plan(Drop("a", first=2))
    agrees(TrunkCache(tmp_path), plan)
    segment = next(tmp_path.rglob("*.segment"))
    segment.write_bytes(segment.read_bytes()[:keep])
    again = TrunkCache(tmp_path)
    agrees(again, plan)
    assert again.computed >= 4


def test_what_is_damaged_or_cut_off_later_is_computed_anew(tmp_path: Path) -> None:
    plan = model_of().plan(Drop("a", first=2))
    cache = TrunkCache(tmp_path, memory=0)
    agrees(cache, plan)
    segment = next(tmp_path.rglob("*.segment"))
    content = bytearray(segment.read_bytes())
    content[70] ^= 0xFF
    segment.write_bytes(content)
    agrees(cache, plan)
    assert cache.computed == 6
    for other in tmp_path.rglob("*.segment"):
        with other.open("r+b") as file:
            file.truncate(100)
    agrees(cache, plan)
    assert cache.computed == 11


def test_other_things_in_the_folder_are_passed_over(tmp_path: Path) -> None:
    plan = model_of().plan(Drop("a", first=2))
    agrees(TrunkCache(tmp_path), plan)
    (space,) = tmp_path.iterdir()
    (space / "folder.segment").mkdir()
    (space / "link.segment").symlink_to(tmp_path / "nowhere")
    again = TrunkCache(tmp_path)
    agrees(again, plan)
    assert again.computed == 0
    shutil.rmtree(space)
    with pytest.warns(UserWarning, match="cannot be written"):
        agrees(again, plan)  # by what is held in memory, and by computing the rest
    space.touch()
    with pytest.warns(UserWarning, match="cannot be written"):
        agrees(TrunkCache(tmp_path, memory=0), plan)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("kind", [Segments, OwnFile])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_processes_do_not_write_into_each_others_records(kind: type, tmp_path: Path) -> None:
    records = kind(tmp_path) if kind is Segments else kind()
    payloads = {bytes([number]) * 32: bytes([number]) * 300 for number in range(1, 5)}
    keys = list(payloads)
    records.append(keys[0], memoryview(payloads[keys[0]]))
    child = os.fork()
    mine = keys[1:3] if child else keys[3:]
    for key in mine:
        records.append(key, memoryview(payloads[key]))
    good = all(bytes(records.find(key) or b"") == payloads[key] for key in mine)
    if not child:
        os._exit(0 if good else 1)
    assert good and os.waitpid(child, 0)[1] == 0
    records.refresh()
    found = [key for key in keys if (records.find(key) or b"") == payloads[key]]
    assert found == (keys if kind is Segments else keys[:3])


def test_two_processes_share_a_folder(tmp_path: Path) -> None:
    plan = model_of().plan(Drop("a", first=2))
    mine = TrunkCache(tmp_path, memory=0)
    first = next(batches())
    mine.states(plan, first)
    code = (
        "import sys\nfrom pathlib import Path\nfrom compose import Drop\n"
        "from tests.train.test_trunk_cache import agrees, model_of\nfrom compose.train.trunk_cache import TrunkCache\n"
        "cache = TrunkCache(Path(sys.argv[1]))\nagrees(cache, model_of().plan(Drop('a', first=2)))\n"
        "print(cache.computed)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2", done.stderr
    agrees(mine, plan)
    assert mine.computed == 3


def test_a_copy_shares_states(tmp_path: Path) -> None:
    model = model_of()
    agrees(TrunkCache(tmp_path), model.plan(Drop("a", first=2)))
    again = TrunkCache(tmp_path)
    agrees(again, copy.deepcopy(model).plan(Drop("a", first=2)))
    assert again.computed == 0


def test_bf16_halves_the_room(tmp_path: Path) -> None:
    plan = model_of().plan(Drop("a", first=2))
    cache = TrunkCache(tmp_path, dtype="bf16")
    agrees(cache, plan, tolerance=0.05)
    size = sum(segment.stat().st_size for segment in tmp_path.rglob("*.segment"))
    tokens = int(tiny.inputs(rows=5, padded=True)["attention_mask"].sum())
    assert size <= tokens * plan.model.spec.hidden_size * 2 + 5 * 128


def test_positions_for_all_rows() -> None:
    model = model_of()
    plan, ids = model.plan(Drop("a", first=2)), tiny.inputs(rows=3)["input_ids"]
    inputs = {"input_ids": ids, "position_ids": torch.arange(ids.shape[1]).flip(0)[None]}
    found = plan.states(**inputs, trunk_states=TrunkCache().states(plan, inputs)).last_hidden_state
    torch.testing.assert_close(found, plan.states(**inputs).last_hidden_state, rtol=1e-9, atol=1e-9)


def test_masks_of_heads_and_tokens() -> None:
    """Each tells its own states, also where a row has fewer tokens than the backbone has heads, and in bf16."""
    model, cache = model_of(), TrunkCache()
    plan, ids = model.plan(Drop("a", first=2)), tiny.inputs(rows=2, tokens=3)["input_ids"]
    seen = torch.zeros(2, 4, 3, 3, dtype=torch.float64)
    other = seen.clone()
    other[:, 3, :, 1] = -1e4
    for mask in (seen, other):
        inputs = {"input_ids": ids, "attention_mask": mask}
        with torch.no_grad():
            found = plan.states(**inputs, trunk_states=cache.states(plan, inputs)).last_hidden_state
            expected = plan.states(**inputs).last_hidden_state
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert cache.computed == 4
    half = attach(tiny.backbone(dtype=torch.bfloat16))
    assert TrunkCache().states(half.plan(None), {"input_ids": ids, "attention_mask": seen.bfloat16()}).depth == 2


def test_states_of_all_layers_serve_tasks_that_need_the_last() -> None:
    """Where texts differ by task, a step asks for some of the tasks; a random Drop may leave nothing to aggregate."""
    model = model_of()
    tiny.randomize(model.add_adapter("layers", "layer_aggregation"), 5)
    model.add_head("layers", labels=2)
    model.add_head("t", labels=2)
    inputs = tiny.inputs(rows=3)
    plan, cache = model.plan(Parallel("layers", t=None)), TrunkCache()
    for tasks in (["t"], ["layers"], None):
        with torch.no_grad():
            found = plan(**inputs, tasks=tasks, trunk_states=cache.states(plan, inputs))
            expected = plan(**inputs, tasks=tasks)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.logits, other.logits, rtol=1e-9, atol=1e-9)
    drawn = model.plan(Drop("layers", first=(0, LAYERS)))
    model.train()
    for _ in range(12):
        drawn.states(**inputs, trunk_states=cache.states(drawn, inputs))
    assert (cache.computed, cache.found) == (3, 42)


def test_a_full_disk_costs_only_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(OwnFile, "append", fail)
    cache = TrunkCache(memory=0)
    with pytest.warns(UserWarning, match="No space left"):
        agrees(cache, model_of().plan(Drop("a", first=2)))
    assert cache.computed == 10


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no cache dtype 'bf17'"):
        TrunkCache(dtype="bf17")
    with pytest.raises(ConfigError, match="memory=-1"):
        TrunkCache(memory=-1)
    with pytest.raises(ConfigError, match=r"torch\.int8") as both:
        TrunkCache(dtype=torch.int8, memory="2GB")  # type: ignore[arg-type]
    assert "memory='2GB'" in str(both.value)
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot be made"):
        TrunkCache(tmp_path / "file")
    for folder in (b"states", 3, ""):
        with pytest.raises(ConfigError, match="the path of a folder is needed"):
            TrunkCache(folder)  # type: ignore[arg-type]
    cache, plan = TrunkCache(), model_of().plan(Drop("a", first=2))
    ids = tiny.inputs()["input_ids"]
    ones = torch.ones_like(ids)
    for inputs, what in (
        (ids, "is a Tensor, but names"),
        ({"input_ids": ids, "attention_mask": ones[:, :5]}, "attention_mask is"),
        ({"input_ids": ids, "attention_mask": ones[:1]}, "attention_mask is"),
        ({"input_ids": ids, "attention_mask": ones.float()}, r"torch\.float32, but whole numbers"),
        ({"input_ids": ids, "labels": ids[:, 0]}, "no input 'labels'"),
        ({"input_ids": ids, "use_cache": torch.tensor(False)}, r"use_cache is \[\], but"),
        ({"input_ids": ids, "position_ids": torch.arange(7)}, r"position_ids is \[7\], but"),
        ({"input_ids": ids.float()}, "ids are whole numbers"),
        ({"input_ids": ids[:, :0]}, "at least one row"),
        ({"pixel_values": torch.zeros(1, 3, 8, 8)}, "needs input_ids"),
        ({"input_ids": ids[:0]}, "at least one row"),
        ({"input_ids": ids, "output_hidden_states": True}, "is a bool"),
    ):
        with pytest.raises(InputError, match=what):
            cache.states(plan, inputs)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="OptimizedPlan, but a trunk cache takes a plan"):
        cache.states(plan.optimize(backend="eager"), {"input_ids": ids})  # type: ignore[arg-type]
    assert cache.states(plan, {"input_ids": ids, "attention_mask": None}).depth == 2
    with pytest.raises(InputError, match="no trunk"):
        TrunkCache().states(model_of().plan("a"), tiny.inputs())
    with pytest.raises(InputError, match="cannot be entered"):
        TrunkCache().states(model_of("t5").plan(None), tiny.inputs("t5"))
