"""The rules by which prompts are cut into pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.core.schedule import PrefillPace, plan_prefill


@given(
    st.lists(st.integers(1, 500), min_size=1, max_size=12), st.integers(16, 600), st.integers(1, 8)
)
def test_a_piece_serves_the_due_row_within_its_budget(
    remaining: list[int], budget: int, most: int
) -> None:
    """Never more tokens than the budget, never more padding than half, always progress."""
    piece = plan_prefill(remaining, budget=budget, most_rows=most, overhead=20)
    assert piece.rows[0] == 0
    assert 1 <= len(piece.rows) <= most
    assert 1 <= piece.tokens_per_row * len(piece.rows) <= budget
    real = sum(min(remaining[index], piece.tokens_per_row) for index in piece.rows)
    assert 2 * real >= piece.tokens_per_row * len(piece.rows)


def test_a_share_is_stretched_to_the_rows_that_nearly_end_with_it() -> None:
    """A rest of a few tokens would be a piece of its own."""
    piece = plan_prefill([50, 54, 52, 51], budget=256, most_rows=8, overhead=20)
    assert (sorted(piece.rows), piece.tokens_per_row) == ([0, 1, 2, 3], 54)


def test_rows_of_one_length_share_a_piece_before_others() -> None:
    """Whatever their order; the due row is always there."""
    piece = plan_prefill([50, 30, 90, 49, 28, 50], budget=150, most_rows=8, overhead=20)
    assert (sorted(piece.rows), piece.tokens_per_row) == ([0, 3, 5], 50)


def test_a_row_that_is_little_shorter_does_not_cut_the_others_short() -> None:
    """Some padding costs less than a rest of each of the others."""
    piece = plan_prefill([40, 50, 50, 50], budget=256, most_rows=8, overhead=20)
    assert (sorted(piece.rows), piece.tokens_per_row) == ([0, 1, 2, 3], 50)


def pace(*, fixed_s: float = 0.05, tokens_per_s: float = 1000.0) -> PrefillPace:
    """Blocks of 250 ms on a device of 1,000 tokens a second beyond 50 ms for each piece."""
    return PrefillPace(block_s=0.25, fixed_s=fixed_s, tokens_per_s=tokens_per_s, most_tokens=4096)


def test_a_piece_lasts_one_block_while_most_rows_decode() -> None:
    """What each piece takes before its first token counts."""
    assert pace().budget(waiting=1, decoding=3) == 200
    assert pace().budget(waiting=8, decoding=17) == 200


def test_a_piece_lasts_four_blocks_while_nobody_decodes_or_many_wait() -> None:
    """A burst is worth one longer gap: its rows then decode together."""
    assert pace().budget(waiting=1, decoding=0) == 950
    assert pace().budget(waiting=8, decoding=16) == 950


def test_a_piece_is_never_so_short_that_most_of_it_is_lost() -> None:
    """Where a block holds hardly a token, what each piece takes anyhow is a third of it."""
    assert pace(fixed_s=0.24).budget(waiting=1, decoding=9) == 480
    assert pace(fixed_s=0.001, tokens_per_s=10).budget(waiting=1, decoding=9) == 16


def test_the_pace_follows_the_device_also_where_pieces_are_short() -> None:
    """Short pieces have fewer tokens a second; that must not make the next one shorter still."""
    steady = pace()
    for tokens in (1, 8, 16, 500):
        steady.observe(tokens=tokens, seconds=0.05 + tokens / 1000)
    assert round(steady.tokens_per_s, 6) == 1000
    slower = pace()
    for _ in range(40):
        slower.observe(tokens=100, seconds=0.3)
    assert round(slower.tokens_per_s) == 500
    assert round(slower.fixed_s, 3) == 0.1


def test_one_piece_that_was_held_up_does_not_change_much() -> None:
    """Nor does a piece without tokens."""
    held_up = pace()
    held_up.observe(tokens=0, seconds=9)
    held_up.observe(tokens=100, seconds=1000)
    assert held_up.budget(waiting=1, decoding=9) > 140
