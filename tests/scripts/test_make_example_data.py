"""The example tasks: the committed files are the script's, and what is held out was never shown."""

from __future__ import annotations

from collections import Counter

import pytest

from scripts.make_example_data import (
    HELD_OUT,
    OTHER_GOODS,
    OTHER_TOWNS,
    OUT,
    TICKETS,
    TRAIN,
    tasks,
    to_jsonl,
)

TASKS = tasks()


@pytest.mark.parametrize("name", TASKS)
def test_the_committed_files_are_what_the_script_makes(name: str) -> None:
    """On every machine and in every version of Python."""
    assert (OUT / f"{name}.jsonl").read_text("utf-8") == to_jsonl(*TASKS[name])


@pytest.mark.parametrize("task", ["task_one", "task_two"])
def test_no_held_out_prompt_is_among_the_training_rows(task: str) -> None:
    """Neither is any row there twice."""
    train, held_out = TASKS[f"{task}.train"][1], TASKS[f"{task}.heldout"][1]
    prompts = [prompt for prompt, _ in train + held_out]
    assert len(set(prompts)) == len(prompts) == TRAIN + HELD_OUT


def test_no_held_out_ticket_is_worded_like_one_that_is_learned() -> None:
    """The complaints themselves differ, not only what is said around them."""
    for learned, asked in TICKETS.values():
        assert not set(learned) & set(asked)


def test_the_tags_are_learned_in_like_numbers() -> None:
    """So that none of them is a good guess."""
    counts = Counter(answer for _, answer in TASKS["task_one.train"][1])
    assert set(counts) == set(TICKETS)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_held_out_orders_name_what_no_training_row_does() -> None:
    """Their goods and towns are others: the form is learned, not the words."""
    learned = " ".join(prompt for prompt, _ in TASKS["task_two.train"][1])
    assert not [word for word in OTHER_GOODS + OTHER_TOWNS if word in learned]
