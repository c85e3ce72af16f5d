"""Chain files: every byte has its place, every claim is compared before anything is stored."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.errors import AdapterError, AdapterFileError, AdapterMismatch
from adapters.formats.chain_manifest import MANIFEST
from adapters.formats.stored_zip import Member, directory_of, header_of
from adapters.shape import BaseShape, Target
from tests.adapters.store.rig import OTHER_BASE, Rig
from tests.adapters.store.rig import opened as store_at
from tests.adapters.store.rig import unsynced
from tests.chain_files import TOY, Json, Parts, assembled, grown, opened, packed
from tests.faults.invariants import check, picture

MIB = 1 << 20


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A chain file that has everything: a deleted revision, a failure, a label, two data sets."""
    with unsynced(), store_at(tmp_path_factory.mktemp("packed") / "data") as rig:
        grown(rig)
        return packed(rig)


@pytest.fixture(scope="module")
def parts(sound: bytes, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """The sound file, to be made anew."""
    path = tmp_path_factory.mktemp("parts") / "a.chain"
    path.write_bytes(sound)
    return Parts.of(path)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Another machine, with a chain of its own."""
    with unsynced(), store_at(tmp_path_factory.mktemp("target") / "data") as rig:
        rig.grow("own", 77.0)
        yield rig


def refusal(
    rig: Rig, data: bytes, kind: type[AdapterError] = AdapterFileError, **changes: Any
) -> str:
    """Why a file is refused; whatever was there is there, and nothing else."""
    before = picture(rig.store)
    with pytest.raises(kind) as caught:
        opened(rig, data, **changes)
    check(rig.store)
    assert picture(rig.store) == before
    assert str(rig.directory) not in str(caught.value)
    return str(caught.value)


def test_the_sound_file_is_opened(sound: bytes, parts: Parts, tmp_path: Path) -> None:
    """So that the refusals below have no other reason; also when it was taken apart and made anew."""
    for index, data in enumerate((sound, parts.changed(lambda _: None), parts.with_members({}))):
        with unsynced(), store_at(tmp_path / str(index)) as rig:
            assert opened(rig, data).head == 5
            check(rig.store)


@given(st.integers(0, 1 << 20), st.integers(0, 7))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_flipped_bit_anywhere_is_refused(sound: bytes, target: Rig, at: int, bit: int) -> None:
    """In headers, times, the directory, the manifest, an adapter, a row: all the same."""
    raw = bytearray(sound)
    raw[at % len(raw)] ^= 1 << bit
    refusal(target, bytes(raw))


@pytest.mark.slow
def test_one_changed_byte_at_every_place_is_refused(sound: bytes, target: Rig) -> None:
    """Every one of them."""
    for at in range(len(sound)):
        raw = bytearray(sound)
        raw[at] ^= 0x20
        with pytest.raises(AdapterFileError):
            opened(target, bytes(raw))
    check(target.store)


@given(st.integers(0, 1 << 20))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_that_was_cut_short_is_refused(sound: bytes, target: Rig, length: int) -> None:
    """At any length."""
    assert "is not a sound chain file" in refusal(target, sound[: length % len(sound)])


@pytest.mark.parametrize("around", [(b"", b"x"), (b"x", b""), (b"", b"PK\x05\x06" + bytes(18))])
def test_nothing_may_stand_before_or_behind(
    sound: bytes, target: Rig, around: tuple[bytes, bytes]
) -> None:
    """What one reader skips another runs."""
    refusal(target, around[0] + sound + around[1])


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_another_program_packed_is_refused(parts: Parts, target: Rig, kind: int) -> None:
    """The same members, even uncompressed: one form, and a message that says so."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        archive.writestr(MANIFEST, json.dumps(parts.manifest))
        for name, data in parts.members.items():
            archive.writestr(name, data)
    assert "packed by another program" in refusal(target, buffer.getvalue())


def test_a_bomb_is_never_unpacked(target: Rig, resident_bytes: Callable[[], int]) -> None:
    """A megabyte that would become a gigabyte."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(MANIFEST, "w", force_zip64=True) as member,
    ):
        for _ in range(300):
            member.write(bytes(MIB))
    before = resident_bytes()
    refusal(target, buffer.getvalue())
    assert resident_bytes() - before < 32 * MIB


@pytest.mark.parametrize("size", [17 * MIB, 1 << 63])
def test_a_manifest_that_claims_to_be_huge_is_refused(target: Rig, size: int) -> None:
    """Before anything is read."""
    assert "at most 16777216 are read" in refusal(target, header_of(Member(MANIFEST, size, 0)))


@pytest.mark.parametrize("size", [-1, 1, 1 << 49, 1 << 60, "1", 1.0, True, None])
def test_a_member_that_lies_about_its_size_is_refused(
    parts: Parts, target: Rig, size: object
) -> None:
    """More, less, negative, no number."""
    refusal(target, parts.changed(lambda manifest: manifest["members"][0].update(size=size)))


@pytest.mark.parametrize(
    "name",
    [
        "../evil", "/etc/passwd", "revisions/../../evil", "C:\\evil", "revisions/evil", "",
        "datasets/" + "a" * 64 + ".jsonl", "x" * 70_000,
    ],
)  # fmt: skip
def test_a_member_of_another_name_is_refused(parts: Parts, target: Rig, name: str) -> None:
    """Paths that climb, and names that the lineage does not give: instead of one, or besides."""
    members = dict(parts.members)
    members[name] = members.pop(parts.named(".jsonl"))

    def rename(manifest: Json) -> None:
        manifest["members"][-1]["name"] = name

    def extend(manifest: Json) -> None:
        manifest["members"].append({**manifest["members"][-1], "name": name})

    with_name = Parts(parts.manifest, members)
    for data in (with_name.changed(rename), with_name.changed(extend), parts.changed(extend)):
        assert "a member is called" in refusal(target, data)
    assert not (target.directory.parent / "evil").exists()


def test_a_member_that_is_missing_there_twice_or_out_of_order_is_refused(
    parts: Parts, target: Rig
) -> None:
    """Names, number and order follow from the lineage."""
    rows = parts.manifest["members"]
    for changed in (rows[:-1], rows[1:], [*rows, rows[-1]], [rows[0], *rows], rows[::-1], []):
        data = parts.changed(lambda manifest, rows=changed: manifest.update(members=rows))
        refusal(target, data)
    for name in parts.members:
        rest = {each: data for each, data in parts.members.items() if each != name}
        refusal(target, assembled(json.dumps(parts.manifest).encode(), rest))


def test_a_link_is_refused(sound: bytes, target: Rig) -> None:
    """The archive's directory says what kind of file a member is: plain, or this is not its form."""
    link, plain = struct.pack("<L", 0o120777 << 16), struct.pack("<L", 0o100644 << 16)
    at = sound.rindex(plain)
    assert "its directory is not" in refusal(target, sound[:at] + link + sound[at + 4 :])


def test_a_directory_that_lists_something_else_is_refused(parts: Parts, target: Rig) -> None:
    """Another member, one fewer, one twice."""
    manifest = json.dumps(parts.manifest).encode()
    whole = assembled(manifest, parts.members)
    rows = [Member(MANIFEST, len(manifest), 0), Member("evil", 1, 0)]
    end = whole.index(b"PK\x01\x02")
    assert "its directory is not" in refusal(target, whole[:end] + directory_of(rows))


def test_bytes_that_differ_from_their_hash_are_refused(parts: Parts, target: Rig) -> None:
    """With a CRC-32 that agrees: SHA-256 is what counts."""
    for name, data in parts.members.items():
        changed = bytes([data[0] ^ 1]) + data[1:]
        members = {**parts.members, name: changed}
        said = refusal(target, assembled(json.dumps(parts.manifest).encode(), members))
        assert f"{name} has another SHA-256" in said


def test_an_adapter_that_is_not_what_its_id_says_is_refused(parts: Parts, target: Rig) -> None:
    """With hashes that agree: the id is computed anew, from scale and tensors."""
    name = parts.named("adapters.safetensors")
    data = bytearray(parts.members[name])
    data[-1] ^= 1
    assert "another adapter than its id" in refusal(target, parts.with_members({name: bytes(data)}))
    config = parts.named("adapter_config.json")
    other = parts.members[config].replace(b"2.0", b"3.0")
    assert "another adapter than its id" in refusal(target, parts.with_members({config: other}))
    swapped = [each for each in parts.members if each.endswith("adapters.safetensors")]
    both = {swapped[0]: parts.members[swapped[1]], swapped[1]: parts.members[swapped[0]]}
    assert "another adapter than its id" in refusal(target, parts.with_members(both))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a sound safetensors file"),
        (b"\x80\x04K\x01.", "not a sound safetensors file"),
        (struct.pack("<Q", 1 << 40), "claims a header"),
        (struct.pack("<Q", 2) + b"{}", "holds no tensor"),
    ],
)
def test_a_bad_adapter_is_refused(parts: Parts, target: Rig, data: bytes, reason: str) -> None:
    """By the reader that every adapter passes, and with the path in the file."""
    name = parts.named("adapters.safetensors")
    said = refusal(target, parts.with_members({name: data}))
    assert reason in said
    assert "unpacked/revisions/" in said


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"a": NaN}', b"{" * 9000, b'{"a":1,"a":1}'])
def test_a_revision_s_manifest_must_be_an_object(parts: Parts, target: Rig, data: bytes) -> None:
    """It goes into the store as it is."""
    name = parts.named("manifest.json")
    assert f"{name} " in refusal(target, parts.with_members({name: data}))
    big = b'{"a": "' + b"x" * MIB + b'"}'
    assert "at most 1048576 are read" in refusal(target, parts.with_members({name: big}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scale": 3.0}, "scale 3, not 2"),
        ({"rank": 2}, "has rank 1, the shape says 2"),
        ({"keys": ["mlp.gate_proj"]}, "is not among the shape's targets"),
    ],
)
def test_a_stage_s_shape_must_be_its_revision_s(
    parts: Parts, target: Rig, change: Json, reason: str
) -> None:
    """A next stage inherits it."""
    data = parts.changed(lambda manifest: manifest["stages"][0]["shape"].update(change))
    assert f"the shape of stage 1 is not that of its revision: {reason}" in refusal(target, data)


def test_a_chain_of_another_base_is_refused_with_both_named(parts: Parts, target: Rig) -> None:
    """By the fingerprint, and by its modules where the fingerprint lies."""

    def move(manifest: Json) -> None:
        manifest["base"] = {"fingerprint": OTHER_BASE, "model_type": "llama", "blocks": 32}
        for stage in manifest["stages"]:
            stage["base"] = OTHER_BASE

    said = refusal(target, parts.changed(move), AdapterMismatch)
    assert "(llama, 32 blocks, fingerprint cccccccccccc)" in said
    assert "(toy, 1 blocks, hidden size 2, fingerprint bbbbbbbbbbbb)" in said
    other = BaseShape({}, (Target("model.layers.0.mlp.up_proj", 0, 2, 4),), 4)
    said = refusal(target, parts.changed(lambda _: None), AdapterMismatch, base=other)
    assert "maps 2 to 4 features here, 2 to 3 in the adapter" in said
    assert opened is not None
    assert TOY.linears[0].out_features == 3


@pytest.mark.parametrize(
    ("member", "data", "reason"),
    [
        (0, b'{"text": "a"}\n{"text": "a"}\n', "has not"),
        (0, b"rows\n", "has not"),
    ],
)
def test_a_data_set_s_name_is_its_hash(
    parts: Parts, target: Rig, member: int, data: bytes, reason: str
) -> None:
    """Other rows under it are refused, with a manifest that agrees to them."""
    name = parts.named(".jsonl")
    again = Parts(json.loads(json.dumps(parts.manifest)), parts.members)
    again.manifest["datasets"][member]["nbytes"] = len(data)
    assert "not the rows that its name says" in refusal(target, again.with_members({name: data}))


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 2}, {"rows": -1}, {"nbytes": 1}, {"id": "f" * 64}, {"id": "../x"},
        {"name": "a\nb"}, {"name": "x" * 256}, {"created_at": -1.0}, {"created_at": 1e300}, {"x": 1},
    ],
)  # fmt: skip
def test_what_is_said_of_a_data_set_must_be_so(parts: Parts, target: Rig, change: Json) -> None:
    """Rows, bytes, which stage has it, what it is called."""
    refusal(target, parts.changed(lambda manifest: manifest["datasets"][0].update(change)))


LIES: list[tuple[str, Callable[[Json], object]]] = [
    ("no name", lambda m: m["chain"].update(name="../a")),
    ("another chain", lambda m: m["chain"].update(name="other")),
    ("the head is stage 2", lambda m: m["chain"].update(head=2)),
    ("the head is stage 9", lambda m: m["chain"].update(head=9)),
    ("int", lambda m: m["chain"].update(head=None)),
    ("int", lambda m: m["chain"].update(head=True)),
    ("the label old is on stage 3", lambda m: m["chain"].update(labels={"old": 3})),
    ("is no label", lambda m: m["chain"].update(labels={"a" * 64: 1})),
    ("is no label", lambda m: m["chain"].update(labels={"no way": 1})),
    ("no stage 6", lambda m: m["chain"].update(first_number=6)),
    ("deleted, and has a revision", lambda m: m["chain"].update(first_number=5)),
    ("last number", lambda m: m["chain"].update(last_number=4)),
    ("last number", lambda m: m["chain"].update(last_number=2**63 - 1)),
    ("is no time", lambda m: m["chain"].update(created_at=1e300)),
    ("extra", lambda m: m["chain"].update(deleted_at=None)),
    ("Field required", lambda m: m["chain"].pop("head")),
    ("order", lambda m: m["stages"].reverse()),
    ("order", lambda m: m["stages"].append(m["stages"][-1])),
    ("order", lambda m: m["stages"][0].update(number=0)),
    ("order", lambda m: m.update(stages=[])),
    ("one id", lambda m: m["stages"][1].update(id=m["stages"][0]["id"])),
    ("no id of a stage", lambda m: m["stages"][0].update(id="../x")),
    ("another base", lambda m: m["stages"][0].update(base=OTHER_BASE)),
    ("has not ended", lambda m: m["stages"][0].update(state="running")),
    ("state", lambda m: m["stages"][0].update(state="won")),
    ("no other", lambda m: m["stages"][0].update(origin="imported")),
    ("no other", lambda m: m["stages"][0].update(request=None)),
    ("and has no revision", lambda m: m["stages"][0].update(revision=None)),
    ("without an error", lambda m: m["stages"][2].update(error=None)),
    ("never was", lambda m: m["stages"][2].update(revision_deleted_at=1.0)),
    ("cannot have", lambda m: m["stages"][2].update(revision="f" * 64)),
    ("cannot have", lambda m: m["stages"][0].update(shape=None)),
    ("is no SHA-256", lambda m: m["stages"][0].update(revision="../../evil")),
    ("is no SHA-256", lambda m: m["stages"][4].update(parent="F" * 64)),
    ("is no SHA-256", lambda m: m["stages"][0]["request"].update(dataset="../x")),
    ("is no time", lambda m: m["stages"][0].update(finished_at=-1.0)),
    ("finished_at", lambda m: m["stages"][0].update(finished_at="now")),
    ("unknown field 'gadget'", lambda m: m["stages"][0].update(gadget=1)),
    ("unknown field 'fence'", lambda m: m["stages"][0].update(fence=3)),
    ("unknown field", lambda m: m["stages"][0]["request"]["settings"].update(momentum=1)),
    ("A later version", lambda m: m.update(format="chainlora chain 2")),
    ("its format is 'zip'", lambda m: m.update(format="zip")),
    ("its format is 'None'", lambda m: m.pop("format")),
    ("extra", lambda m: m.update(more=1)),
    ("fingerprint", lambda m: m["base"].pop("fingerprint")),
    ("is no SHA-256", lambda m: m["base"].update(fingerprint="x")),
    ("model_type", lambda m: m["base"].update(model_type="x" * 65)),
]


@pytest.mark.parametrize(("reason", "change"), LIES)
def test_a_lineage_that_cannot_be_is_refused(
    parts: Parts, target: Rig, reason: str, change: Callable[[Json], object]
) -> None:
    """Each claim by its own rule, in words."""
    assert reason in refusal(target, parts.changed(change))


@pytest.mark.parametrize(
    "manifest",
    [
        b"", b"[]", b"null", b"\xff", b"\xef\xbb\xbf{}", b"{" * 100_000, b'{"a": NaN}',
        b'{"a": 1e400}', b'{"a": 1, "a": 1}', b'{"a": ' + b"9" * 5000 + b"}", b'{"a": "\\ud800"}',
    ],
)  # fmt: skip
def test_a_manifest_that_is_no_json_object_is_refused(target: Rig, manifest: bytes) -> None:
    """As RFC 8259 has it."""
    assert "its manifest.json" in refusal(target, assembled(manifest, {}))


def test_a_record_may_hold_any_json_and_no_more(parts: Parts, target: Rig, tmp_path: Path) -> None:
    """Nested too deeply it is refused; what a store may hold is kept."""
    deep: Any = 1
    for _ in range(70):
        deep = [deep]
    data = parts.changed(lambda manifest: manifest["stages"][0].update(record={"a": deep}))
    assert "nested deeper" in refusal(target, data)
    odd = {"a": [None, True, "\x00\u2028", 1e-300, {"b": []}]}
    data = parts.changed(lambda manifest: manifest["stages"][0].update(record=odd))
    with unsynced(), store_at(tmp_path / "odd") as rig:
        opened(rig, data)
        assert rig.store.chains.stages("support")[0].record == odd
