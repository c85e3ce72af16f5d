"""The command line: usage, exit codes, and each command that needs no model from end to end."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from server.cli import main
from server.settings import Settings
from server.settings_text import flag_of, variable_of
from tests.live_server import LiveServer, live_server
from tests.terminal import Terminal


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the caller's environment reaches a test."""
    for name in list(os.environ):
        if name.startswith("CHAINLORA_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    """A server whose every row says hello."""
    with live_server() as running:
        yield running


def test_no_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """The commands are listed on standard error, exit code 2."""
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "serve" in err


@pytest.mark.parametrize("word", ["-h", "--help", "help"])
def test_help_lists_every_command(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Asked for, the list is no error."""
    assert main([word]) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("serve", "doctor", "chat", "version"))


def test_an_unknown_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """One line names the word and the commands that there are."""
    assert _error(["sevre"], capsys) == (
        "chainlora: there is no command 'sevre'; the commands are "
        "serve, doctor, chat, stage, chain, convert, fuse, version"
    )


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_setting_has_a_flag_with_its_words(
    field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """--help shows each flag, its description and its variable."""
    assert main(["serve", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    description = " ".join(str(Settings.model_fields[field].description).split())
    assert flag_of(field) in shown
    assert f"{description} [{variable_of(field)}" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prot", "9000"], "--prot sets nothing; did you mean --port?"),
        (["--port", "x"], "--port / CHAINLORA_PORT"),
        (["--port"], "--port"),
        (["mistral"], "'mistral' belongs to no option"),
        (["--host", "0.0.0.0"], "not a loopback address"),
        (["--adapter", "pirate"], "'pirate' is not NAME=DIR"),
        (["--adapter", "a=x", "--adapter", "a=y"], "given twice"),
        (["--adapt", "a=x"], "did you mean --adapter?"),
        (["--parent-fd", "1000000", "--no-supervise"], "only the supervisor"),
    ],
)
def test_a_wrong_flag_is_named_in_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, what is wrong and with which flag; no traceback and no model loaded."""
    assert said in _error(["serve", *arguments], capsys)


def test_a_wrong_variable_is_named_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelled variable is not dropped in silence."""
    monkeypatch.setenv("CHAINLORA_PROT", "9000")
    assert "did you mean CHAINLORA_PORT" in _error(["serve"], capsys)
    assert "did you mean CHAINLORA_PORT" in _error(["doctor"], capsys)


def test_every_fault_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Two wrong values, two named flags."""
    assert main(["serve", "--port", "-1", "--queue-limit", "0"]) == 2
    err = capsys.readouterr().err
    assert "--port" in err
    assert "--queue-limit" in err


def test_serving_refuses_the_other_distribution_called_adapters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be imported in our package's place: said at start, exit code 1."""
    metadata = tmp_path / "adapters-1.2.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: adapters\nVersion: 1.2.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["serve", "--no-supervise"]) == 1
    assert "pip uninstall adapters" in capsys.readouterr().err


def test_version_prints_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Or says how to install it."""
    code = main(["version"])
    out, err = capsys.readouterr()
    try:
        assert (code, out) == (0, f"chainlora {version('chainlora')}\n")
    except PackageNotFoundError:
        assert code == 1
        assert "pip install ." in err


@pytest.mark.parametrize("command", [["version"], ["chat", "--help"], ["--help"]])
def test_light_commands_import_nothing_heavy(command: list[str]) -> None:
    """They answer at once: neither MLX nor pydantic nor our own adapters are imported."""
    source = (
        "import sys; from server.cli import main; main(sys.argv[1:]);"
        "heavy = {'mlx', 'adapters', 'pydantic', 'fastapi', 'numpy'} & set(sys.modules);"
        "raise SystemExit(sorted(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", source, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_doctor_prints_findings_and_their_cures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sound machine: exit code 0, a line for each finding."""
    assert main(["doctor", "--data-dir", str(tmp_path / "data")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ok       data: ") for line in lines)


def test_doctor_fails_where_something_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, and the cure under the error."""
    (tmp_path / "file").write_text("")
    assert main(["doctor", "--data-dir", str(tmp_path / "file" / "data")]) == 1
    out = capsys.readouterr().out
    assert "error    data: " in out
    assert "-> Let this user write there" in out


def test_doctor_speaks_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--json is one object on standard output."""
    assert main(["doctor", "--json", "--selftest", "--data-dir", str(tmp_path)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["failed"] is False
    assert any(finding["topic"].startswith("selftest") for finding in report["findings"])


def test_chat_reads_piped_lines(
    server: LiveServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal only answers are printed, in order, and the end of file ends."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("hi\n\nagain\n"))
    assert main(["chat", "--url", server.url, "--model", "tiny:pirate"]) == 0
    assert capsys.readouterr() == ("hello\nhello\n", "")


def test_piped_chat_ends_at_quit(
    server: LiveServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines after /quit are not sent."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("/quit\nhi\n"))
    assert main(["chat", "--url", server.url]) == 0
    assert capsys.readouterr().out == ""


def test_piped_chat_fails_at_the_first_error(
    server: LiveServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script that pipes lines in learns from the exit code that an answer is missing."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("/model tiny:nobody\nhi\n"))
    assert main(["chat", "--url", server.url]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "tiny:nobody" in err


def test_chat_without_a_server_says_how_to_start_one(capsys: pytest.CaptureFixture[str]) -> None:
    """One line, exit code 1."""
    assert main(["chat", "--url", "http://127.0.0.1:9"]) == 1
    assert "chainlora serve" in capsys.readouterr().err


def test_chat_in_a_terminal(server: LiveServer) -> None:
    """Neither an error nor Ctrl-C ends it, Ctrl-D does."""
    with Terminal(["chat", "--url", server.url]) as terminal:
        terminal.expect("tiny answers")
        terminal.expect("> ")
        terminal.type("hi\n")
        terminal.expect("hello")
        terminal.expect("> ")
        terminal.type("/modle\n")
        terminal.expect("No such command: /modle")
        terminal.expect("> ")
        terminal.interrupt("Ctrl-D ends")
        terminal.expect("> ")
        terminal.type("\x04")
        assert terminal.exit_code() == 0


def test_ctrl_c_in_a_terminal_stops_an_answer(server: LiveServer) -> None:
    """The answer ends, the prompt comes back."""
    with live_server(lambda _: iter(lambda: ord("a"), None)) as endless:
        endless.do(endless.engine.hold)
        endless.do(lambda: endless.engine.step(5))
        with Terminal(["chat", "--url", endless.url]) as terminal:
            terminal.expect("> ")
            terminal.type("hi\n")
            terminal.expect("aaaaa")
            terminal.interrupt("[stopped]")
            terminal.expect("> ")
            terminal.type("/quit\n")
            assert terminal.exit_code() == 0


def _error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err.rstrip("\n")
