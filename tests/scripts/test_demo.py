"""The tour's parts that need no server: what it asks for, and when it counts as failed."""

from __future__ import annotations

import pytest

from adapters.lineage import NewStage
from scripts.demo import CHAIN, HEAD, ORDERS, TICKETS, Asked, Task, Tour, percent_right
from server.api.admin.schema import StageBody, checked
from server.core.names import parse
from server.settings import EMBEDDED_NAME


@pytest.mark.parametrize("task", [TICKETS, ORDERS], ids=lambda task: task.name)
def test_the_stages_are_such_as_the_server_takes(task: Task) -> None:
    """Every field is one of ``POST /admin/stages``."""
    new = checked(StageBody, task.stage()).asked()
    assert isinstance(new, NewStage)
    assert new.chain == CHAIN


@pytest.mark.parametrize("task", [TICKETS, ORDERS], ids=lambda task: task.name)
def test_what_is_asked_ends_before_the_answer(task: Task) -> None:
    """The instruction and the prompt; the answer is what is compared."""
    for asked in task.held_out():
        assert [message["role"] for message in asked.messages] == ["system", "user"]
        assert asked.answer


def test_an_answer_with_a_character_too_many_is_wrong() -> None:
    """Exact answers, so that 'billing.' is not 'billing'."""
    asked = [Asked((), "billing")] * 4
    assert percent_right(asked, ["billing", "billing.", " billing", "Billing"]) == 25


def test_a_promise_that_is_not_kept_is_remembered(capsys: pytest.CaptureFixture[str]) -> None:
    """It decides the exit code; what was kept does not."""
    tour = Tour("http://127.0.0.1:1")
    tour.expect(True, "kept")
    tour.expect(False, "broken")
    assert tour.missed == ["broken"]
    assert capsys.readouterr().out == "  ok  kept\n  NOT broken\n"


def test_the_chain_has_a_name_that_the_server_takes() -> None:
    """The one that the tour asks for, and with a pin."""
    assert parse(HEAD, served_name=EMBEDDED_NAME).chain == CHAIN
    assert parse(f"{HEAD}@1", served_name=EMBEDDED_NAME).chain == CHAIN
