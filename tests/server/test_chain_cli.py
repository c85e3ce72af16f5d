"""``chainlora chain`` against a real server: what it asks and prints."""

from __future__ import annotations

import dataclasses
import json

import pytest

from server import chain_cli
from server.screen import Screen
from tests.server.conftest import Shell
from tests.terminal import Terminal


def test_a_chain_s_commands_do_what_they_say(shell: Shell) -> None:
    """List, show, roll back, fork, label, prune and delete."""
    shell.publish("a", "a", "a")
    shell.add(chain="b")
    assert shell("chain", "rollback", "a", "2") == "tiny:a is stage 2\n"
    assert shell("chain", "label", "a", "old", "1") == "tiny:a is stage 2; old = 1\n"
    assert shell("chain", "fork", "a", "c", "--revision", "old") == "tiny:c is stage 1\n"
    listed = shell("chain", "list").splitlines()
    assert [line.split()[:3] for line in listed[1:]] == [
        ["tiny:a", "stage", "2"],
        ["tiny:b", *listed[2].split()[1:3]],
        ["tiny:c", "stage", "1"],
    ]
    assert shell("chain", "show", "b").startswith("tiny:b has no revision yet\n")
    assert shell("chain", "label", "a", "old", "--remove") == "tiny:a is stage 2\n"
    assert shell("chain", "prune", "a", "--keep-last", "1") == (
        "deleted sha256-a-1\n1 deleted; the lineage keeps their records\n"
    )
    shown = shell("chain", "show", "a")
    assert "tiny:a@1  succeeded, deleted" in shown
    assert shell("chain", "delete", "a", "3", "--yes") == "deleted sha256-a-3\n"
    assert shell("chain", "delete", "c", "--yes") == "deleted c\n"
    assert "no chain 'c'" in shell.fails("chain", "show", "c")


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["show", "a"],
        ["rollback", "a", "1"],
        ["fork", "a", "d"],
        ["label", "a", "x", "1"],
        ["prune", "a", "--keep-last", "1"],
        ["delete", "a", "1", "--yes"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_every_command_of_a_chain_speaks_json(shell: Shell, arguments: list[str]) -> None:
    """One document."""
    shell.publish("a", "a")
    assert isinstance(json.loads(shell("chain", *arguments, "--json")), dict)


def test_all_chains_are_listed(shell: Shell) -> None:
    """However many pages the server makes of them."""
    chains = shell.behind.state.chains
    shell.publish("a")
    for number in range(250):
        chains[f"b{number:03d}"] = dataclasses.replace(chains["a"], name=f"b{number:03d}")
    assert len(json.loads(shell("chain", "list", "--json"))["data"]) == 251


@pytest.mark.parametrize(("typed", "gone"), [("y\n", True), ("Yes\n", True), ("\n", False)])
def test_deleting_asks_first(shell: Shell, typed: str, gone: bool) -> None:
    """On a terminal; anything but yes keeps everything."""
    shell.publish("a")
    with Terminal(["chain", "delete", "a", "--url", shell.url]) as terminal:
        terminal.expect("Delete chain a? Its files cannot be brought back. [y/N] ")
        terminal.type(typed)
        terminal.expect("deleted a" if gone else "nothing is deleted")
        assert terminal.exit_code() == (0 if gone else 1)
    assert ("a" in shell.behind.state.chains) != gone


def test_nothing_is_deleted_where_nobody_can_be_asked(shell: Shell) -> None:
    """A script says --yes; the end of the input is no yes."""
    shell.publish("a")
    for flag in ([], ["--json"]):
        assert "--yes deletes chain a" in shell.fails("chain", "delete", "a", *flag, code=2)

    def end(question: str) -> str:
        raise EOFError

    text: list[str] = []
    screen = Screen(text.append, end, is_terminal=True)
    assert chain_cli.run(["delete", "a", "1", "--url", shell.url], screen) == 1
    assert text == ["nothing is deleted\n"]
    assert "a" in shell.behind.state.chains
