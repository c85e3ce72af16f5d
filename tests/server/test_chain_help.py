"""What ``chainlora chain`` says of itself."""

from __future__ import annotations

import re

import pytest

from server import cli
from server.chain_cli import USAGE

COMMANDS = re.findall(r"^  ([a-z]+)  ", USAGE, flags=re.MULTILINE)


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The help of a command, its lines joined."""
    assert cli.main(["chain", command, "--help"]) == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_each_of_its_options(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sentence, and words behind every name."""
    assert cli.main(["chain", command, "--help"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"\n\n[A-Z][^\n]+", said), said
    rows = re.findall(r"^  (-?\S.*(?:\n {10,}.*)?)$", said, flags=re.MULTILINE)
    assert rows
    assert [row for row in rows if not re.search(r"\S {2,}\S|\n {10,}\S", row)] == []


def test_the_import_tells_the_history_of_the_scale(capsys: pytest.CaptureFixture[str]) -> None:
    """An npz of 2023 with the scale of 2024 is ten times too strong."""
    said = help_of("import", capsys)
    assert "20 since 2024-01-09, 2.0 before; default: 20" in said
    assert "lora.py's --lora-layers, 16 there" in said
