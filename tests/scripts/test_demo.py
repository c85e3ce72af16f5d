"""The tour's parts that need no server: what it asks for, and when it counts as failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.lineage import NewStage
from scripts import demo
from scripts.demo_tasks import CHAIN, HEAD, ORDERS, TICKETS, Asked, Task, percent_right
from scripts.demo_telling import Telling
from scripts.demo_tour import BASE, FIRST, LAST, MODELS, Tour
from server.admin_client import AdminError
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
        assert asked.prompt == asked.messages[1]["content"]


def test_an_answer_with_a_character_too_many_is_wrong() -> None:
    """Exact answers, so that 'billing.' is not 'billing'."""
    asked = [Asked((), "billing")] * 4
    assert percent_right(asked, ["billing", "billing.", " billing", "Billing"]) == 25


def test_the_chain_has_a_name_that_the_server_takes() -> None:
    """The one that the tour asks for, and with a pin."""
    assert parse(HEAD, served_name=EMBEDDED_NAME).chain == CHAIN
    assert parse(MODELS[FIRST], served_name=EMBEDDED_NAME).chain == CHAIN


def test_what_was_not_measured_is_an_empty_cell() -> None:
    """The last table has both tasks and all columns, in order."""
    tour = Tour("http://127.0.0.1:1", Telling())
    tour.shares |= {(BASE, "tickets"): 0.0, (FIRST, "tickets"): 100.0, (LAST, "orders"): 97.5}
    assert tour.table() == [
        ["held-out answers right", "base", "stage 1", "stage 2, the head"],
        ["tickets (40)", "0 %", "100 %", ""],
        ["orders (40)", "", "", "98 %"],
    ]


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[bool | BaseException]:
    """What the walk does instead: its promises, or an error."""
    steps: list[bool | BaseException] = []

    def walk(_: Path, __: Path, telling: Telling) -> Tour:
        for step in steps:
            if isinstance(step, BaseException):
                raise step
            telling.expect(step, "a promise")
        return Tour("http://127.0.0.1:1", telling)

    monkeypatch.setattr(demo, "_serve_and_walk", walk)
    monkeypatch.setattr(demo, "ensure_embedded", lambda *_, **__: Path())
    return steps


@pytest.mark.parametrize(
    ("steps", "code", "said"),
    [
        ([True, True], 0, "All 2 promises kept, in "),
        ([True, False], 1, "1 of 2 NOT kept, in "),
        ([True, AdminError("no answer")], 1, "The tour cannot go on. no answer"),
        ([KeyboardInterrupt()], 130, "The tour ends here; its server has stopped."),
    ],
)
def test_the_exit_code_says_how_it_ended(
    steps: list[bool | BaseException],
    code: int,
    said: str,
    walked: list[bool | BaseException],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And the last lines why."""
    walked += steps
    assert demo.main([]) == code
    out, err = capsys.readouterr()
    assert said in (err if code == 130 or "cannot" in said else out)


def test_a_transcript_is_what_is_printed_without_a_terminal(
    walked: list[bool | BaseException], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And overwrites nothing, which is known before anything starts."""
    walked.append(True)
    file = tmp_path / "tour.txt"
    assert demo.main(["--transcript", str(file)]) == 0
    assert file.read_text() == capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        demo.main(["--transcript", str(file)])
    assert ended.value.code == 2
    assert "File exists" in capsys.readouterr().err
