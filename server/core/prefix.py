"""Which prefixes of token sequences are held, and which of them go when bytes run out."""

from __future__ import annotations

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
    siblings: dict[tuple[int, ...], _Node[Value]]
    children: dict[tuple[int, ...], _Node[Value]] = field(default_factory=dict)


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
        self._roots: dict[Hashable, dict[tuple[int, ...], _Node[Value]]] = {}
        # Least recently used first, and every block before the one that it follows.
        self._order: OrderedDict[_Node[Value], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._order)

    def values(self) -> Iterator[Value]:
        """All that is held, least recently used first."""
        return (node.value for node in self._order)

    def match(self, key: Hashable, tokens: Sequence[int]) -> Match[Value]:
        """The longest prefix of ``tokens`` that is held; it is used now."""
        path, length, children = self._walk(self._roots.get(key, {}), tokens)
        shared, node = _nearest(children, tokens[length : length + self._block])
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
        root = self._roots.get(key, {})
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
            for shorter in [node for node in children.values() if _begins(block, node.tokens)]:
                self._drop(shorter)
            while self.nbytes + value.nbytes > self.budget_bytes:
                self._drop(next(iter(self._order)))
            node = _Node(key, block, value, children)
            children[block] = node
            self._order[node] = None
            self.nbytes += value.nbytes
            added.append(value)
            path.append(node)
            children, start = node.children, start + len(block)
        if root:
            self._roots[key] = root
        self._use(path)
        return added

    def forget(self, key: Hashable) -> None:
        """Hold nothing under a key any more."""
        for node in [node for node in self._order if node.key == key]:
            self._drop(node)

    def _walk(
        self, children: dict[tuple[int, ...], _Node[Value]], tokens: Sequence[int]
    ) -> tuple[list[_Node[Value]], int, dict[tuple[int, ...], _Node[Value]]]:
        """The blocks that hold a prefix of ``tokens``, its length, and what may follow it."""
        path: list[_Node[Value]] = []
        start = 0
        while start < len(tokens):
            block = tuple(tokens[start : start + self._block])
            node = children.get(block)
            if node is None and len(block) < self._block:
                node = next(
                    (each for each in children.values() if _begins(each.tokens, block)), None
                )
            if node is None:
                break
            path.append(node)
            children, start = node.children, start + len(block)
        return path, start, children

    def _use(self, path: Sequence[_Node[Value]]) -> None:
        for node in reversed(path):
            self._order.move_to_end(node)

    def _drop(self, node: _Node[Value]) -> None:
        del node.siblings[node.tokens], self._order[node]
        self.nbytes -= node.value.nbytes
        if not node.siblings and self._roots.get(node.key) is node.siblings:
            del self._roots[node.key]


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many first tokens both have in common."""
    pairs = zip(left, right, strict=False)
    length = min(len(left), len(right))
    return next((index for index, (a, b) in enumerate(pairs) if a != b), length)


def _begins(tokens: tuple[int, ...], prefix: tuple[int, ...]) -> bool:
    return tokens[: len(prefix)] == prefix


def _nearest(
    children: dict[tuple[int, ...], _Node[Value]], tokens: Sequence[int]
) -> tuple[int, _Node[Value] | None]:
    """How many first tokens the nearest block shares with ``tokens``, and that block."""
    best: tuple[int, _Node[Value] | None] = (0, None)
    for node in children.values():
        shared = common_prefix(node.tokens, tokens)
        if shared > best[0]:
            best = (shared, node)
    return best
