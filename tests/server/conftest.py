"""A shell for the commands that speak to a server, and the server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from server import cli
from tests.administration.fakes import Administration
from tests.live_server import live_server


@pytest.fixture(scope="module")
def administered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Administration]]:
    """One server for the module."""
    behind = Administration(tmp_path_factory.mktemp("incoming"))
    with live_server(**behind.parts()) as server:
        yield server.url, behind


class Shell:
    """Runs commands as a shell would, against the server that CHAINLORA_URL names."""

    def __init__(
        self, url: str, behind: Administration, capsys: pytest.CaptureFixture[str], rows: Path
    ) -> None:
        self.url, self.behind, self.rows = url, behind, str(rows)
        self._capsys = capsys

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """What the command prints; it must end with ``code``."""
        ended = cli.main(list(arguments))
        out, err = self._capsys.readouterr()
        assert ended == code, err
        assert err == "" or code
        return out

    def fails(self, *arguments: str, code: int = 1) -> str:
        """The one line on standard error of a command that prints nothing else."""
        ended = cli.main(list(arguments))
        out, err = self._capsys.readouterr()
        assert (ended, out, err.count("\n")) == (code, "", 1), (out, err)
        return err

    def add(self, *arguments: str, chain: str = "support") -> str:
        """The id of a stage that was added."""
        row = json.loads(self("stage", "add", chain, self.rows, "--json", *arguments))
        stage: str = row["id"]
        return stage

    def publish(self, *chains: str) -> list[str]:
        """Stages that ran to a revision."""
        ids = [self.add(chain=chain) for chain in chains]
        for stage in ids:
            self.behind.stages.succeed(stage)
        return ids


@pytest.fixture
def shell(
    administered: tuple[str, Administration],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Shell:
    """A shell, with nothing on the server and a file of rows at hand."""
    url, behind = administered
    behind.state.clear(tmp_path)
    monkeypatch.setenv("CHAINLORA_URL", url)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n')
    return Shell(url, behind, capsys, rows)
