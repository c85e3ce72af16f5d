"""npz archives: bombs, pickles, sizes that lie, and whatever else a zip can hold."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.errors import AdapterFileError
from adapters.formats.npz import read_npz
from tests.attacks.files.test_other_formats_renamed import Evil

A, B = "model.layers.0.mlp.up_proj.lora_a.npy", "model.layers.0.mlp.up_proj.lora_b.npy"
MIB = 1 << 20


def npy(array: np.ndarray, *, pickled: bool = False) -> bytes:
    """A member's bytes."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=pickled)
    return buffer.getvalue()


SOUND = {A: npy(np.ones((4, 2), "<f4")), B: npy(np.ones((2, 4), "<f4"))}


def written(path: Path, members: Mapping[str, bytes], kind: int = zipfile.ZIP_STORED) -> Path:
    """An archive of these members."""
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def refusal(path: Path) -> str:
    """Why it is refused; the message names the file."""
    with pytest.raises(AdapterFileError) as caught:
        read_npz(path, scale=2.0)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_the_sound_archive_is_read(tmp_path: Path) -> None:
    """So that the refusals below have no other reason."""
    assert read_npz(written(tmp_path / "a.npz", SOUND), scale=2.0).shape.rank == 2


def test_a_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, resident_bytes: Callable[[], int]
) -> None:
    """A megabyte that becomes a gigabyte."""
    path = tmp_path / "a.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(A, "w", force_zip64=True) as member,
    ):
        member.write(npy(np.zeros((1, 1), "<f4")))
        for _ in range(300):
            member.write(bytes(MIB))
    before = resident_bytes()
    assert "and unpacks to 3145" in refusal(path)
    assert resident_bytes() - before < 32 * MIB


def test_a_member_that_hides_its_size_is_cut_off(
    tmp_path: Path, resident_bytes: Callable[[], int]
) -> None:
    """The directory says 200 bytes, the stream holds 200 MiB."""
    path = written(tmp_path / "a.npz", {A: bytes(200 * MIB)}, zipfile.ZIP_DEFLATED)
    raw = bytearray(path.read_bytes())
    lie = struct.pack("<L", 200)
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = raw.index(signature) + offset
        raw[at : at + 4] = lie
    path.write_bytes(raw)
    before = resident_bytes()
    assert "not a sound" in refusal(path)
    assert resident_bytes() - before < 32 * MIB


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packings_that_no_npz_has_are_refused_unpacked(
    tmp_path: Path, resident_bytes: Callable[[], int], kind: int
) -> None:
    """Python unpacks them in one piece: 500 bytes became 400 MiB here, whatever they said."""
    path = written(tmp_path / "a.npz", {A: bytes(64 * MIB)}, kind)
    raw = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = raw.index(signature) + offset
        raw[at : at + 4] = struct.pack("<L", MIB)
    path.write_bytes(raw)
    before = resident_bytes()
    assert "is packed in a way that no npz has" in refusal(path)
    assert resident_bytes() - before < 32 * MIB


def test_members_that_share_their_bytes_count_each(tmp_path: Path) -> None:
    """A bomb without compression: a thousand entries for one stream."""
    big = bytes(MIB)
    entries = 300
    name = b"layers.npy"
    local = struct.pack(
        "<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 0, zlib.crc32(big), MIB, MIB, len(name), 0
    )
    raw = bytearray(local + name + big)
    start = len(raw)
    for index in range(entries):
        each = f"l{index}.npy".encode()
        raw += struct.pack(
            "<4s6H3L5H2L",
            b"PK\x01\x02", 20, 20, 0, 0, 0, 0, zlib.crc32(big), MIB, MIB,
            len(each), 0, 0, 0, 0, 0, 0,
        ) + each  # fmt: skip
    raw += struct.pack(
        "<4s4H2LH", b"PK\x05\x06", 0, 0, entries, entries, len(raw) - start, start, 0
    )
    path = tmp_path / "a.npz"
    path.write_bytes(raw)
    assert f"unpacks to {entries * MIB}" in refusal(path)


def test_an_array_of_objects_is_never_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unpickling runs code."""
    monkeypatch.chdir(tmp_path)
    evil = npy(np.array([[Evil()]], dtype=object), pickled=True)
    said = refusal(written(tmp_path / "a.npz", {**SOUND, A: evil}))
    assert "Python objects are never unpickled" in said
    assert not (tmp_path / "unpickled").exists()


def test_an_archive_of_torch_is_never_opened(tmp_path: Path) -> None:
    """Its data.pkl runs code."""
    path = written(tmp_path / "a.npz", {"archive/data.pkl": pickle.dumps(Evil())})
    assert "PyTorch's archives hold pickles" in refusal(path)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({**SOUND, "notes.txt": b""}, "is no array"),
        ({**SOUND, "../evil.npy": SOUND[A]}, "no part of a LoRA adapter"),
        ({**SOUND, "weight.npy": SOUND[A]}, "no part of a LoRA adapter"),
        ({A: SOUND[A]}, "has no lora_b"),
        ({}, "holds no array"),
        ({**SOUND, A: b"\x93NUMPY\x01\x00"}, "not a sound array"),
        ({**SOUND, A: b"\x93NUMPY\x03\x00" + SOUND[A][8:]}, "its version is"),
        ({**SOUND, A: SOUND[A][:-1]}, "claims the shape (4, 2) and has 31 bytes"),
        ({**SOUND, A: SOUND[A] + b"x"}, "claims the shape (4, 2) and has 33 bytes"),
        ({**SOUND, A: npy(np.ones((4, 2), "<f8"))}, "is float64"),
        ({**SOUND, A: npy(np.ones((4, 2), "<i4"))}, "is int32"),
        ({**SOUND, A: npy(np.ones((4, 2), "<c8"))}, "is complex64"),
        ({**SOUND, A: npy(np.ones((4, 2), "V4"))}, "is |V4"),
        ({**SOUND, A: npy(np.ones((4, 2), [("x", "<u2")]))}, "float32, float16 and bfloat16"),
        ({**SOUND, A: npy(np.full((4, 2), np.nan, "<f4"))}, "not finite"),
        ({**SOUND, A: npy(np.full((4, 2), np.inf, ">f4"))}, "not finite"),
        ({**SOUND, A: npy(np.ones((4, 3), "<f4"))}, "their ranks differ"),
        ({**SOUND, A: npy(np.ones(4, "<f4"))}, "a matrix is expected"),
        ({**SOUND, A: npy(np.ones((0, 2), "<f4"))}, "a matrix is expected"),
        ({**SOUND, A: npy(np.ones((2, 4, 2), "<f4"))}, "experts of a mixture"),
    ],
)
def test_a_member_that_is_no_half_of_an_adapter_is_refused(
    tmp_path: Path, members: dict[str, bytes], reason: str
) -> None:
    """Each with its own reason."""
    assert reason in refusal(written(tmp_path / "a.npz", members))


@pytest.mark.parametrize(
    "shape", ["(-1, 2)", "(4611686018427387904, 4)", "(True, 2)", "(4.0, 2)", "('4', 2)"]
)
def test_an_impossible_shape_is_refused(tmp_path: Path, shape: str) -> None:
    """Nothing of that size is asked for."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + bytes(32)
    said = refusal(written(tmp_path / "a.npz", {**SOUND, A: data}))
    assert "not a sound array" in said or "claims the shape" in said


@pytest.mark.parametrize(
    "text", ["(" * 9000, "{" + "'a':[" * 1500, "x" * 60000, "__import__('os')"]
)
def test_a_header_that_is_no_dictionary_is_refused(tmp_path: Path, text: str) -> None:
    """It is read as a literal, of a bounded length."""
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + bytes(32)
    assert "not a sound array" in refusal(written(tmp_path / "a.npz", {**SOUND, A: data}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_stands_there_twice_is_refused(tmp_path: Path) -> None:
    """Readers differ in which they take."""
    path = written(tmp_path / "a.npz", SOUND)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(A, SOUND[A])
    assert "stands there twice" in refusal(path)


def test_too_many_members_are_refused(tmp_path: Path) -> None:
    """Each costs far more than its bytes."""
    path = written(tmp_path / "a.npz", {f"l{index}.npy": b"" for index in range(20_001)})
    assert "has 20001 members" in refusal(path)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    """Also a pickle, a lone array and a text."""
    for index, data in enumerate((pickle.dumps(Evil()), SOUND[A], b"", b"PK\x03\x04", b"text")):
        path = tmp_path / f"{index}.npz"
        path.write_bytes(data)
        assert "not a sound npz file" in refusal(path)


def test_links_and_what_is_no_file_are_refused(tmp_path: Path) -> None:
    """Unless the operator names the path; there is nothing to read in a pipe."""
    written(tmp_path / "a.npz", SOUND)
    (tmp_path / "link.npz").symlink_to(tmp_path / "a.npz")
    assert "symbolic link" in refusal(tmp_path / "link.npz")
    assert read_npz(tmp_path / "link.npz", scale=2.0, follow_links=True)
    assert "cannot be read" in refusal(tmp_path / "missing.npz")


@given(at=st.integers(0, 1 << 16), bit=st.integers(0, 7))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore:Reading")
def test_a_flipped_bit_is_refused_or_read_and_never_another_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, bit: int
) -> None:
    """Whatever the archive's own structures say then."""
    path = written(tmp_path_factory.mktemp("flipped") / "a.npz", SOUND, zipfile.ZIP_DEFLATED)
    raw = bytearray(path.read_bytes())
    raw[at % len(raw)] ^= 1 << bit
    path.write_bytes(raw)
    with contextlib.suppress(AdapterFileError):
        read_npz(path, scale=2.0)
