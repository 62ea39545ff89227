"""Records in append-only files that several processes share: written by one each, read by all.

A process appends to a segment of its own, so that no lock is needed. A record is complete or it is not there:
what a process left unfinished is shorter than its header says, and what is damaged does not have its checksum.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

MAGIC = b"compose1"
HEADER = struct.Struct("<8s32sQ16s")
"""Magic, key, bytes of the payload, checksum of key and payload: 64 bytes, so that payloads stay aligned."""

KEY_BYTES = 32


class _Place(NamedTuple):
    segment: Path
    offset: int
    size: int
    checksum: bytes


class Segments:
    """A folder of segments.

    Args:
        folder: where they are; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._own = folder / f"{uuid.uuid4().hex}.segment"
        self._places: dict[bytes, _Place] = {}
        self._sound: set[bytes] = set()
        self._scanned: dict[Path, int] = {}
        self._maps: dict[Path, mmap.mmap] = {}
        self.refresh()

    def append(self, key: bytes, payload: memoryview) -> None:
        """Adds a record.

        Raises:
            OSError: it cannot be written, as when the disk is full.
        """
        checksum = _checksum(key, payload)
        padding = -payload.nbytes % HEADER.size
        with self._own.open("ab", buffering=0) as file:
            offset = file.tell()
            header = HEADER.pack(MAGIC, key, payload.nbytes, checksum)
            for part in (memoryview(header), payload, memoryview(bytes(padding))):
                _write(file.write, part)
        self._places[key] = _Place(self._own, offset + HEADER.size, payload.nbytes, checksum)
        self._scanned[self._own] = offset + HEADER.size + payload.nbytes + padding

    def find(self, key: bytes) -> memoryview | None:
        """A record's payload, None if there is none or it is damaged."""
        place = self._places.get(key)
        if place is None:
            return None
        end = place.offset + place.size
        mapped = self._mapped(place.segment, end)
        if mapped is None:
            del self._places[key]
            return None
        payload = memoryview(mapped)[place.offset : end]
        if key not in self._sound:
            if _checksum(key, payload) != place.checksum:
                del self._places[key]
                return None
            self._sound.add(key)
        return payload

    def refresh(self) -> None:
        """Looks for records that other processes have written."""
        for segment in self.folder.glob("*.segment"):
            try:
                if segment.stat().st_size > self._scanned.get(segment, 0):
                    self._scan(segment)
            except FileNotFoundError:  # taken away meanwhile
                continue

    def _scan(self, segment: Path) -> None:
        size, offset = segment.stat().st_size, self._scanned.get(segment, 0)
        with segment.open("rb") as file:
            while offset + HEADER.size <= size:
                file.seek(offset)
                magic, key, payload, checksum = HEADER.unpack(file.read(HEADER.size))
                begin = offset + HEADER.size
                if magic != MAGIC or begin + payload > size:
                    break  # unfinished, or damaged: nothing after it can be found
                self._places.setdefault(key, _Place(segment, begin, payload, checksum))
                offset = begin + payload + (-payload % HEADER.size)
        self._scanned[segment] = offset

    def _mapped(self, segment: Path, end: int) -> mmap.mmap | None:
        """The segment in memory, at least up to `end`; None if it has become shorter."""
        mapped = self._maps.get(segment)
        if mapped is None or len(mapped) < end:
            try:
                with segment.open("rb") as file:
                    if os.fstat(file.fileno()).st_size < end:
                        return None
                    # Private and writable: torch warns of memory that is not writable.
                    mapped = self._maps[segment] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            except OSError:
                return None
        return mapped


def _checksum(key: bytes, payload: memoryview) -> bytes:
    found = hashlib.blake2b(key, digest_size=16)
    found.update(payload)
    return found.digest()


def _write(write: Callable[[memoryview], int | None], part: memoryview) -> None:
    while part.nbytes:
        part = part[write(part) or 0 :]
