"""What a chain file claims, with hashes that agree: compared before anything is stored."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import AdapterMismatch
from adapters.shape import BaseShape
from adapters.shape import Target as Module
from tests.adapters.store.rig import OTHER_BASE, unsynced
from tests.adapters.store.rig import opened as store_at
from tests.chain_files import Json, Parts, Target, assembled, opened

MIB = 1 << 20


def test_an_adapter_that_is_not_what_its_id_says_is_refused(parts: Parts, target: Target) -> None:
    """With hashes that agree: the id is computed anew, from scale and tensors."""
    name = parts.named("adapters.safetensors")
    data = bytearray(parts.members[name])
    data[-1] ^= 1
    assert "another adapter than its id" in target.refusal(parts.with_members({name: bytes(data)}))
    config = parts.named("adapter_config.json")
    other = parts.members[config].replace(b"2.0", b"3.0")
    assert "another adapter than its id" in target.refusal(parts.with_members({config: other}))
    swapped = [each for each in parts.members if each.endswith("adapters.safetensors")]
    both = {swapped[0]: parts.members[swapped[1]], swapped[1]: parts.members[swapped[0]]}
    assert "another adapter than its id" in target.refusal(parts.with_members(both))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a sound safetensors file"),
        (b"\x80\x04K\x01.", "not a sound safetensors file"),
        (struct.pack("<Q", 1 << 40), "claims a header"),
        (struct.pack("<Q", 2) + b"{}", "holds no tensor"),
    ],
)
def test_a_bad_adapter_is_refused(parts: Parts, target: Target, data: bytes, reason: str) -> None:
    """By the reader that every adapter passes, and with the path in the file."""
    name = parts.named("adapters.safetensors")
    said = target.refusal(parts.with_members({name: data}))
    assert reason in said
    assert "unpacked/revisions/" in said


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"a": NaN}', b"{" * 9000, b'{"a":1,"a":1}'])
def test_a_revision_s_manifest_must_be_an_object(parts: Parts, target: Target, data: bytes) -> None:
    """It goes into the store as it is."""
    name = parts.named("manifest.json")
    assert f"{name} " in target.refusal(parts.with_members({name: data}))
    big = b'{"a": "' + b"x" * MIB + b'"}'
    assert "at most 1048576 are read" in target.refusal(parts.with_members({name: big}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scale": 3.0}, "scale 3, not 2"),
        ({"rank": 2}, "has rank 1, the shape says 2"),
        ({"keys": ["mlp.gate_proj"]}, "is not among the shape's targets"),
    ],
)
def test_a_stage_s_shape_must_be_its_revision_s(
    parts: Parts, target: Target, change: Json, reason: str
) -> None:
    """A next stage inherits it."""
    data = parts.changed(lambda manifest: manifest["stages"][0]["shape"].update(change))
    said = target.refusal(data)
    assert "the shape of stage 1 is not that of its revision" in said
    assert reason in said


def test_a_chain_of_another_base_is_refused_with_both_named(parts: Parts, target: Target) -> None:
    """By the fingerprint, and by its modules where the fingerprint lies."""

    def move(manifest: Json) -> None:
        manifest["base"] = {"fingerprint": OTHER_BASE, "model_type": "llama", "blocks": 32}
        for stage in manifest["stages"]:
            stage["base"] = OTHER_BASE

    said = target.refusal(parts.changed(move), AdapterMismatch)
    assert "(llama, 32 blocks, fingerprint cccccccccccc)" in said
    assert "(toy, 1 blocks, hidden size 2, fingerprint bbbbbbbbbbbb)" in said
    other = BaseShape({}, (Module("model.layers.0.mlp.up_proj", 0, 2, 4),), 4)
    said = target.refusal(parts.changed(lambda _: None), AdapterMismatch, base=other)
    assert "maps 2 to 4 features here, 2 to 3 in the adapter" in said


def test_a_data_set_s_name_is_its_hash(parts: Parts, target: Target) -> None:
    """Other rows under it are refused, with hashes that agree to them."""
    name = parts.named(".jsonl")
    rows = b'{"text": "c"}\n'
    assert len(rows) == len(parts.members[name])
    said = target.refusal(parts.with_members({name: rows}))
    assert f"{name} has another SHA-256 than its name" in said


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 2}, {"rows": -1}, {"nbytes": 1}, {"id": "f" * 64}, {"id": "../x"},
        {"name": "a\nb"}, {"name": "x" * 256}, {"created_at": -1.0}, {"created_at": 1e300},
        {"x": 1},
    ],
)  # fmt: skip
def test_what_is_said_of_a_data_set_must_be_so(parts: Parts, target: Target, change: Json) -> None:
    """Rows, bytes, which stage has it, what it is called."""
    target.refusal(parts.changed(lambda manifest: manifest["datasets"][0].update(change)))


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
    ("Extra", lambda m: m["chain"].update(deleted_at=None)),
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
    (
        "stages.0.gadget: Unexpected keyword argument). A later version",
        lambda m: m["stages"][0].update(gadget=1),
    ),
    ("cannot take 'fence' along", lambda m: m["stages"][0].update(fence=3)),
    (
        "stages.0.request.settings.momentum: Unexpected",
        lambda m: m["stages"][0]["request"]["settings"].update(momentum=1),
    ),
    ("A later version", lambda m: m.update(format="chainlora chain 2")),
    ("its format is 'zip'", lambda m: m.update(format="zip")),
    ("its format is 'None'", lambda m: m.pop("format")),
    ("Extra", lambda m: m.update(more=1)),
    ("fingerprint", lambda m: m["base"].pop("fingerprint")),
    ("is no SHA-256", lambda m: m["base"].update(fingerprint="x")),
    ("model_type", lambda m: m["base"].update(model_type="x" * 65)),
]


@pytest.mark.parametrize(("reason", "change"), LIES)
def test_a_lineage_that_cannot_be_is_refused(
    parts: Parts, target: Target, reason: str, change: Callable[[Json], object]
) -> None:
    """Each claim by its own rule, in words."""
    assert reason in target.refusal(parts.changed(change))


@pytest.mark.parametrize(
    "manifest",
    [
        b"", b"[]", b"null", b"\xff", b"\xef\xbb\xbf{}", b"{" * 100_000, b'{"a": NaN}',
        b'{"a": 1e400}', b'{"a": 1, "a": 1}', b'{"a": ' + b"9" * 5000 + b"}", b'{"a": "\\ud800"}',
    ],
)  # fmt: skip
def test_a_manifest_that_is_no_json_object_is_refused(target: Target, manifest: bytes) -> None:
    """As RFC 8259 has it."""
    assert "its manifest.json" in target.refusal(assembled(manifest, {}))


def test_a_record_may_hold_any_json_and_no_more(
    parts: Parts, target: Target, tmp_path: Path
) -> None:
    """Nested too deeply it is refused; what a store may hold is kept."""
    deep: Any = 1
    for _ in range(70):
        deep = [deep]
    data = parts.changed(lambda manifest: manifest["stages"][0].update(record={"a": deep}))
    assert "nested deeper" in target.refusal(data)
    odd: Json = {"a": [None, True, "\x00\u2028", 1e-300, {"b": []}]}
    data = parts.changed(lambda manifest: manifest["stages"][0].update(record=odd))
    with unsynced(), store_at(tmp_path / "odd") as rig:
        opened(rig, data)
        assert rig.store.chains.stages("support")[0].record == odd
