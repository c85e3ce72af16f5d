"""The serving benchmark from its command line: what it runs, refuses and leaves behind."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from scripts.bench import plan
from scripts.bench_serve import main
from tests.live_server import live_server


def test_any_server_can_be_measured_by_its_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--url leaves a table, a record and a chart, and exit code 0."""
    with live_server(_endless) as server:
        arguments = ["--quick", "--url", server.url, "--out", str(tmp_path)]
        code = main([*arguments, "--url-model", "tiny", "--url-model", "tiny:pirate"])
    assert code == 0, capsys.readouterr().err
    record = json.loads((tmp_path / "url.json").read_text())
    ran = {each["key"] for each in record["scenarios"] if each["servers"]}
    assert ran == {"base-1", "base-16", "eight-1", "eight-16", "prompt-base"}
    assert "base, 16 streams" in (tmp_path / "url.md").read_text()
    assert (tmp_path / "url.svg").read_text().startswith("<svg")


def test_a_load_of_ones_own_is_measured_and_drawn_over_streams(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every combination in the record, with what the engine counts, and a chart over streams."""
    with live_server(_endless, adapters=("a0", "a1")) as server:
        arguments = ["--url", server.url, "--out", str(tmp_path), "--name", "mine", "--pairs", "2"]
        arguments += [f"--url-model=tiny{chain}" for chain in ("", ":a0", ":a1")]
        arguments += ["--streams", "1", "4", "--adapters", "0", "2", "--choice", "zipf"]
        code = main([*arguments, "--prompt-words", "8", "--output-tokens", "3"])
        shown = capsys.readouterr()
    assert code == 0, shown.err
    record = json.loads((tmp_path / "mine.json").read_text())
    assert [scenario["label"] for scenario in record["scenarios"]] == [
        "base, 1 stream",
        "base, 4 streams",
        "2 adapters by Zipf, 1 stream",
        "2 adapters by Zipf, 4 streams",
    ]
    for scenario in record["scenarios"]:
        runs = scenario["servers"][server.url]
        streams = scenario["load"]["streams"]
        assert [sample["output_tokens"] for sample in runs["samples"]] == [3 * streams] * 2
    assert record["memory"] == {server.url: [{"process_bytes": None, "device_bytes": 0}] * 2}
    assert (tmp_path / "mine-streams.svg").read_text().startswith("<svg")
    assert not (tmp_path / "mine-adapters.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scenario", "nothing"], "'nothing'"),
        (["--scenario", "base-1", "--streams", "2"], "exclude each other"),
        (["--only", "best", "--rate", "2"], "exclude each other"),
        (["--streams", "0"], "streams is 0"),
        (["--url", "http://127.0.0.1:1"], "--url-model"),
        (["--servers", "url"], "--url"),
        (["--url", "http://127.0.0.1:1", "--url-model", "m", "--adapters", "2"], "not 2"),
    ],
)
def test_a_misuse_is_told_before_anything_runs(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and what is wrong, in one line."""
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.err.count("\n") == 1
    assert not shown.out


def test_the_scenarios_are_listed_by_key(capsys: pytest.CaptureFixture[str]) -> None:
    """One line each, and nothing runs."""
    assert main(["--list"]) == 0
    keys = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert keys == [scenario.key for scenario in plan.catalogue(quick=False)]


def test_a_failed_measurement_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 and no report for a model that the server does not have, 2 for none named."""
    with live_server() as server:
        arguments = ["--quick", "--url", server.url, "--out", str(tmp_path)]
        assert main([*arguments, "--url-model", "tiny:nobody"]) == 1
        assert main(arguments) == 2
    err = capsys.readouterr().err.splitlines()
    assert "tiny:nobody" in err[0]
    assert "--url-model" in err[1]
    assert list(tmp_path.iterdir()) == []


def _endless(_: object) -> itertools.cycle[int]:
    return itertools.cycle(range(ord("a"), ord("z")))
