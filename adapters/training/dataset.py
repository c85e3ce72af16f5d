"""Data sets: written, checked when they arrive, and tokenised for a stage."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from adapters.lineage import TrainSettings
from adapters.ports import Tokenizer
from adapters.strict_json import check_values
from adapters.training.batches import Example
from adapters.training.jsonl import BadLine, read_lines
from adapters.training.render import Renderer
from adapters.training.rows import Faults, read_rows

_TURN_S = 0.001
_REST_S = 0.00005
"""How long a check works, and rests: other threads of the server wait for the interpreter. Left to
itself it lets go for microseconds at each read, which wakes them too late and keeps them from
asking for their turn: chats stood still for half a minute beside a large file."""


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows that came as JSON objects as a data set, one line each.

    The same rows give the same bytes. Keys keep their order, since chat templates write a tool's
    schema as it stands. Raises DataError for values that no JSON file in UTF-8 can hold;
    ``check_dataset`` says what else is wrong.
    """
    faults = Faults()
    with path.open("wb") as file:
        for number, row in enumerate(rows, start=1):
            try:
                check_values(row)
            except BadLine as error:
                faults.add(number, str(error))
                continue
            text = json.dumps(row, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
            file.write(text.encode() + b"\n")
    faults.raise_any()


def check_dataset(path: Path) -> int:
    """The number of rows in a JSONL file, read line by line in constant memory.

    Raises DataError with every line that is no row in one of the forms of ``rows``; whether rows
    fit a base and a length is for ``tokenise``.
    """
    faults = Faults()
    with path.open("rb") as file:
        count = sum(1 for _ in read_rows(_in_turns(read_lines(file)), faults))
    faults.raise_any()
    return count


def _in_turns(lines: Iterable[bytes]) -> Iterator[bytes]:
    end = time.monotonic() + _TURN_S
    for line in lines:
        yield line
        if time.monotonic() > end:
            time.sleep(_REST_S)
            end = time.monotonic() + _TURN_S


def tokenise(
    path: Path,
    tokenizer: Tokenizer,
    settings: TrainSettings,
    *,
    before_row: Callable[[], None] = lambda: None,
) -> list[Example]:
    """The examples of a data set in order of its lines; a function of the file and the tokenizer.

    Raises DataError with every line that is no row, is longer than ``max_seq_length`` tokens or
    cannot be rendered as serving would see it; no row is cut or left out. What ``before_row``
    raises ends it: many rows take long.
    """
    renderer = Renderer(tokenizer, max_seq_length=settings.max_seq_length)
    faults = Faults()
    examples: list[Example] = []
    with path.open("rb") as file:
        for row in read_rows(read_lines(file), faults):
            before_row()
            try:
                made = renderer.render(row)
            except BadLine as error:
                faults.add(row.line, str(error))
                continue
            if not faults:  # else nothing will come of them
                examples += made
    faults.raise_any()
    return examples
