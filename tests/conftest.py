"""What holds for all tests: no network, one thread per worker, the number of hypothesis' draws."""

from __future__ import annotations

import gc
import inspect
import ipaddress
import os
import shutil
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Read by libraries when they are first imported, and inherited by the processes that tests start.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "Agg"
if "PYTEST_XDIST_WORKER" in os.environ:  # one worker per core: more threads would only fight for it
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
# What tests write is synced to disk thousands of times; in memory that takes no time.
MEMORY, ROOM = Path("/dev/shm"), 4 << 30
if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

GOLDEN = "golden"
MARKS = {"passed": "x", "not covered": "o", "failed": "F", "": "."}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--draws", type=int, default=100, help="examples that each property test draws")
    parser.addoption("--regenerate", action="store_true", help="write golden texts and generated tables anew")


def pytest_configure(config: pytest.Config) -> None:
    # A first example that loads a model is slow without being wrong, so neither deadline nor health check.
    settings.register_profile(
        "compose",
        max_examples=config.getoption("--draws"),
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    settings.load_profile("compose")


@pytest.fixture(scope="module", autouse=True)
def what_is_there_stays() -> None:
    """What is imported by now lives to the end, so collecting garbage need not look at it, which takes its time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def golden_table(request: pytest.FixtureRequest) -> Iterator[dict[tuple[str, str], str]]:
    """Results by (architecture, case), for the table at the end: `passed`, `failed` or `not covered`.

    They travel with the test's report, since with several workers the table is printed by another process.
    """
    table: dict[tuple[str, str], str] = {}
    yield table
    request.node.user_properties += [(GOLDEN, (*case, result)) for case, result in table.items()]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    rows = {
        (case, architecture): result
        for report in reports
        for key, value in getattr(report, "user_properties", ())
        if key == GOLDEN
        for architecture, case, result in [value]
    }
    if not rows:
        return
    architectures = sorted({architecture for _, architecture in rows})
    counts = Counter(rows.values())
    terminalreporter.section("golden cases")
    terminalreporter.write_line("  ".join((f"{'x passed, o not covered, F failed':<34}", *architectures)))
    for case in sorted({case for case, _ in rows}):
        marks = [MARKS[rows.get((case, name), "")].center(len(name)) for name in architectures]
        terminalreporter.write_line("  ".join((f"{case:<34}", *marks)).rstrip())
    terminalreporter.write_line(", ".join(f"{counts[result]} {result}" for result in MARKS if result))


def t5_calls_functions() -> bool:
    """Whether T5's attention calls transformers' attention functions, without which no prefix acts in it."""
    from transformers.models.t5 import modeling_t5

    return hasattr(modeling_t5, "ALL_ATTENTION_FUNCTIONS")


def vit_takes_masks() -> bool:
    """Whether ViT takes an attention mask, without which rows of one batch must be equally long."""
    from transformers import ViTModel

    return "attention_mask" in inspect.signature(ViTModel.forward).parameters


NEWER: dict[str, Callable[[], bool]] = {
    "T5Attention does not call transformers' attention functions": t5_calls_functions,
    "ViTModel takes no attention mask": vit_takes_masks,
}
"""What older versions of transformers cannot do, by what we say of it, and whether the one at hand can."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Skips what the transformers at hand cannot do and is refused for that very reason."""
    try:
        return (yield)
    except Exception as error:
        for said, can in NEWER.items():
            if type(error).__name__ == "BackboneError" and said in str(error) and not can():
                pytest.skip(f"an older transformers: {said}")
        raise


class NetworkError(AssertionError):
    """A test that asks the network for something."""


def is_loopback(host: object) -> bool:
    """Whether a host, by name or number, is this machine."""
    if host in ("localhost", "", None):
        return True
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Connections and look-ups of names end in an error, but for those within this machine."""
    connect, getaddrinfo = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not is_loopback(address[0]):
            raise NetworkError(f"a test connects to {address[0]}")
        connect(self, address)

    def guarded_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_loopback(host.decode() if isinstance(host, bytes) else host):
            raise NetworkError(f"a test looks up {host}")
        return getaddrinfo(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
        yield
