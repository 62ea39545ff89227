"""Records in append-only files: those of a folder, which processes share, and those of one process alone.

In a folder each process appends to a segment of its own, so that no lock is needed. A record is complete or it is
not there: what a process left unfinished is shorter than its header says, and what is damaged does not have its
checksum. Others may change or cut off a segment at any time, so records are read into memory of their own and
checked each time; a mapped file that becomes shorter would end the process.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import uuid
import weakref
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

MAGIC = b"compose2"
HEADER = struct.Struct("<8s32sQ8xI")
"""Magic, key, bytes of the payload, and the payload's CRC-32; the header's own CRC-32 follows it."""

BEGINS = HEADER.size + 4
"""Bytes from a record's begin to its payload: 64, so that payloads stay aligned."""

KEY_BYTES = 32


class _Place(NamedTuple):
    segment: Path
    offset: int
    size: int
    checksum: int


class Segments:
    """A folder of segments.

    Args:
        folder: where they are; made if it is not there.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._name = uuid.uuid4().hex
        self._places: dict[bytes, _Place] = {}
        self._scanned: dict[Path, int] = {}
        self.refresh()

    def append(self, key: bytes, payload: memoryview) -> None:
        """Adds a record.

        Raises:
            OSError: it cannot be written, as when the disk is full.
        """
        own = self.folder / f"{self._name}-{os.getpid()}.segment"  # forked processes do not share one
        checksum = zlib.crc32(payload)
        header = HEADER.pack(MAGIC, key, payload.nbytes, checksum)
        padding = -payload.nbytes % BEGINS
        with own.open("ab", buffering=0) as file:
            offset = file.tell()
            for part in (header, struct.pack("<I", zlib.crc32(header)), payload, bytes(padding)):
                _write(file.write, memoryview(part))
        self._places[key] = _Place(own, offset + BEGINS, payload.nbytes, checksum)
        self._scanned[own] = offset + BEGINS + payload.nbytes + padding

    def find(self, key: bytes) -> bytearray | None:
        """A record's payload, None if there is none or it is damaged."""
        place = self._places.get(key)
        if place is None:
            return None
        payload = bytearray(place.size)
        try:
            with place.segment.open("rb", buffering=0) as file:
                file.seek(place.offset)
                read = file.readinto(payload)
        except OSError:  # taken away, or not ours to read
            read = 0
        if read != place.size or zlib.crc32(payload) != place.checksum:
            del self._places[key]
            return None
        return payload

    def refresh(self) -> None:
        """Looks for records that other processes have written; passes over what cannot be read."""
        for segment in self.folder.glob("*.segment"):
            try:
                if segment.is_file() and segment.stat().st_size > self._scanned.get(segment, 0):
                    self._scan(segment)
            except OSError:  # taken away meanwhile, or not ours to read
                continue

    def _scan(self, segment: Path) -> None:
        size, offset = segment.stat().st_size, self._scanned.get(segment, 0)
        with segment.open("rb") as file:
            while offset + BEGINS <= size:
                file.seek(offset)
                header, own = file.read(HEADER.size), file.read(4)
                if own != struct.pack("<I", zlib.crc32(header)):
                    break  # unfinished, or damaged: nothing after it can be found
                magic, key, payload, checksum = HEADER.unpack(header)
                begin = offset + BEGINS
                if magic != MAGIC or begin + payload > size:
                    break
                self._places.setdefault(key, _Place(segment, begin, payload, checksum))
                offset = begin + payload + (-payload % BEGINS)
        self._scanned[segment] = offset


class OwnFile:
    """Records in a file without a name: no other process can reach it, so it is mapped, and gone with this object."""

    def __init__(self) -> None:
        self._map: mmap.mmap | None = None
        self._start()

    def append(self, key: bytes, payload: memoryview) -> None:
        """Adds a record.

        Raises:
            OSError: it cannot be written, as when the disk is full.
        """
        if self._process != os.getpid():  # forked: what both wrote would lie on top of each other
            self._start()
        offset = self._file.seek(0, os.SEEK_END)
        for part in (payload, bytes(-payload.nbytes % BEGINS)):
            _write(self._file.write, memoryview(part))
        self._places[key] = (offset, payload.nbytes)

    def find(self, key: bytes) -> memoryview | None:
        """A record's payload, None if there is none."""
        if key not in self._places:
            return None
        offset, size = self._places[key]
        if self._map is None or len(self._map) < offset + size:
            # Private and writable: torch warns of memory that is not writable.
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY)
        return memoryview(self._map)[offset : offset + size]

    def refresh(self) -> None:
        """Nobody else writes here."""

    def _start(self) -> None:
        self._process = os.getpid()
        self._file = tempfile.TemporaryFile(prefix="compose-trunk-", buffering=0)  # noqa: SIM115 - closed with this object
        weakref.finalize(self, self._file.close)
        self._places: dict[bytes, tuple[int, int]] = {}
        self._map = None


def _write(write: Callable[[memoryview], int | None], part: memoryview) -> None:
    while part.nbytes:
        part = part[write(part) or 0 :]
