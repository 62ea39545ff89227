"""The most memory that a run has held."""

from __future__ import annotations

import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

FORGET = Path("/proc/self/clear_refs")
"""Linux forgets the peak where 5 is written here, so that runs of one process each have their own."""

STATUS = Path("/proc/self/status")


def forget_peak() -> None:
    """Begins to measure anew, where the system can."""
    with suppress(OSError):
        FORGET.write_text("5")


def peak_memory() -> int:
    """The most memory that the process has held, since `forget_peak` where the system can forget; in MiB."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text("ascii"))
    except OSError:
        found = None
    if found:
        return int(found[1]) // 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1 << 20) if sys.platform == "darwin" else peak // 1024
