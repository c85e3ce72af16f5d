"""A stage is followed to its end, across lost connections, and shown as fits the output."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from server.admin_client import AdminClient, AdminError, Json, Unreachable
from server.screen import Screen, clock, figure, shown, table
from server.watch import watch

Turn = Sequence[Json | Exception]


def stage(status: str = "queued", **changes: Any) -> Json:
    """A stage object."""
    return {
        "id": "s1",
        "chain": "a",
        "number": 2,
        "model": "tiny:a@2",
        "status": status,
        "progress": {"step": 0, "steps": 0, "left_s": None},
        "metrics": {},
        "error": None,
        **changes,
    }


def event(number: int, kind: str, **data: Any) -> Json:
    """An event object."""
    return {"id": number, "object": "stage.event", "stage": "s1", "kind": kind, "data": data}


def state(number: int, name: str) -> Json:
    """A change of state."""
    return event(number, "state", state=name)


def step(number: int, of: int = 10, **data: Any) -> Json:
    """A step of ``of``."""
    return event(number, "step", step=number, steps=of, loss=1.5, tokens_per_s=99.6, **data)


class Scripted(AdminClient):
    """A server of which each connection does what its turn says; ``asked`` keeps the ``after``s.

    The stage is looked at once before and once after each turn that does not fail.
    """

    def __init__(self, *turns: Turn, looks: Sequence[Json | Exception] = ()) -> None:
        super().__init__("http://127.0.0.1:1")
        self._turns = iter(turns)
        self._looks = iter([stage(), *looks])
        self.asked: list[int] = []

    def get(self, *path: str, query: Any = None) -> Json:
        """The next look."""
        found = next(self._looks)
        if isinstance(found, Exception):
            raise found
        return found

    def events(self, stage: str, *, after: int = 0) -> Iterator[Json]:
        """The next turn."""
        self.asked.append(after)
        for one in next(self._turns):
            if isinstance(one, Exception):
                raise one
            yield one


class Paper:
    """What was written, and how long was slept."""

    def __init__(self, *, terminal: bool = False, width: int = 200) -> None:
        self.text = ""
        self.slept: list[float] = []
        self.screen = Screen(self._write, input, terminal, lambda: width, self.slept.append)

    def _write(self, text: str) -> None:
        self.text += text

    @property
    def lines(self) -> list[str]:
        """The lines, without what only fills them up."""
        return [line.rstrip() for line in self.text.splitlines()]


def follow(client: Scripted, paper: Paper, *, as_json: bool = False) -> Json:
    """Watch the stage."""
    return watch(client, "s1", paper.screen, as_json=as_json)


def test_what_happens_is_told_in_lines() -> None:
    """States, steps, validations, samples, warnings, and the outcome with its figures."""
    turn = [
        state(1, "running"),
        step(5, left_s=65.0),
        event(6, "validation", step=5, loss=1.23456),
        event(7, "sample", step=5, prompt="hi", answer="ahoy", parent_answer="hello"),
        event(8, "sample", step=5, prompt="hi", answer="ahoy", parent_answer=None),
        event(9, "warning", message="a row is long"),
        event(10, "checkpoint", step=5),
        state(11, "succeeded"),
    ]
    paper = Paper()
    done = stage("succeeded", metrics={"loss": 1.0, "validation_loss": 2, "note": "x"})
    assert follow(Scripted(turn, looks=[done]), paper) == done
    assert paper.lines == [
        "s1: stage 2 of a, tiny:a@2",
        "running",
        "step 5/10   50 %  loss 1.5000  100 tokens/s  1 min left",
        "validation at step 5: loss 1.235",
        "sample at step 5: hi",
        "  before: hello",
        "  now:    ahoy",
        "sample at step 5: hi",
        "  now:    ahoy",
        "warning: a row is long",
        "checkpoint at step 5",
        "tiny:a@2 is served",
        "loss 1  validation loss 2",
    ]


def test_a_stop_says_why() -> None:
    """Of a pause that the disk made, too, which is followed on: somebody may make room."""
    full = {"code": "storage_full", "message": "make room"}
    error = {"code": "non_finite", "message": "lower the rate"}
    turn = [event(1, "state", state="paused", error=full), state(2, "failed")]
    paper = Paper()
    follow(Scripted(turn, looks=[stage("failed", error=error)]), paper)
    assert paper.lines[1:3] == ["paused", "  make room"]
    assert paper.lines[-1] == "failed (non_finite): lower the rate"


@pytest.mark.parametrize("end", ["cancelled", "held"])
def test_another_end_is_named(end: str) -> None:
    """A held stage waits for a person, so watching it ends as well."""
    paper = Paper()
    assert follow(Scripted([state(1, end)], looks=[stage(end)]), paper)["status"] == end
    assert paper.lines[-1] == f"the stage is {end}"


def test_thousands_of_steps_make_a_hundred_lines() -> None:
    """A log file stays readable; the last step is always there."""
    turn = [*(step(number, of=5000) for number in range(1, 5001)), state(5001, "succeeded")]
    paper = Paper()
    follow(Scripted(turn, looks=[stage("succeeded")]), paper)
    steps = [line for line in paper.lines if line.startswith("step")]
    assert len(steps) == 101
    assert steps[-1].startswith("step 5,000/5,000  100 %")


def test_a_step_of_an_unknown_number_is_shown() -> None:
    """Without a total there is no share and no bar."""
    paper = Paper(terminal=True)
    turn = [event(1, "step", step=3, loss=None), state(2, "cancelled")]
    follow(Scripted(turn, looks=[stage("cancelled")]), paper)
    assert "\rstep 3\n" in paper.text


def test_a_terminal_shows_one_bar_below_the_lines() -> None:
    """It is drawn over itself, never longer than a line, and stays at the end."""
    turn = [
        step(5, left_s=7.0),
        step(6),
        event(7, "warning", message="careful"),
        state(8, "succeeded"),
    ]
    paper = Paper(terminal=True, width=52)
    follow(Scripted(turn, looks=[stage("succeeded")]), paper)
    first = "[########........] step 5/10   50 %  loss 1.5000  1"
    second = "[#########.......] step 6/10   60 %  loss 1.5000  1"
    assert (len(first), len(second)) == (51, 51)
    assert paper.text.partition("\n")[2] == (
        f"\r{first}\r{second}\r{'warning: careful'.ljust(51)}\n{second}\ntiny:a@2 is served\n"
    )


def test_what_a_model_says_cannot_steer_the_terminal() -> None:
    """An answer is text of anyone's making: escapes and line ends are taken out."""
    turn = [
        event(1, "sample", step=1, prompt="p", answer="a\x1b[2J\r\nb\x07\u202e" + "x" * 600),
        state(2, "cancelled"),
    ]
    paper = Paper(terminal=True)
    follow(Scripted(turn, looks=[stage("cancelled")]), paper)
    assert set(paper.text) - {"\n", "\r"} == {one for one in paper.text if one.isprintable()}
    assert "now:    a [2J b" in paper.text
    assert "x" * 500 not in paper.text


def test_json_is_one_event_a_line_and_the_stage_last() -> None:
    """Nothing else: no heading, no note about the connection."""
    turns: list[Turn] = [[state(1, "running"), Unreachable("x")], [state(2, "succeeded")]]
    paper = Paper()
    done = stage("succeeded")
    follow(Scripted(*turns, looks=[done]), paper, as_json=True)
    assert [json.loads(line) for line in paper.lines] == [
        state(1, "running"),
        state(2, "succeeded"),
        done,
    ]


def test_a_lost_connection_is_taken_up_after_the_last_event() -> None:
    """Broken off, ended by a server that stops, or refused while it starts again."""
    client = Scripted(
        [state(1, "running"), step(4), Unreachable("broken")],
        [AdminError("it is starting", status=503)],
        [step(6)],
        [state(9, "succeeded")],
        looks=[stage("running"), stage("succeeded")],
    )
    paper = Paper()
    assert follow(client, paper)["status"] == "succeeded"
    assert client.asked == [0, 4, 4, 6]
    assert paper.lines.count("the connection is lost; trying again") == 1
    assert paper.slept == [0.5, 1.0, 0.5]


def test_an_end_that_was_missed_is_noticed() -> None:
    """The stream has nothing more to say; the stage itself says that it is over."""
    client = Scripted([Unreachable("broken")], [], looks=[stage("succeeded")])
    assert follow(client, Paper())["status"] == "succeeded"


def test_a_server_that_stays_away_is_given_up() -> None:
    """After two minutes, with its last error."""
    paper = Paper()
    turns = [[Unreachable("nobody answers")]] * 100
    with pytest.raises(Unreachable, match="nobody answers"):
        follow(Scripted(*turns), paper)
    assert 120 <= sum(paper.slept) <= 126
    assert paper.lines[-1].startswith("not watching any more; 'chainlora stage watch s1'")


def test_a_refusal_ends_watching_at_once() -> None:
    """No stage of that id will appear by waiting."""
    paper = Paper()
    with pytest.raises(AdminError, match="no stage"):
        follow(Scripted([AdminError("no stage", status=404)]), paper)
    assert paper.slept == []


def test_ctrl_c_leaves_the_stage_running_and_says_so() -> None:
    """Watching is no part of training."""
    paper = Paper(terminal=True)

    class Interrupted(Scripted):
        def events(self, stage: str, *, after: int = 0) -> Iterator[Json]:
            yield step(5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        follow(Interrupted(), paper)
    assert paper.lines[-1] == "not watching any more; 'chainlora stage watch s1' goes on"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (-1, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (3570, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_a_length_of_time_is_short(seconds: float | None, text: str) -> None:
    """Two units at most."""
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (1.23456, "1.235"), (12345, "12,345"), (True, "True"), ("a\nb", "a b")],
)
def test_a_figure_is_short(value: object, text: str) -> None:
    """Four digits of a loss say enough."""
    assert figure(value) == text


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    """Numbers flush right; no line ends in spaces."""
    rows = [("A", "B", "C"), ("long", 7, None), ("x", 123, "y")]
    assert table(rows, right=(1,)) == "A       B  C\nlong    7\nx     123  y\n"


def test_a_text_that_is_too_long_is_cut() -> None:
    """With a sign that it was."""
    assert shown("x" * 10, most=8) == "xxxxx..."
