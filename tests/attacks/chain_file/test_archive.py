"""The archive: every byte of it has its place."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.errors import AdapterFileError
from adapters.formats.chain_manifest import MANIFEST
from adapters.formats.stored_zip import Member, directory_of, header_of
from tests.adapters.store.rig import opened as store_at
from tests.adapters.store.rig import unsynced
from tests.chain_files import Json, Parts, Target, assembled, opened
from tests.faults.invariants import check

MIB = 1 << 20


def test_the_sound_file_is_opened(sound: bytes, parts: Parts, tmp_path: Path) -> None:
    """So that the refusals have no other reason; also when it was taken apart and made anew."""
    for index, data in enumerate((sound, parts.changed(lambda _: None), parts.with_members({}))):
        with unsynced(), store_at(tmp_path / str(index)) as rig:
            assert opened(rig, data).head == 5
            check(rig.store)


@given(st.integers(0, 1 << 20), st.integers(0, 7))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_flipped_bit_anywhere_is_refused(
    sound: bytes, target: Target, at: int, bit: int
) -> None:
    """In headers, times, the directory, the manifest, an adapter, a row: all the same."""
    raw = bytearray(sound)
    raw[at % len(raw)] ^= 1 << bit
    target.refusal(bytes(raw))


@pytest.mark.slow
def test_one_changed_byte_in_any_field_is_refused(sound: bytes, target: Target) -> None:
    """One byte in three, more than one of every number in the headers."""
    for at in range(0, len(sound), 3):
        raw = bytearray(sound)
        raw[at] ^= 0x20
        with pytest.raises(AdapterFileError):
            opened(target.rig, bytes(raw))
    check(target.rig.store)


@given(st.integers(0, 1 << 20))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_that_was_cut_short_is_refused(sound: bytes, target: Target, length: int) -> None:
    """At any length."""
    assert "is not a sound chain file" in target.refusal(sound[: length % len(sound)])


@pytest.mark.parametrize("around", [(b"", b"x"), (b"x", b""), (b"", b"PK\x05\x06" + bytes(18))])
def test_nothing_may_stand_before_or_behind(
    sound: bytes, target: Target, around: tuple[bytes, bytes]
) -> None:
    """What one reader skips another runs."""
    target.refusal(around[0] + sound + around[1])


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_another_program_packed_is_refused(parts: Parts, target: Target, kind: int) -> None:
    """The same members, even uncompressed: one form, and a message that says so."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        archive.writestr(MANIFEST, json.dumps(parts.manifest))
        for name, data in parts.members.items():
            archive.writestr(name, data)
    assert "packed by another program" in target.refusal(buffer.getvalue())


def test_a_bomb_is_never_unpacked(target: Target) -> None:
    """What is compressed is refused by its first header."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, bytes(32 * MIB))
    assert len(buffer.getvalue()) < MIB
    assert "manifest.json does not begin where it must" in target.refusal(buffer.getvalue())


@pytest.mark.parametrize("size", [17 * MIB, 1 << 63])
def test_a_manifest_that_claims_to_be_huge_is_refused(target: Target, size: int) -> None:
    """Before anything is read."""
    assert "at most 16777216 are read" in target.refusal(header_of(Member(MANIFEST, size, 0)))


@pytest.mark.parametrize("size", [-1, 1, 1 << 49, 1 << 60, "1", 1.0, True, None])
def test_a_member_that_lies_about_its_size_is_refused(
    parts: Parts, target: Target, size: object
) -> None:
    """More, less, negative, no number."""
    target.refusal(parts.changed(lambda manifest: manifest["members"][0].update(size=size)))


@pytest.mark.parametrize(
    "name",
    [
        "../evil", "/etc/passwd", "revisions/../../evil", "C:\\evil", "revisions/evil", "",
        "datasets/" + "a" * 64 + ".jsonl", "x" * 60_000,
    ],
)  # fmt: skip
def test_a_member_of_another_name_is_refused(parts: Parts, target: Target, name: str) -> None:
    """Paths that climb, and names that the lineage does not give: instead of one, or besides."""
    members = dict(parts.members)
    members[name] = members.pop(parts.named(".jsonl"))

    def rename(manifest: Json) -> None:
        manifest["members"][-1]["name"] = name

    def extend(manifest: Json) -> None:
        manifest["members"].append({**manifest["members"][-1], "name": name})

    with_name = Parts(parts.manifest, members)
    for data in (with_name.changed(rename), with_name.changed(extend), parts.changed(extend)):
        assert "a member is called" in target.refusal(data)
    assert not (target.rig.directory.parent / "evil").exists()


def test_a_member_that_is_missing_there_twice_or_out_of_order_is_refused(
    parts: Parts, target: Target
) -> None:
    """Names, number and order follow from the lineage."""
    rows = parts.manifest["members"]
    for changed in (rows[:-1], rows[1:], [*rows, rows[-1]], [rows[0], *rows], rows[::-1], []):
        target.refusal(
            assembled(json.dumps({**parts.manifest, "members": changed}).encode(), parts.members)
        )
    for name in parts.members:
        rest = {each: data for each, data in parts.members.items() if each != name}
        target.refusal(assembled(json.dumps(parts.manifest).encode(), rest))


def test_a_link_is_refused(sound: bytes, target: Target) -> None:
    """The archive's directory says what kind of file a member is: a plain one."""
    link, plain = struct.pack("<L", 0o120777 << 16), struct.pack("<L", 0o100644 << 16)
    at = sound.rindex(plain)
    assert "its directory is not" in target.refusal(sound[:at] + link + sound[at + 4 :])


def test_a_directory_that_lists_something_else_is_refused(parts: Parts, target: Target) -> None:
    """Another member, one fewer, one twice."""
    manifest = json.dumps(parts.manifest).encode()
    whole = assembled(manifest, parts.members)
    rows = [Member(MANIFEST, len(manifest), 0), Member("evil", 1, 0)]
    end = whole.index(b"PK\x01\x02")
    assert "its directory is not" in target.refusal(whole[:end] + directory_of(rows))


def test_bytes_that_differ_from_their_hash_are_refused(parts: Parts, target: Target) -> None:
    """With a CRC-32 that agrees: SHA-256 is what counts."""
    for name, data in parts.members.items():
        changed = bytes([data[0] ^ 1]) + data[1:]
        members = {**parts.members, name: changed}
        said = target.refusal(assembled(json.dumps(parts.manifest).encode(), members))
        assert f"{name} has another SHA-256" in said
