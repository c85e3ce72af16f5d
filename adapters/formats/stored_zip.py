"""Zip archives of which every byte follows from their members' names, sizes and contents.

Nothing is compressed, every header is in its zip64 form, every time is 1980, and members follow
each other without a gap. So there is one archive for given members, and reading it needs no trust:
each byte is compared with the only one that can stand there. A name twice, a path that climbs, a
link, a member that grows or shares its bytes, anything before, between or behind: none of them can
be written in this form. Any zip program unpacks it; format: PKWARE's APPNOTE 6.3.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

_VERSION = 45  # zip64
_DATE = (1 << 5) | 1  # the first day of 1980
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF  # "see the zip64 field"
_ZIP64 = 1
_UNIX = 3 << 8
_MODE = 0o100644 << 16
_LOCAL, _LOCAL_EXTRA = struct.Struct("<4s5H3L2H"), struct.Struct("<2H2Q")
_CENTRAL, _CENTRAL_EXTRA = struct.Struct("<4s6H3L5H2L"), struct.Struct("<2H3Q")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_END = struct.Struct("<4s4H2LH")
_PIECE = 1 << 20


class NotSound(Exception):
    """An archive is not in this form; ``str()`` says where."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive: its name (ASCII), its size in bytes and its CRC-32."""

    name: str
    size: int
    crc: int


@dataclass(frozen=True, slots=True)
class Digest:
    """What a pass over some bytes tells: how many they are, CRC-32, and SHA-256 in hex."""

    size: int
    crc: int
    sha256: str


def digest_of(pieces: Iterable[bytes], sink: BinaryIO | None = None) -> Digest:
    """One pass over ``pieces``, which are written to ``sink`` meanwhile."""
    sha256, crc, size = hashlib.sha256(), 0, 0
    for piece in pieces:
        sha256.update(piece)
        crc = zlib.crc32(piece, crc)
        size += len(piece)
        if sink is not None:
            sink.write(piece)
    return Digest(size, crc, sha256.hexdigest())


def pieces_of(stream: BinaryIO, most: int | None = None) -> Iterator[bytes]:
    """What is left in ``stream``, at most ``most`` bytes of it, in pieces of a megabyte."""
    left = most
    while piece := stream.read(_PIECE if left is None else min(_PIECE, left)):
        yield piece
        if left is not None:
            left -= len(piece)


def header_of(member: Member) -> bytes:
    """What stands before a member's bytes."""
    name = member.name.encode("ascii")
    head = _LOCAL.pack(
        b"PK\x03\x04", _VERSION, 0, 0, 0, _DATE, member.crc, _FULL32, _FULL32,
        len(name), _LOCAL_EXTRA.size,
    )  # fmt: skip
    extra = _LOCAL_EXTRA.pack(_ZIP64, _LOCAL_EXTRA.size - 4, member.size, member.size)
    return head + name + extra


def directory_of(members: Sequence[Member]) -> bytes:
    """What stands behind the last member's bytes, to the end of the archive."""
    parts, offset = [], 0
    for member in members:
        name = member.name.encode("ascii")
        head = _CENTRAL.pack(
            b"PK\x01\x02", _UNIX | _VERSION, _VERSION, 0, 0, 0, _DATE, member.crc,
            _FULL32, _FULL32, len(name), _CENTRAL_EXTRA.size, 0, 0, 0, _MODE, _FULL32,
        )  # fmt: skip
        extra = _CENTRAL_EXTRA.pack(
            _ZIP64, _CENTRAL_EXTRA.size - 4, member.size, member.size, offset
        )
        parts.append(head + name + extra)
        offset += len(header_of(member)) + member.size
    directory, count = b"".join(parts), len(members)
    end64 = _END64.pack(
        b"PK\x06\x06", _END64.size - 12, _UNIX | _VERSION, _VERSION, 0, 0,
        count, count, len(directory), offset,
    )  # fmt: skip
    locator = _LOCATOR.pack(b"PK\x06\x07", 0, offset + len(directory), 1)
    end = _END.pack(b"PK\x05\x06", 0, 0, _FULL16, _FULL16, _FULL32, _FULL32, 0)
    return directory + end64 + locator + end


class Reader:
    """Reads an archive from its first byte to its last, member by member.

    Every method raises NotSound where a byte is not what it must be.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._members: list[Member] = []

    def first(self, name: str, most: int) -> bytes:
        """The bytes of the first member, at most ``most``."""
        member = self._header(name, None)
        if member.size > most:
            raise NotSound(f"its {name} claims {member.size} bytes, at most {most} are read")
        data = self._stream.read(member.size)
        self._check(member, digest_of((data,)))
        return data

    def take(self, name: str, size: int, sink: BinaryIO) -> Digest:
        """Copy the next member, which must have this name and size, to ``sink``."""
        member = self._header(name, size)
        digest = digest_of(pieces_of(self._stream, size), sink)
        self._check(member, digest)
        return digest

    def finish(self) -> None:
        """Nothing but the directory of what was read may follow."""
        expected = directory_of(self._members)
        if self._stream.read(len(expected) + 1) != expected:
            raise NotSound("its directory is not that of its members")

    def _header(self, name: str, size: int | None) -> Member:
        """The next member, whose header tells the CRC alone, and the first one's its size."""
        length = len(header_of(Member(name, 0, 0)))
        raw = self._stream.read(length)
        if len(raw) == length:
            crc = _LOCAL.unpack_from(raw)[6]
            told = _LOCAL_EXTRA.unpack_from(raw, length - _LOCAL_EXTRA.size)[2]
            member = Member(name, told if size is None else size, crc)
            if raw == header_of(member):
                self._members.append(member)
                return member
        raise NotSound(f"{name} does not begin where it must")

    def _check(self, member: Member, digest: Digest) -> None:
        if digest.size < member.size:
            raise NotSound(f"it ends within {member.name}")
        if digest.crc != member.crc:
            raise NotSound(f"the bytes of {member.name} are not those that were packed")
