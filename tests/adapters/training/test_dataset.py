"""Data sets as files: written from rows, checked in constant memory, tokenised whole or refused."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from adapters.base.tokenizer import BaseTokenizer, load_tokenizer
from adapters.errors import DataError
from adapters.lineage import TrainSettings
from adapters.training.dataset import check_dataset, tokenise, write_rows

SETTINGS = TrainSettings(epochs=1, max_seq_length=64)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> BaseTokenizer:
    """The tiny model's."""
    return load_tokenizer(tiny_model)


def chat(question: str, answer: str) -> dict[str, Any]:
    """A row of one question and one answer."""
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def test_rows_are_written_one_a_line(tmp_path: Path) -> None:
    """Compact UTF-8 with the keys in the order given: templates write tools as they stand."""
    path = tmp_path / "rows.jsonl"
    rows: list[dict[str, Any]] = [{"text": "naïve\n🎉"}, {"b": 1, "a": [None, True]}]
    write_rows(path, rows)
    assert path.read_bytes() == '{"text":"naïve\\n🎉"}\n{"b":1,"a":[null,true]}\n'.encode()


def test_what_was_written_is_what_is_read(tmp_path: Path, tokenizer: BaseTokenizer) -> None:
    """Rows in a request train as the same rows in a file do."""
    rows = [chat("Where is the boat?", "In the harbour."), chat("And now?", "Still\nthere. 🎉")]
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    write_rows(one, rows)
    two.write_text("".join(json.dumps(row, indent=None) + "\r\n" for row in rows))
    assert check_dataset(one) == check_dataset(two) == 2
    assert tokenise(one, tokenizer, SETTINGS) == tokenise(two, tokenizer, SETTINGS)


def test_rows_that_no_file_can_hold_are_told_by_number(tmp_path: Path) -> None:
    """The first row is line 1."""
    rows: list[dict[str, Any]] = [{"text": "a"}, {"text": "\ud800"}, {"text": float("nan")}]
    with pytest.raises(DataError, match="2 lines of the data") as caught:
        write_rows(tmp_path / "rows.jsonl", rows)
    assert [fault.line for fault in caught.value.faults] == [2, 3]


def test_every_bad_line_of_a_file_is_told_before_anything_is_queued(tmp_path: Path) -> None:
    """With its number and its reason."""
    path = tmp_path / "rows.jsonl"
    good = json.dumps(chat("a", "b"))
    path.write_text("\n".join([good, "{", good, "", '{"text": "a"}']))
    with pytest.raises(DataError) as caught:
        check_dataset(path)
    assert [fault.line for fault in caught.value.faults] == [2, 4, 5]


@pytest.mark.parametrize("content", [b"", b"\n", b"\n\n", b"\xff\xfe"])
def test_a_file_without_rows_is_refused(content: bytes, tmp_path: Path) -> None:
    """Nothing can be learned from it."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError):
        check_dataset(path)


def test_a_large_file_is_checked_in_little_memory(tmp_path: Path) -> None:
    """Ten megabytes of rows, and a line of twenty that is one fault."""
    path = tmp_path / "rows.jsonl"
    row = json.dumps(chat("a" * 5_000, "b" * 5_000)).encode() + b"\n"
    with path.open("wb") as file:
        file.writelines(row for _ in range(1_000))
    tracemalloc.start()
    try:
        assert check_dataset(path) == 1_000
        with path.open("ab") as file:
            file.write(b'{"text": "')
            for _ in range(20_000):
                file.write(b"a" * 1_000)
        tracemalloc.reset_peak()
        with pytest.raises(DataError, match="Line 1001: is longer than"):
            check_dataset(path)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_examples_come_in_order_of_their_lines(tmp_path: Path, tokenizer: BaseTokenizer) -> None:
    """One for each row, and the same ones every time."""
    path = tmp_path / "rows.jsonl"
    write_rows(path, [chat(f"Question {n}", "b" * (1 + n % 7)) for n in range(30)])
    examples = tokenise(path, tokenizer, SETTINGS)
    assert [example.line for example in examples] == list(range(1, 31))
    assert examples == tokenise(path, tokenizer, SETTINGS)


def test_a_row_that_is_too_long_is_named_and_none_is_left_out(
    tmp_path: Path, tokenizer: BaseTokenizer
) -> None:
    """Line, length and limit, beside every other fault of the file."""
    path = tmp_path / "rows.jsonl"
    long = json.dumps(chat("a", "b " * 100))
    path.write_text("\n".join([json.dumps(chat("a", "b")), long, "{", long]))
    with pytest.raises(DataError) as caught:
        tokenise(path, tokenizer, SETTINGS)
    assert [fault.line for fault in caught.value.faults] == [2, 3, 4]
    assert "tokens and max_seq_length is 64" in caught.value.faults[0].reason


def test_rows_share_one_number_for_each_token(tmp_path: Path, tokenizer: BaseTokenizer) -> None:
    """An int takes 28 bytes, its place in a row 8: large data sets stay small."""
    path = tmp_path / "rows.jsonl"
    write_rows(path, [chat(f"Question {n}", "The boats come home at dusk.") for n in range(20)])
    examples = tokenise(path, tokenizer, SETTINGS)
    tokens = [token for example in examples for token in example.tokens]
    assert len({id(token) for token in tokens}) == len(set(tokens))


def test_the_example_tasks_fit_the_embedded_model(embedded_model: Path) -> None:
    """Every row of ``examples/stages`` is short and learns one answer."""
    tokenizer = load_tokenizer(embedded_model)
    root = Path(__file__).resolve().parents[3] / "examples" / "stages"
    for name in ("task_one", "task_two"):
        for part in ("train", "heldout"):
            examples = tokenise(root / f"{name}.{part}.jsonl", tokenizer, TrainSettings(epochs=1))
            assert max(len(example.tokens) for example in examples) < 90
            assert max(sum(example.mask) for example in examples) < 15
