"""The arrays of a published revision."""

from __future__ import annotations

from adapters.errors import AdapterFileError
from adapters.formats.mlx_lm import AdapterFiles, read_adapter
from adapters.formats.revision import revision_id
from adapters.store import Store
from adapters.store.unavailable import cure


def read_revision(store: Store, revision: str) -> AdapterFiles:
    """What was published under that id, in host memory.

    Raises RevisionNotFound where it was deleted, AdapterFileError where the files are not what was
    published.
    """
    directory = store.revision_path(revision)
    try:
        files = read_adapter(directory)
        if revision_id(files) != revision:
            raise AdapterFileError(
                f"{directory} is not what was published under that id: the disk may be failing, or "
                "the files were edited."
            )
    except AdapterFileError as error:
        store.revision_path(revision)  # it may have been deleted since: then that is the answer
        why = f"{error} {cure(directory)}"
        store.unavailable.lost(revision, why)
        raise AdapterFileError(why) from None
    store.unavailable.found(revision)
    return files
