"""Files of other formats under the name of the right one: readers that run code or unpack bombs."""

from __future__ import annotations

import io
import os
import pickle

import numpy as np
import pytest

from tests.attacks.files.conftest import Victim


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, ("unpickled",))


def archive() -> bytes:
    """An npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, lora_a=np.zeros((4, 2)))
    return buffer.getvalue()


def array() -> bytes:
    """An npy file of Python objects."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([Evil()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (pickle.dumps(Evil()), "a Python pickle"),
        (archive(), "a zip archive"),
        (array(), "a numpy array"),
        (b"GGUF" + bytes(64), "a GGUF model"),
    ],
    ids=["pickle", "npz", "npy", "gguf"],
)
def test_another_format_is_named_and_refused_unparsed(
    victim: Victim, monkeypatch: pytest.MonkeyPatch, content: bytes, kind: str
) -> None:
    """The content decides, never the suffix, and no other reader is tried."""
    monkeypatch.chdir(victim.directory)
    victim.weights.write_bytes(content)
    assert f"looks like {kind}" in victim.refusal()
    assert not (victim.directory / "unpickled").exists()


def test_the_other_format_beside_a_missing_file_is_not_taken_instead(victim: Victim) -> None:
    """One name, one format."""
    victim.weights.rename(victim.directory / "adapters.npz")
    assert "adapters.safetensors cannot be read" in victim.refusal()
