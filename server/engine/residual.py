"""The residual stream of a row where its adapter begins."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True, slots=True)
class Cut:
    """Before block ``block``; the first ``caches`` of a row's caches belong to the blocks below."""

    block: int
    caches: int


@dataclass(eq=False, slots=True)
class Stream:
    """A row's residual stream at its cut: ``rows`` (1, n, width) of the tokens from ``start`` on.

    Where it reaches beyond what the row's blocks above the cut have computed, the row enters there.
    """

    cut: Cut
    start: int
    rows: mx.array | None

    @property
    def stop(self) -> int:
        """The token behind the last one."""
        return self.start + (0 if self.rows is None else self.rows.shape[1])

    def part(self, start: int, stop: int) -> mx.array:
        """Rows of these tokens, not copied."""
        if self.rows is None or not self.start <= start <= stop <= self.stop:
            raise RuntimeError(f"no residual stream of tokens {start} to {stop}")
        return self.rows[:, start - self.start : stop - self.start]

    def extend(self, rows: mx.array) -> None:
        """Add the rows of the next tokens."""
        self.rows = rows if self.rows is None else mx.concatenate([self.rows, rows], axis=1)

    def drop_before(self, token: int) -> None:
        """Give up the rows of the tokens before ``token``."""
        if self.rows is not None and token > self.start:
            self.rows = self.part(token, self.stop)
            self.start = token
