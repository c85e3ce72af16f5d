"""``chainlora fuse``: a base, an adapter, one model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from adapters.base.scores import Change
from adapters.lora import fuse
from server import cli, fuse_cli
from server.fuse_cli import warning_of

Adapters = Mapping[str, Path]


def test_an_adapter_is_fused_and_checked(
    tiny_model: Path, tiny_adapters: Adapters, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Progress, sizes and figures; rounding alone is not warned of."""
    out = tmp_path / "out"
    command = ["fuse", str(tiny_model), str(tiny_adapters["a4"]), str(out), "--dtype", "float16"]
    assert cli.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "Scoring the text with base and adapter.",
        "Merging 4 modules.",
        "Reading what was written.",
    ]
    assert lines[3] == f"4 modules merged, 537 kB -> 1.9 MB in {out}"
    assert lines[4].startswith("on 511 tokens: perplexity ")
    assert len(lines) == 5


def test_quantizing_again_is_warned_of(
    tiny_model: Path, tiny_adapters: Adapters, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what was measured, and where nothing was."""
    command = ["fuse", str(tiny_model), str(tiny_adapters["d8"])]
    assert cli.main([*command, str(tmp_path / "a"), "--requantize", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    row = json.loads(line)
    assert row["quantized"] is True
    assert row["bytes_before"] == row["bytes_after"]
    assert row["check"]["agreement"] < 0.99
    assert row["warning"].endswith("or fuse without --requantize.")
    assert cli.main([*command, str(tmp_path / "b"), "--requantize", "--no-check"]) == 0
    *_, unchecked, warning = capsys.readouterr().out.splitlines()
    assert unchecked == "not checked"
    assert warning.startswith("warning: quantizing again changes the answers")


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--dequantize", "--requantize"], 2, "not allowed with"),
        (["--requantize", "--dtype", "float32"], 2, "--dtype has no meaning"),
        (["--dtype", "int4"], 2, "invalid choice"),
        (["--check", "x", "--no-check"], 2, "not allowed with"),
        (["--check", "nowhere.txt"], 1, "nowhere.txt cannot be read"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    options: list[str],
    code: int,
    said: str,
    tiny_model: Path,
    tiny_adapters: Adapters,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Wrong usage is 2, everything else 1; nothing is written."""
    command = ["fuse", str(tiny_model), str(tiny_adapters["a4"]), str(tmp_path / "out")]
    assert cli.main([*command, *options]) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_adapter_and_no_model_is_refused(
    tiny_model: Path, tiny_adapters: Adapters, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the name that was given."""
    out = str(tmp_path / "out")
    assert cli.main(["fuse", str(tiny_model), str(tmp_path), out]) == 1
    assert "adapter_config.json" in capsys.readouterr().err
    assert cli.main(["fuse", "no where", str(tiny_adapters["a4"]), out]) == 1
    assert "no hub id" in capsys.readouterr().err
    assert cli.main(["fuse", "", str(tiny_adapters["a4"]), out]) == 2


def test_the_help_offers_the_formats_that_there_are() -> None:
    """Written out, so that --help needs no MLX."""
    assert fuse_cli._DTYPES == fuse.DTYPES


@pytest.mark.parametrize(
    ("agreement", "mean", "quantized", "said"),
    [
        (1.0, 0.01, False, None),
        (1.0, 0.01, True, None),
        (0.98, 0.01, False, "a wider --dtype loses less."),
        (1.0, 0.06, True, "fuse without --requantize."),
    ],
)
def test_warnings_have_stated_limits(
    agreement: float, mean: float, quantized: bool, said: str | None
) -> None:
    """One likeliest token in a hundred, or a twentieth of a nat."""
    found = warning_of(Change(100, 1.0, mean, agreement, 9.0, 9.0), quantized=quantized)
    assert found is None if said is None else str(found).endswith(said)
