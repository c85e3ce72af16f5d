"""Which revisions requests are using, so that none is deleted under them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Pins:
    """Counts the open uses of each revision. May be used from any thread.

    Resolving a name and counting its revision is one step for everybody who holds ``guard``: a
    deletion either sees the use, or happens before the name is resolved.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._uses: Counter[str] = Counter()

    @contextmanager
    def pin(self, resolve: Callable[[], str]) -> Iterator[str]:
        """The revision that ``resolve`` gives, in use while the context is open."""
        with self._lock:
            revision = resolve()
            self._uses[revision] += 1
        try:
            yield revision
        finally:
            with self._lock:
                self._uses[revision] -= 1
                if not self._uses[revision]:
                    del self._uses[revision]

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Nothing is resolved and pinned meanwhile."""
        with self._lock:
            yield

    def in_use(self, revision: str) -> bool:
        """Whether a context is open on ``revision``."""
        with self._lock:
            return revision in self._uses

    def counts(self) -> dict[str, int]:
        """How many contexts are open on each revision that is in use."""
        with self._lock:
            return dict(self._uses)
