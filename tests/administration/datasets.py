"""Data sets in memory. A line that is no JSON object is bad."""

from __future__ import annotations

import hashlib
import json
import queue
import threading
from pathlib import Path, PosixPath

from adapters.errors import (
    DatasetNotFound,
    DatasetProtected,
    LineFault,
)
from adapters.lineage import (
    Dataset,
    Page,
)
from tests.administration.state import State, bad_lines


class WatchedFile(PosixPath):
    """A file of which one can wait until it is gone."""

    removed: threading.Event

    def __new__(cls, *parts: object) -> WatchedFile:
        """A path with its own event."""
        path = super().__new__(cls, *parts)  # type: ignore[arg-type]
        path.removed = threading.Event()
        return path

    def unlink(self, missing_ok: bool = False) -> None:
        """As Path."""
        super().unlink(missing_ok)
        self.removed.set()


class FakeDatasets:
    """The port Datasets. A line that is no JSON object is bad."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.given: queue.SimpleQueue[WatchedFile] = queue.SimpleQueue()

    def incoming(self) -> Path:
        """As the port."""
        path = WatchedFile(self._state.folder / f"incoming-{next(self._state.ids)}")
        path.touch()
        self.given.put(path)
        return path

    def add(self, file: Path, *, name: str | None = None) -> Dataset:
        """As the port."""
        data = file.read_bytes()
        file.unlink()
        faults = [
            LineFault(number, "is no JSON object")
            for number, line in enumerate(data.splitlines(), start=1)
            if not _is_object(line)
        ]
        if faults:
            raise bad_lines(*faults)
        state = self._state
        dataset_id = f"sha256-{hashlib.sha256(data).hexdigest()}"
        rows = len(data.splitlines())
        state.contents[dataset_id] = data
        return state.datasets.setdefault(
            dataset_id, Dataset(dataset_id, len(data), rows, state.now, name)
        )

    def get(self, dataset_id: str) -> Dataset:
        """As the port."""
        try:
            return self._state.datasets[dataset_id]
        except KeyError:
            raise DatasetNotFound(f"There is no data set {dataset_id!r}.") from None

    def list(self, *, after: str | None = None, limit: int = 20) -> Page:
        """As the port."""
        rows = [*reversed(self._state.datasets.values())]
        if after is not None:
            rows = rows[rows.index(self.get(after)) + 1 :]
        return Page(rows[:limit], has_more=len(rows) > limit)

    def delete(self, dataset_id: str) -> None:
        """As the port."""
        self.get(dataset_id)
        if any(new.dataset == dataset_id for new in self._state.asked):
            raise DatasetProtected("An unfinished stage needs the data set.")
        del self._state.datasets[dataset_id]


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
