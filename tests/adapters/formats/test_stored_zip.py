"""Archives in the one form that there is: every zip program reads them, the reader nothing else."""

from __future__ import annotations

import io
import zipfile
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.formats.stored_zip import (
    Member,
    NotSound,
    Reader,
    digest_of,
    directory_of,
    header_of,
    pieces_of,
)

NAMES = st.text("abz/._-0", min_size=1, max_size=20)
MIB = 1 << 20


def archive(members: dict[str, bytes]) -> bytes:
    """These members, written."""
    raw, rows = b"", []
    for name, data in members.items():
        rows.append(Member(name, len(data), zlib.crc32(data)))
        raw += header_of(rows[-1]) + data
    return raw + directory_of(rows)


def read(raw: bytes, members: dict[str, bytes]) -> dict[str, bytes]:
    """What the reader finds, told names and sizes."""
    reader, found = Reader(io.BytesIO(raw)), {}
    first, *others = members
    found[first] = reader.first(first, 1 << 20)
    for name in others:
        sink = io.BytesIO()
        digest = reader.take(name, len(members[name]), sink)
        assert digest.size == len(sink.getvalue())
        found[name] = sink.getvalue()
    reader.finish()
    return found


@given(st.dictionaries(NAMES, st.binary(max_size=40), min_size=1, max_size=4))
def test_python_s_own_reader_and_ours_find_what_was_written(members: dict[str, bytes]) -> None:
    """Bytes, names and order; plain files of a fixed time."""
    raw = archive(members)
    with zipfile.ZipFile(io.BytesIO(raw)) as theirs:
        assert theirs.testzip() is None
        assert {name: theirs.read(name) for name in theirs.namelist()} == members
        for entry in theirs.infolist():
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
            assert entry.external_attr >> 16 == 0o100644
    assert read(raw, members) == members
    assert list(read(raw, members)) == list(members)


@given(st.dictionaries(NAMES, st.binary(max_size=9), min_size=1, max_size=3), st.data())
def test_no_other_bytes_are_read(members: dict[str, bytes], data: st.DataObject) -> None:
    """One bit changed, one byte less, one more."""
    raw = archive(members)
    at = data.draw(st.integers(0, len(raw) - 1))
    changed = bytearray(raw)
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    for other in (bytes(changed), raw[:at], raw + b"\0", b"\0" + raw):
        with pytest.raises(NotSound):
            read(other, members)


def test_a_size_beyond_what_is_there_allocates_nothing() -> None:
    """A member of a terabyte of which ten bytes came."""
    raw = header_of(Member("a", 1 << 40, 0)) + b"x" * 10
    with pytest.raises(NotSound, match="claims 1099511627776 bytes, at most 100 are read"):
        Reader(io.BytesIO(raw)).first("a", 100)
    whole = header_of(Member("m", 1, zlib.crc32(b"x"))) + b"x" + raw
    reader = Reader(io.BytesIO(whole))
    reader.first("m", 1)
    with pytest.raises(NotSound, match="it ends within a"):
        reader.take("a", 1 << 40, io.BytesIO())


def test_sizes_beyond_four_gigabytes_have_their_place() -> None:
    """Offsets and sizes are 64 bits wide."""
    big = [Member("a", 5 << 30, 7), Member("b", 1, 8)]
    end = directory_of(big)
    offset = len(header_of(big[0])) + big[0].size
    assert offset.to_bytes(8, "little") in end
    assert (offset + len(header_of(big[1])) + 1).to_bytes(8, "little") in end


def test_bytes_are_read_in_pieces_and_only_as_many_as_were_asked_for() -> None:
    """A megabyte at a time, and what follows stays in the stream."""
    stream = io.BytesIO(b"x" * (2 * MIB + 5))
    assert [len(piece) for piece in pieces_of(stream, MIB + 3)] == [MIB, 3]
    assert stream.tell() == MIB + 3
    assert [len(piece) for piece in pieces_of(stream)] == [MIB, 2]
    assert digest_of(()).sha256.startswith("e3b0c442")
