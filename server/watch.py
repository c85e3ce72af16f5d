"""A stage, followed to its end: as a bar, as lines or as JSON, across lost connections."""

from __future__ import annotations

import json
from typing import Any, Protocol

from server.admin_client import AdminClient, AdminError, Json, Unreachable
from server.screen import Screen, clock, figure, shown

FINAL = frozenset({"succeeded", "failed", "cancelled"})
"""States that nothing follows."""
ENDS = FINAL | {"held"}
"""States at which a person must decide, or nothing more comes."""

_PATIENCE_S = 120.0
"""How long a server may be away: a supervised one is back within a minute."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 5.0
_AWAY = frozenset({502, 503, 504})
_BAR = 16
"""With it a step and its figures fit 80 columns."""


class Display(Protocol):
    """How events are shown."""

    def event(self, event: Json) -> None:
        """One more event."""
        ...

    def note(self, text: str) -> None:
        """Something about the connection."""
        ...

    def end(self, stage: Json | None) -> None:
        """The last word; None where nobody watches any more."""
        ...


def watch(client: AdminClient, stage_id: str, screen: Screen, *, as_json: bool) -> Json:
    """Show the stage until it ends, or waits for a decision, and return it as it is then.

    A lost connection is taken up after the last event that was seen. Raises AdminError where the
    server refuses or stays away for two minutes; KeyboardInterrupt passes through.
    """
    stage = client.get("stages", stage_id)
    display: Display = JsonLines(screen) if as_json else Progress(screen, stage)
    try:
        stage = _follow(client, stage_id, screen, display)
    except BaseException:
        display.end(None)
        raise
    display.end(stage)
    return stage


def _follow(client: AdminClient, stage_id: str, screen: Screen, display: Display) -> Json:
    seen, away_s, wait_s = 0, 0.0, _FIRST_WAIT_S
    while True:
        try:
            for event in client.events(stage_id, after=seen):
                seen, away_s, wait_s = event["id"], 0.0, _FIRST_WAIT_S
                display.event(event)
                if _state_of(event) in ENDS:
                    break
            stage = client.get("stages", stage_id)
            if stage["status"] in ENDS:
                return stage
        except AdminError as error:
            if not isinstance(error, Unreachable) and error.status not in _AWAY:
                raise
            if away_s >= _PATIENCE_S:
                raise
            if not away_s:
                display.note("the connection is lost; trying again")
        screen.sleep(wait_s)
        away_s += wait_s
        wait_s = min(2 * wait_s, _LONGEST_WAIT_S)


def _state_of(event: Json) -> str | None:
    state: str | None = event["data"].get("state") if event["kind"] == "state" else None
    return state


class JsonLines:
    """Every event as a line, and the stage as the last one."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def event(self, event: Json) -> None:
        """As the port."""
        self._screen.line(json.dumps(event))

    def note(self, text: str) -> None:
        """Nothing: it is no event of the stage."""

    def end(self, stage: Json | None) -> None:
        """As the port."""
        if stage is not None:
            self._screen.line(json.dumps(stage))


class Progress:
    """Lines for people; on a terminal, steps are one line that is drawn again and again.

    Elsewhere at most a hundred lines are written for steps, whatever their number.
    """

    def __init__(self, screen: Screen, stage: Json) -> None:
        self._screen = screen
        self._id = stage["id"]
        self._steps = stage["progress"]["steps"]
        self._drawn = ""
        self._percent = -1
        self._line(f"{self._id}: stage {stage['number']} of {stage['chain']}, {stage['model']}")

    def event(self, event: Json) -> None:
        """As the port."""
        data = event["data"]
        if event["kind"] == "step":
            self._step(data)
            return
        if _state_of(event) in ENDS:
            return  # ``end`` says it, with what became of the stage
        for line in _told(event["kind"], data):
            self._line(line)

    def note(self, text: str) -> None:
        """As the port."""
        self._line(text)

    def end(self, stage: Json | None) -> None:
        """As the port."""
        if self._drawn:
            self._screen.write("\n")
            self._drawn = ""
        if stage is None:
            self._line(f"not watching any more; 'chainlora stage watch {self._id}' goes on")
            return
        for line in outcome(stage):
            self._line(line)

    def _step(self, data: Json) -> None:
        step = data.get("step", 0)
        self._steps = data.get("steps") or self._steps
        percent = 100 * step // self._steps if self._steps else step
        facts = [
            f"step {figure(step)}/{figure(self._steps)}" if self._steps else f"step {figure(step)}",
            f"{percent:3d} %" if self._steps else "",
            f"loss {data['loss']:.4f}" if _is_number(data.get("loss")) else "",
            f"{data['tokens_per_s']:,.0f} tokens/s" if _is_number(data.get("tokens_per_s")) else "",
            f"{clock(data.get('left_s'))} left" if data.get("left_s") is not None else "",
        ]
        text = "  ".join(filter(None, facts))
        if self._screen.is_terminal:
            self._draw(f"{bar(percent)} {text}" if self._steps else text)
        elif percent != self._percent or step == self._steps:
            self._line(text)
        self._percent = percent

    def _draw(self, text: str) -> None:
        text = text[: max(1, self._screen.width() - 1)]
        self._screen.write("\r" + text.ljust(len(self._drawn)))
        self._drawn = text

    def _line(self, text: str) -> None:
        """A line; the bar stays below it."""
        if self._drawn:
            self._screen.write("\r" + text.ljust(len(self._drawn)) + "\n" + self._drawn)
        else:
            self._screen.line(text)


def _told(kind: str, data: Json) -> list[str]:
    step = data.get("step")
    at = "" if step is None else f" at step {figure(step)}"
    match kind:
        case "state":
            error = data.get("error") if data.get("state") == "paused" else None
            why = [f"  {shown(error.get('message'), most=4000)}"] if error else []
            return [shown(data.get("state")), *why]
        case "validation":
            return [f"validation{at}: loss {figure(data.get('loss'))}"]
        case "sample":
            lines = [f"sample{at}: {shown(data.get('prompt'))}"]
            if data.get("parent_answer") is not None:
                lines.append(f"  before: {shown(data['parent_answer'])}")
            return [*lines, f"  now:    {shown(data.get('answer'))}"]
        case "warning":
            return [f"warning: {shown(data.get('message'))}"]
        case _:
            return [f"{shown(kind)}{at}"]


def outcome(stage: Json) -> list[str]:
    """How the stage ended, in words."""
    status = stage["status"]
    if status != "succeeded" and stage["error"]:
        error = stage["error"]
        return [f"{shown(status)} ({shown(error['code'])}): {shown(error['message'], most=4000)}"]
    figures = [
        f"{name.replace('_', ' ')} {figure(value)}"
        for name, value in stage["metrics"].items()
        if _is_number(value)
    ]
    if status == "succeeded":
        return [f"{stage['model']} is served", *(["  ".join(figures)] if figures else [])]
    return [f"the stage is {shown(status)}"]


def bar(percent: int) -> str:
    """How much of something is done."""
    full = _BAR * min(max(percent, 0), 100) // 100
    return f"[{'#' * full}{'.' * (_BAR - full)}]"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
