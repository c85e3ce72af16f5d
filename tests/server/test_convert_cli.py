"""``chainlora convert``: arguments in, a directory and figures out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapters.base import convert
from adapters.base.convert import Conversion, Quantization
from adapters.base.scores import Change
from server import cli, convert_cli
from server.convert_cli import size, warning_of
from server.screen import Screen
from tests.source_model import make_source


@pytest.fixture(scope="module")
def source(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An unconverted Mistral-shaped directory."""
    return str(make_source(tiny_model, tmp_path_factory.mktemp("hub") / "source"))


def test_a_model_is_converted_and_checked(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Progress lines, both sizes, and what the check found."""
    text = Path(__file__).parents[2] / "examples" / "text" / "harbour.txt"
    out = tmp_path / "out"
    assert cli.main(["convert", source, str(out), "-q", "--check", str(text)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Scoring the text with the source."
    assert lines[-2] == f"1.9 MB -> 537 kB of weights in {out}"
    assert lines[-1].startswith("on 511 tokens: perplexity 2.0")
    assert (out / "model.safetensors").is_file()


def test_a_loss_that_matters_is_warned_of(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In JSON too, which is one line without progress."""
    text = Path(__file__).parents[2] / "examples" / "text" / "harbour.txt"
    command = ["convert", source, str(tmp_path / "out"), "-q", "--bits", "2", "--json"]
    assert cli.main([*command, "--check", str(text)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    row = json.loads(line)
    assert row["quantization"] == {"bits": 2, "group_size": 64, "recipe": None}
    assert row["check"]["rise"] > convert_cli.WARN_RISE
    assert row["warning"].startswith("perplexity rose by more than 10%")
    assert row["bytes_before"] > 3 * row["bytes_after"]


def test_matrices_that_stay_as_they_were_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever asks for a group size that does not divide their width would not know."""
    screen = Screen(print, input)
    done = Conversion(tmp_path, 9, 8, matrices=30, unpacked=4, change=None)
    convert_cli._report(screen, done, Quantization(group_size=128), as_json=False)
    assert (
        "4 of 30 matrices stay as they were: a group size of 128 does not divide their width; a "
        "smaller --group-size may" in capsys.readouterr().out
    )


def test_the_check_can_be_left_out(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And is said to be."""
    command = ["convert", source, str(tmp_path / "out"), "--dtype", "float16", "--no-check"]
    assert cli.main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "not checked"


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--bits", "4"], 2, "--bits says how to quantize: give -q with it"),
        (["--group-size", "64"], 2, "--group-size says how to quantize"),
        (["--recipe", "mixed_2_6"], 2, "--recipe says how to quantize"),
        (["-q", "--recipe", "mixed_2_6", "--bits", "4"], 2, "chooses the bits itself"),
        (["-q", "--bits", "5"], 2, "invalid choice: 5"),
        (["--check", "x", "--no-check"], 2, "not allowed with"),
        (["--check", "nowhere.txt"], 1, "nowhere.txt cannot be read"),
        (["--dtype", "int8"], 2, "invalid choice"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    options: list[str],
    code: int,
    said: str,
    source: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Wrong usage is 2, everything else 1; nothing is written."""
    assert cli.main(["convert", source, str(tmp_path / "out"), *options]) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_taken_is_known_before_a_download(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The hub is not asked."""
    assert cli.main(["convert", "nobody/nothing", str(tmp_path)]) == 1
    assert "not overwritten" in capsys.readouterr().err
    assert cli.main(["convert", "", str(tmp_path / "out")]) == 2


def test_the_help_offers_what_the_converter_takes() -> None:
    """The lists are written out so that --help needs no MLX; here they are compared."""
    assert convert_cli._BITS == convert.BITS
    assert convert_cli._GROUP_SIZES == convert.GROUP_SIZES
    assert convert_cli._RECIPES == convert.RECIPES
    assert convert_cli._DTYPES == convert.DTYPES


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (Change(10, 0.1, 0.1, 1.0, 10.0, 10.9), None),
        (Change(10, 0.1, 0.1, 1.0, 10.0, 11.1), "perplexity rose"),
        (Change(10, 0.1, 0.1, 0.7, 10.0, 9.0), "the likeliest token is another one"),
    ],
)
def test_warnings_have_stated_limits(change: Change, said: str | None) -> None:
    """A tenth more perplexity, or a fifth of the choices."""
    found = warning_of(change)
    assert found is None if said is None else str(found).startswith(said)


def test_sizes_are_for_people() -> None:
    """Decimal units."""
    assert [size(n) for n in (999, 640_000, 1_250_000, 14_500_000_000)] == [
        "1 kB",
        "640 kB",
        "1.2 MB",
        "14.5 GB",
    ]
