"""The rules by which prefixes are found, held and given up."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from server.core.prefix import PrefixIndex, common_prefix
from tests.counting import calls

BLOCK = 3
REVISIONS = (None, "r1", "r2")
UNBOUNDED = 10**9

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """Stands for the arrays of a block: what it is of, one byte a token."""

    revision: str | None
    prefix: Tokens
    tokens: Tokens

    @property
    def nbytes(self) -> int:
        """One byte a token."""
        return len(self.tokens)


Index = PrefixIndex[Part]
# Few tokens and short sequences, so that most of them share a beginning.
sequences = st.lists(st.integers(0, 1), max_size=11).map(tuple)
keys = st.tuples(st.sampled_from(REVISIONS), sequences)
operations = st.lists(st.tuples(st.sampled_from(("add", "match", "forget")), keys), max_size=30)


def add(index: Index, revision: str | None, tokens: Tokens) -> list[Part]:
    """Hold ``tokens``."""
    return index.add(
        revision,
        tokens,
        lambda start, stop: Part(revision, tokens[:start], tokens[start:stop]),
    )


def found(index: Index, revision: str | None, tokens: Tokens) -> int:
    """The length of the match, whose values are checked to be of these very tokens."""
    match = index.match(revision, tokens)
    assert {part.revision for part in match.values} <= {revision}
    held: Tokens = ()
    for part in match.values:
        assert part.prefix == held
        held += part.tokens
    assert held[: match.length] == tokens[: match.length]
    assert len(held) - match.length < BLOCK
    return match.length


def run(index: Index, kind: str, revision: str | None, tokens: Tokens) -> None:
    """One operation."""
    if kind == "add":
        add(index, revision, tokens)
    elif kind == "match":
        found(index, revision, tokens)
    else:
        index.forget(revision)


@given(st.lists(keys, max_size=20), keys)
def test_the_longest_prefix_of_all_that_was_held_is_found(
    added: list[tuple[str | None, Tokens]], wanted: tuple[str | None, Tokens]
) -> None:
    """Where nothing had to go: to the token, of this revision, wherever a block ends."""
    index = Index(budget_bytes=UNBOUNDED, block=BLOCK)
    for key in added:
        add(index, *key)
    revision, tokens = wanted
    shared = [common_prefix(each, tokens) for owner, each in added if owner == revision]
    assert found(index, revision, tokens) == max(shared, default=0)


@given(operations, st.integers(0, 25))
def test_bytes_are_never_over_the_budget_and_always_those_held(
    done: list[tuple[str, tuple[str | None, Tokens]]], budget: int
) -> None:
    """After every operation."""
    index = Index(budget_bytes=budget, block=BLOCK)
    for kind, key in done:
        run(index, kind, *key)
        values = list(index.values())
        assert index.nbytes == sum(part.nbytes for part in values) <= budget
        assert len(index) == len(values) == len(set(values))


@given(operations, st.integers(1, 25))
def test_what_was_used_last_goes_last(
    done: list[tuple[str, tuple[str | None, Tokens]]], budget: int
) -> None:
    """Nothing that goes for room was used later than anything that stays."""
    index = Index(budget_bytes=budget, block=BLOCK)
    used: dict[Part, int] = {}
    for now, (kind, (revision, tokens)) in enumerate(done):
        before = set(index.values())
        run(index, kind, revision, tokens)
        after = list(index.values())
        path = () if kind == "forget" else index.match(revision, tokens).values
        used.update(dict.fromkeys(path, now))
        stay = min((used[part] for part in after if part not in path), default=now)
        for part in before.difference(after):
            covered = any(
                each.prefix == part.prefix
                and each.revision == part.revision
                and each.tokens[: part.nbytes] == part.tokens
                for each in after
            )
            assert kind == "forget" or covered or used[part] <= stay


@given(operations, keys, st.integers(1, 25))
def test_what_is_held_last_is_held_as_far_as_it_fits(
    done: list[tuple[str, tuple[str | None, Tokens]]], last: tuple[str | None, Tokens], budget: int
) -> None:
    """Older ones make room, and a sequence that is too long keeps its beginning."""
    index = Index(budget_bytes=budget, block=BLOCK)
    for kind, key in done:
        run(index, kind, *key)
    add(index, *last)
    fits = len(last[1]) if len(last[1]) <= budget else budget - budget % BLOCK
    assert found(index, *last) >= fits


@given(operations)
def test_forgetting_everything_leaves_nothing(
    done: list[tuple[str, tuple[str | None, Tokens]]],
) -> None:
    """Not even an empty trie for each revision that ever was."""
    index = Index(budget_bytes=20, block=BLOCK)
    for kind, key in done:
        run(index, kind, *key)
    for revision in REVISIONS:
        index.forget(revision)
        assert found(index, revision, (0, 1, 0, 1)) == 0
    assert (len(index), index.nbytes, index._roots) == (0, 0, {})


def test_a_revision_never_finds_what_another_one_left() -> None:
    """Nor the base, and forgetting the one leaves the other."""
    index = Index(budget_bytes=UNBOUNDED, block=BLOCK)
    add(index, "r1", (1, 2, 3, 4))
    assert [found(index, each, (1, 2, 3, 4)) for each in REVISIONS] == [0, 4, 0]
    add(index, None, (1, 2))
    index.forget("r1")
    assert [found(index, each, (1, 2, 3, 4)) for each in REVISIONS] == [2, 0, 0]


def test_a_shared_beginning_is_held_once() -> None:
    """Only what is missing is made."""
    index = Index(budget_bytes=UNBOUNDED, block=BLOCK)
    add(index, None, (1, 2, 3, 4, 5, 6, 7))
    assert [part.tokens for part in add(index, None, (1, 2, 3, 4, 5, 6, 8, 9))] == [(8, 9)]
    assert add(index, None, (1, 2, 3, 4)) == []


def test_a_sequence_that_goes_on_takes_the_place_of_its_own_end() -> None:
    """A conversation's last block is replaced as it fills up."""
    index = Index(budget_bytes=UNBOUNDED, block=BLOCK)
    add(index, None, (1, 2, 3, 4))
    add(index, None, (1, 2, 3, 4, 5))
    add(index, None, (1, 2, 3, 4, 5, 6, 7))
    assert sorted(part.tokens for part in index.values()) == [(1, 2, 3), (4, 5, 6), (7,)]


def test_nothing_is_held_without_a_budget() -> None:
    """0 switches it off."""
    index = Index(budget_bytes=0, block=BLOCK)
    assert add(index, None, (1, 2, 3)) == []
    assert found(index, None, (1, 2, 3)) == 0


def test_a_look_up_among_many_short_prompts_compares_two_of_them() -> None:
    """Its work does not grow with what is held: all rows wait for it between two steps."""
    counts = []
    for held in (16, 4096):
        index: Index = PrefixIndex(budget_bytes=UNBOUNDED, block=BLOCK)
        for number in range(held):
            add(index, None, (1, number, number))
        counts.append(calls(lambda index=index: found(index, None, (1, 7, 8))))  # type: ignore[misc]
        assert found(index, None, (1, 7, 8)) == 2
    assert counts[0] == counts[1]
