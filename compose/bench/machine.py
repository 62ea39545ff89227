"""What a measurement was made on, and with what."""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from compose import __version__

PACKAGES = ("torch", "transformers")
TELLING = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""What a processor can do that the figures depend on."""


def machine() -> dict[str, Any]:
    """Processor, cores and memory."""
    info = _processor()
    flags = info.get("flags", "").split()
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "instructions": [name for name in TELLING if name in flags],
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Of ours and of what it stands on."""
    found = {name: metadata.version(name) for name in PACKAGES}
    return {"compose": __version__, "python": platform.python_version(), **found}


def now() -> str:
    """The date and time, with the offset from universal time."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _processor() -> dict[str, str]:
    """What Linux says of the first processor; nothing elsewhere."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text("utf-8").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
