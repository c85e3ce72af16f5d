"""Adapters put on the device without an engine."""

from __future__ import annotations

from adapters.formats.mlx_lm import AdapterFiles
from adapters.lora import AdapterBank
from adapters.lora.resident import make_resident


def put(bank: AdapterBank, revision: str, files: AdapterFiles) -> None:
    """Make ``files`` resident, as the engine does."""
    adapter = make_resident(revision, files, bank.dtype)
    assert bank.reserve(adapter.nbytes) is not None, "the bank is full"
    bank.commit(adapter)
