"""Which prefixes of token sequences are held, and which of them go when bytes run out."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """What is held for one block of tokens."""

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        ...


Value = TypeVar("Value", bound=Sized)


@dataclass(frozen=True, slots=True)
class Match(Generic[Value]):
    """The longest prefix that is held: ``length`` tokens, in order in ``values``.

    The last value may cover more tokens than the match does.
    """

    length: int
    values: tuple[Value, ...]


@dataclass(eq=False, slots=True)
class _Node(Generic[Value]):
    """A block of tokens after one prefix; shorter than a block only where none follows it."""

    key: Hashable
    tokens: tuple[int, ...]
    value: Value
    siblings: _Siblings[Value]
    children: _Siblings[Value] = field(default_factory=lambda: _Siblings())


class _Siblings(Generic[Value]):
    """The blocks that follow one prefix, none of which begins with another one of them.

    Sorted by their tokens, so that the one that is looked for lies where the tokens would: of
    thousands of short prompts a look-up sees two.
    """

    def __init__(self) -> None:
        self._nodes: dict[tuple[int, ...], _Node[Value]] = {}
        self._sorted: list[tuple[int, ...]] = []

    def __len__(self) -> int:
        return len(self._nodes)

    def add(self, node: _Node[Value]) -> None:
        """One more."""
        self._nodes[node.tokens] = node
        insort(self._sorted, node.tokens)

    def remove(self, node: _Node[Value]) -> None:
        """One less."""
        del self._nodes[node.tokens]
        del self._sorted[bisect_left(self._sorted, node.tokens)]

    def get(self, tokens: tuple[int, ...]) -> _Node[Value] | None:
        """The one of exactly these tokens."""
        return self._nodes.get(tokens)

    def nearest(self, tokens: tuple[int, ...]) -> tuple[int, _Node[Value] | None]:
        """How many first tokens the nearest block shares with ``tokens``, and that block."""
        place = bisect_left(self._sorted, tokens)
        best: tuple[int, _Node[Value] | None] = (0, None)
        for beside in self._sorted[max(place - 1, 0) : place + 1]:
            shared = common_prefix(beside, tokens)
            if shared > best[0]:
                best = (shared, self._nodes[beside])
        return best


class PrefixIndex(Generic[Value]):
    """A trie of token blocks for each key, bounded by bytes; the oldest block goes first.

    A prefix that several sequences share is held once. A block counts as used whenever a longer
    prefix through it is, so the end of a sequence goes before its beginning. A key names all that
    values depend on beside the tokens, such as a revision id, or None for the bare base: nothing is
    ever found under another one.
    """

    def __init__(self, *, budget_bytes: int, block: int) -> None:
        self.budget_bytes = budget_bytes
        self.nbytes = 0
        self._block = block
        self._roots: dict[Hashable, _Siblings[Value]] = {}
        # Least recently used first, and every block before the one that it follows.
        self._order: OrderedDict[_Node[Value], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._order)

    def values(self) -> Iterator[Value]:
        """All that is held, least recently used first."""
        return (node.value for node in self._order)

    def match(self, key: Hashable, tokens: Sequence[int]) -> Match[Value]:
        """The longest prefix of ``tokens`` that is held; it is used now."""
        path, length, children = self._walk(self._siblings(key), tokens)
        shared, node = children.nearest(tuple(tokens[length : length + self._block]))
        if node is not None:
            path.append(node)
        self._use(path)
        return Match(length + shared, tuple(node.value for node in path))

    def add(
        self, key: Hashable, tokens: Sequence[int], make: Callable[[int, int], Value]
    ) -> list[Value]:
        """Hold ``tokens`` as far as the budget allows; they are used now.

        ``make(start, stop)`` is called for each block that is missing, in order; what it made and
        is held now is returned. Older blocks give way.
        """
        root = self._siblings(key)
        path, start, children = self._walk(root, tokens)
        self._use(path)
        own = sum(node.value.nbytes for node in path)
        added: list[Value] = []
        while start < len(tokens):
            block = tuple(tokens[start : start + self._block])
            value = make(start, start + len(block))
            own += value.nbytes
            if own > self.budget_bytes:
                break
            shared, shorter = children.nearest(block)
            if shorter is not None and shared == len(shorter.tokens):
                self._drop(shorter)
            while self.nbytes + value.nbytes > self.budget_bytes:
                self._drop(next(iter(self._order)))
            node = _Node(key, block, value, children)
            children.add(node)
            self._order[node] = None
            self.nbytes += value.nbytes
            added.append(value)
            path.append(node)
            children, start = node.children, start + len(block)
        if len(root):
            self._roots[key] = root
        self._use(path)
        return added

    def forget(self, key: Hashable) -> None:
        """Hold nothing under a key any more."""
        for node in [node for node in self._order if node.key == key]:
            self._drop(node)

    def _siblings(self, key: Hashable) -> _Siblings[Value]:
        """The first blocks under a key."""
        return self._roots.get(key) or _Siblings()

    def _walk(
        self, children: _Siblings[Value], tokens: Sequence[int]
    ) -> tuple[list[_Node[Value]], int, _Siblings[Value]]:
        """The blocks that hold a prefix of ``tokens``, its length, and what may follow it."""
        path: list[_Node[Value]] = []
        start = 0
        while start < len(tokens):
            block = tuple(tokens[start : start + self._block])
            node = children.get(block)
            if node is None and len(block) < self._block:
                shared, longer = children.nearest(block)
                node = longer if shared == len(block) else None
            if node is None:
                break
            path.append(node)
            children, start = node.children, start + len(block)
        return path, start, children

    def _use(self, path: Sequence[_Node[Value]]) -> None:
        for node in reversed(path):
            self._order.move_to_end(node)

    def _drop(self, node: _Node[Value]) -> None:
        node.siblings.remove(node)
        del self._order[node]
        self.nbytes -= node.value.nbytes
        if not len(node.siblings) and self._roots.get(node.key) is node.siblings:
            del self._roots[node.key]


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many first tokens both have in common."""
    pairs = zip(left, right, strict=False)
    length = min(len(left), len(right))
    return next((index for index, (a, b) in enumerate(pairs) if a != b), length)
