"""An adapter on the store's disk, read back and compared before anybody can name it."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError

from adapters.errors import VerificationFailed
from adapters.formats.files import unwritten
from adapters.formats.mlx_lm import AdapterFiles, read_adapter, write_adapter
from adapters.formats.revision import revision_id
from adapters.store import Store


def written(store: Store, files: AdapterFiles) -> tuple[Path, str]:
    """A directory that holds ``files``, for the store to take over; and their revision id.

    Raises StorageFull where the disk is, StoreError where it cannot be written, and as ``verify``.
    """
    revision = revision_id(files)
    directory = store.revision_temp()
    try:
        write_adapter(directory, files)
    except (OSError, SafetensorError) as error:
        raise unwritten(directory, error) from error
    verify(directory, files, revision)
    return directory, revision


def verify(directory: Path, trained: AdapterFiles, revision: str) -> None:
    """Read what was written and compare it with what was trained, bit for bit.

    Raises VerificationFailed; a tensor that is not finite is an AdapterFileError of the reader.
    """
    read = read_adapter(directory)
    if read.shape != trained.shape or revision_id(read) != revision:
        raise VerificationFailed(
            "The adapter that was written is not the one that was trained, so nothing was "
            "published: the disk or the memory of this machine may be failing. Try again."
        )
