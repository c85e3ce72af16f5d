"""``chainlora chain fuse`` and ``chain eject``: a revision leaves for programs without chains."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from adapters.base.fingerprint import fingerprint
from adapters.formats.arrays import values_of
from adapters.formats.mlx_lm import AdapterFiles, read_adapter
from adapters.formats.revision import revision_id
from tests.server.conftest import Shell

Adapters = Mapping[str, Path]


@pytest.fixture
def here(
    shell: Shell,
    tiny_model: Path,
    tiny_adapters: Adapters,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, str]:
    """A chain of two stages whose revisions lie in a data directory; their ids by adapter."""
    state = shell.behind.state
    stages = shell.publish("a", "a")
    ids: dict[str, str] = {}
    for name, stage in zip(("a4", "d8"), stages, strict=True):
        ids[name] = revision_id(read_adapter(tiny_adapters[name]))
        shutil.copytree(tiny_adapters[name], tmp_path / "home" / "revisions" / ids[name])
        state.stages[stage] = dataclasses.replace(state.stages[stage], revision=ids[name])
    state.chains["a"] = dataclasses.replace(
        state.chains["a"],
        base=fingerprint(tiny_model),
        head_revision=ids["d8"],
        labels={"first": 1},
    )
    monkeypatch.setenv("CHAINLORA_DATA_DIR", str(tmp_path / "home"))
    monkeypatch.setenv("CHAINLORA_MODEL", str(tiny_model))
    return ids


def test_the_head_is_ejected_with_its_commands(
    shell: Shell, here: dict[str, str], tiny_model: Path, tmp_path: Path
) -> None:
    """An mlx-lm directory, equal to what was published; both commands printed and written."""
    out = tmp_path / "out"
    lines = shell("chain", "eject", "a", str(out)).splitlines()
    assert lines[0] == f"tiny:a@2 is in {out}; to use it without chainlora:"
    assert revision_id(read_adapter(out)) == here["d8"]
    generate, train = map(shlex.split, lines[1:])
    assert generate[:5] == [
        "mlx_lm.generate",
        "--model",
        str(tiny_model),
        "--adapter-path",
        str(out),
    ]
    assert train[0] == "mlx_lm.lora"
    assert train[train.index("--resume-adapter-file") + 1] == str(out / "adapters.safetensors")
    kept = (out / "COMMANDS.md").read_text()
    assert all(line.strip() in kept for line in lines[1:])
    assert here["d8"] in kept
    assert sorted(file.name for file in out.iterdir()) == [
        "COMMANDS.md",
        "adapter_config.json",
        "adapters.safetensors",
        "lora.yaml",
    ]


@pytest.mark.parametrize("name", ["1", "first"])
def test_another_revision_is_ejected_by_name(
    name: str, shell: Shell, here: dict[str, str], tmp_path: Path
) -> None:
    """By stage number or label."""
    out = tmp_path / "out"
    row = json.loads(shell("chain", "eject", "a", str(out), "--revision", name, "--json"))
    assert (row["model"], row["revision"]) == ("tiny:a@1", here["a4"])
    assert len(row["commands"]) == 2
    assert revision_id(read_adapter(out)) == here["a4"]


def test_a_revision_is_ejected_by_its_id(
    shell: Shell, here: dict[str, str], tmp_path: Path
) -> None:
    """As the server names it."""
    out = tmp_path / "out"
    shell("chain", "eject", "a", str(out), "--revision", here["a4"])
    assert revision_id(read_adapter(out)) == here["a4"]


def test_a_chain_is_fused(shell: Shell, here: dict[str, str], tmp_path: Path) -> None:
    """As ``fuse`` does it, with the head or the revision that is asked for."""
    out = tmp_path / "out"
    command = ["chain", "fuse", "a", str(out), "--revision", "1", "--dtype", "float32"]
    row = json.loads(shell(*command, "--json"))
    assert (row["modules"], row["check"]["agreement"], row["warning"]) == (4, 1.0, None)
    assert (out / "tokenizer.json").is_file()
    assert "not checked" in shell("chain", "fuse", "a", str(tmp_path / "more"), "--no-check")


def test_what_is_not_there_is_said(
    shell: Shell, here: dict[str, str], tiny_model: Path, tmp_path: Path
) -> None:
    """The revision, the chain, the data directory, the base, the place."""
    out = str(tmp_path / "out")
    assert "has no revision 7" in shell.fails("chain", "eject", "a", out, "--revision", "7")
    assert "no chain 'b'" in shell.fails("chain", "eject", "b", out)
    assert "not overwritten" in shell.fails("chain", "eject", "a", str(tmp_path))
    elsewhere = ["--data-dir", str(tmp_path / "else")]
    assert "does not hold tiny:a@2" in shell.fails("chain", "eject", "a", out, *elsewhere)
    other = shutil.copytree(tiny_model, tmp_path / "other")
    (other / "tokenizer_config.json").write_text("{}")
    fails = shell.fails("chain", "fuse", "a", out, "--model", str(other))
    assert "is not the base of chain a" in fails
    shell.add(chain="new")
    state = shell.behind.state
    waiting = next(stage for stage in state.stages.values() if stage.chain == "new")
    assert "has no revision yet" in shell.fails("chain", "eject", "new", out)
    named = shell.fails("chain", "eject", "new", out, "--revision", str(waiting.number))
    assert "has no revision: it is queued" in named
    assert not Path(out).exists()


def test_a_deleted_revision_is_gone(shell: Shell, here: dict[str, str], tmp_path: Path) -> None:
    """Also where its files are still there."""
    shell("chain", "delete", "a", "1", "--yes")
    fails = shell.fails("chain", "eject", "a", str(tmp_path / "out"), "--revision", "1")
    assert "tiny:a@1 has no revision: it is deleted" in fails


def test_files_that_were_changed_are_not_the_revision(
    shell: Shell, here: dict[str, str], tiny_adapters: Adapters, tmp_path: Path
) -> None:
    """Its id is the hash of its content."""
    directory = tmp_path / "home" / "revisions" / here["d8"]
    for file in tiny_adapters["a4"].iterdir():
        shutil.copy(file, directory)
    fails = shell.fails("chain", "eject", "a", str(tmp_path / "out"))
    assert "is not what was published as tiny:a@2" in fails
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_line(
    shell: Shell, here: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the safetensors library says it; nothing is left."""

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("adapters.formats.mlx_lm.write_tensors", full)
    fails = shell.fails("chain", "eject", "a", str(tmp_path / "out"))
    assert "out cannot be written, the disk is full" in fails
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "rows.jsonl"]


def test_wrong_usage_is_said_before_the_server_is_asked(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2."""
    out = str(tmp_path / "out")
    wrong = ["chain", "fuse", "a", out, "--requantize", "--dtype", "float16"]
    assert "--dtype has no meaning" in shell.fails(*wrong, code=2)
    monkeypatch.setenv("CHAINLORA_DATA_DIRR", "x")
    assert "CHAINLORA_DATA_DIRR" in shell.fails("chain", "eject", "a", out, code=2)


def _apart(one: AdapterFiles, other: AdapterFiles) -> float:
    """The largest difference; both have the same tensors."""
    assert sorted(one.tensors) == sorted(other.tensors)
    return max(
        float(np.abs(values_of(half) - values_of(twin)).max())
        for path, pair in one.tensors.items()
        for half, twin in zip(pair, other.tensors[path], strict=True)
    )


@pytest.mark.slow
def test_both_commands_run(shell: Shell, here: dict[str, str], tmp_path: Path) -> None:
    """As they are printed, with rows in ``data``; training starts from the ejected weights.

    At a learning rate of next to nothing it also ends with them, and at another it does not.
    """
    lines = shell("chain", "eject", "a", str(tmp_path / "out")).splitlines()
    (tmp_path / "data").mkdir()
    rows = '{"text": "The harbour wakes before the town does."}\n' * 8
    for name in ("train", "valid"):
        (tmp_path / "data" / f"{name}.jsonl").write_text(rows)
    short = ["--iters", "1", "--batch-size", "1", "--val-batches", "1", "--learning-rate"]

    def run(line: str, *more: str) -> str:
        program, *arguments = shlex.split(line)
        command = [sys.executable, "-m", "mlx_lm", program.removeprefix("mlx_lm."), *arguments]
        done = subprocess.run([*command, *more], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "Generation: 3 tokens" in run(lines[1], "--max-tokens", "3")
    parent = read_adapter(tmp_path / "out")
    for rate in ("1e-30", "1e-3"):
        run(lines[2], *short, rate)
        child = read_adapter(tmp_path / "out-next")
        assert child.shape == parent.shape
        assert (_apart(child, parent) < 1e-20) is (rate == "1e-30")
