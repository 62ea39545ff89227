"""What every worker does: set a contestant up, then run one round each time that it is told to.

Orders come in and answers go out as JSON lines, on what were stdin and stdout. This file needs the standard
library and torch alone, so that the peer's interpreter can run it by its path.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

import torch

CLEAR_HIGH_WATER = "5"
"""What /proc/self/clear_refs takes to begin the high-water mark anew; proc(5)."""


@dataclass
class Work:
    """A contestant that is set up.

    Args:
        call: what is timed; it may time itself and give the seconds.
        facts: what else is to be known of it.
        after: what is left to do when the time has been taken, as letting go of gradients.
        counted: what FLOPs are counted of; `call` by default.
    """

    call: Callable[[], Any]
    facts: dict[str, Any] = field(default_factory=dict)
    after: Callable[[], Any] | None = None
    counted: Callable[[], Any] | None = None


SetUp = Callable[[Mapping[str, Any], str], Work]
"""Sets a contestant up, from what is to be run and the attention implementation."""


def serve(setups: Mapping[str, SetUp]) -> None:
    """Does what it is told until there is nothing more to read.

    Args:
        setups: how to set contestants up, by name.
    """
    answers = _take_stdout()
    work, memory, told = None, Memory("cpu"), {}
    for line in sys.stdin:
        order = json.loads(line)
        try:
            if order["do"] == "set up":
                told = order
                _prepare(told)
                work = setups[told["setup"]](told, told["attention"])
                memory = Memory(told["device"])
                answer: dict[str, Any] = {"facts": work.facts, "loaded": memory.loaded, "memory_by": memory.how}
                if told["device"] != "cpu":
                    answer["gpu"] = torch.cuda.get_device_name()
            elif order["do"] == "round":
                assert work is not None
                answer = _round(work, memory, order["calls"], told["device"])
            else:
                work = None
                answer = {"flops": _flops(setups[told["setup"]](told, "eager"), told)}
        except KeyboardInterrupt:
            return
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _take_stdout() -> TextIO:
    """What was stdout, for answers alone: whatever else is printed goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _prepare(told: Mapping[str, Any]) -> None:
    torch.set_num_threads(told["threads"])
    torch.manual_seed(0)


def _round(work: Work, memory: Memory, calls: int, device: str) -> dict[str, Any]:
    seconds: list[float] = []
    memory.start()
    for _ in range(calls):
        _synchronize(device)
        start = time.perf_counter()
        own = work.call()
        _synchronize(device)
        taken = time.perf_counter() - start
        seconds += own if isinstance(own, list) else [taken]
    peak = memory.peak()
    if work.after is not None:
        work.after()
    return {"seconds": seconds, "peak": peak, "facts": work.facts}


def _synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def _flops(work: Work, told: Mapping[str, Any]) -> int:
    """FLOPs of a call; what is multiplied out once was so before."""
    from torch.utils.flop_counter import FlopCounterMode

    call = work.counted or work.call
    if not told["training"] or work.counted is not None:
        call()
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


class Memory:
    """The peak of a process above what it held when the model was loaded, in bytes.

    On a GPU what torch has allocated there; else the process's resident memory. `loaded` is what it held, and
    `how` says by what the peak is read.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        if device != "cpu":
            torch.cuda.synchronize()
            self.how, self.loaded = "torch.cuda.max_memory_allocated", int(torch.cuda.memory_allocated())
            return
        _give_back()
        self.loaded = resident()
        self.how = "VmHWM" if self._clear() and _status("VmHWM") is not None else "ru_maxrss"

    def start(self) -> None:
        """Begins to look for the peak anew, where that can be done."""
        if self.device != "cpu":
            torch.cuda.reset_peak_memory_stats()
            return
        _give_back()
        if self.how == "VmHWM":
            self._clear()

    def peak(self) -> int:
        """The most that was held since `start`, less what the loaded model takes."""
        if self.device != "cpu":
            return int(torch.cuda.max_memory_allocated()) - self.loaded
        held = _status("VmHWM") if self.how == "VmHWM" else _largest()
        return max(0, (held or 0) - self.loaded)

    @staticmethod
    def _clear() -> bool:
        try:
            with open("/proc/self/clear_refs", "w") as file:
                file.write(CLEAR_HIGH_WATER)
        except OSError:
            return False
        return True


def _give_back() -> None:
    """Gives memory that is free within the process back to the system."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library than GNU's
        ctypes.CDLL(None).malloc_trim(0)


def resident() -> int:
    """Bytes of memory that the process holds; the most that it ever held where that is all that can be known."""
    return _status("VmRSS") or _largest()


def _status(key: str) -> int | None:
    """A line of /proc/self/status in bytes."""
    for name, value in _lines("/proc/self/status"):
        if name == key:
            return int(value.split()[0]) * 1024
    return None


def _lines(path: str) -> Iterator[tuple[str, str]]:
    with contextlib.suppress(OSError), open(path, encoding="utf-8") as file:
        for line in file:
            name, _, value = line.partition(":")
            yield name.strip(), value.strip()


def _largest() -> int:
    """The process's largest size ever; macOS counts it in bytes, others in KiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
