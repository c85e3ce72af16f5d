"""What happened to stages, in order, and who wants to be told."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence

from adapters.lineage import Json, StageEvent
from adapters.store.claims import check_claim
from adapters.store.database import Database
from adapters.store.records import dump, event_of

log = logging.getLogger(__name__)

Notify = Callable[[str], None]


class Events:
    """The events of all stages. May be used from any thread."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._subscribers: list[Notify] = []

    def write(self, connection: sqlite3.Connection, stage_id: str, kind: str, data: Json) -> None:
        """Add an event in somebody's transaction; call ``announce`` after its commit."""
        connection.execute(
            "INSERT INTO events (stage, at, kind, data) VALUES (?, ?, ?, ?)",
            (stage_id, self._clock(), kind, dump(dict(data))),
        )

    def add(self, stage_id: str, fence: int, kind: str, data: Json) -> None:
        """Add an event of a claimed stage; raises ClaimLost."""
        with self._database.write() as connection:
            check_claim(connection, stage_id, fence)
            self.write(connection, stage_id, kind, data)
        self.announce(stage_id)

    def after(self, stage_id: str, event_id: int, limit: int) -> Sequence[StageEvent]:
        """Events with ids above ``event_id``, oldest first, at most ``limit``."""
        rows = self._database.all(
            "SELECT * FROM events WHERE stage = ? AND id > ? ORDER BY id LIMIT ?",
            (stage_id, event_id, limit),
        )
        return [event_of(row) for row in rows]

    def subscribe(self, notify: Notify) -> Callable[[], None]:
        """Call ``notify(stage id)`` after each commit with an event; the result ends it."""
        with self._lock:
            self._subscribers.append(notify)

        def unsubscribe() -> None:
            with self._lock:
                if notify in self._subscribers:
                    self._subscribers.remove(notify)

        return unsubscribe

    def announce(self, stage_id: str) -> None:
        """Tell everybody; one that fails keeps nobody else from hearing it."""
        with self._lock:
            subscribers = list(self._subscribers)
        for notify in subscribers:
            try:
                notify(stage_id)
            except Exception:  # whatever a listener does must not undo what is committed
                log.exception("a subscriber failed on an event of stage %s", stage_id)
