"""The file object of OpenAI's reference."""

from __future__ import annotations

from adapters.lineage import StoredFile
from server.api.wire import Body


def file_row(file: StoredFile) -> Body:
    """The file object. ``error`` as its status means that its bytes are not where they were."""
    row: Body = {
        "id": file.id,
        "object": "file",
        "bytes": file.nbytes,
        "created_at": int(file.created_at),
        "expires_at": None if file.expires_at is None else int(file.expires_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed" if file.fault is None else "error",
        "status_details": file.fault,
    }
    return row
