"""Headers, configurations and files that are larger than any adapter's."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.errors import AdapterFileError
from adapters.formats.files import read_bytes
from tests.attacks.files.conftest import Victim

MIB = 1 << 20


@pytest.mark.parametrize("length", [1 << 63, (1 << 64) - 1, 1 << 40, 17 * MIB])
def test_a_header_that_claims_more_than_there_is_is_refused(victim: Victim, length: int) -> None:
    """The eight bytes at the start are not believed."""
    victim.weights.write_bytes(struct.pack("<Q", length) + b"{}")
    assert f"claims a header of {length} bytes" in victim.refusal()


def test_a_header_that_is_really_that_long_is_refused_unparsed(victim: Victim) -> None:
    """Parsing it would cost many times its size."""
    victim.write(json.dumps(victim.header()).encode() + b" " * (17 * MIB), bytes(64))
    assert "claims a header of" in victim.refusal()


def test_a_header_nested_without_end_is_refused(victim: Victim) -> None:
    """A stack is finite."""
    victim.write(b'{"a":' * 100_000, b"")
    assert "not a sound safetensors file" in victim.refusal()


def test_a_configuration_beyond_a_mebibyte_is_refused_unread(victim: Victim) -> None:
    """mlx-lm's own has about a kilobyte."""
    victim.config.write_bytes(b" " * (MIB + 1))
    assert f"has {MIB + 1} bytes, at most {MIB} are read" in victim.refusal()


def test_a_sparse_terabyte_is_refused_unread(
    victim: Victim, resident_bytes: Callable[[], int]
) -> None:
    """It takes no room on the disk and all of it in memory."""
    os.truncate(victim.weights, 1 << 40)
    before = resident_bytes()
    assert f"has {1 << 40} bytes" in victim.refusal()
    assert resident_bytes() - before < 128 * MIB


def test_a_file_that_hides_its_size_is_cut_off() -> None:
    """Files of the kernel, and those that grow, have more than they say."""
    endless = Path("/proc/self/maps")
    if not endless.exists():
        pytest.skip("this system has no files without a size")
    with pytest.raises(AdapterFileError, match="changed while it was read"):
        read_bytes(endless, most=10)
