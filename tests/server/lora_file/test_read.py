"""Reading a settings file that may be anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from server.arguments import UsageError
from server.lora_file.read import MOST_BYTES, read_stage_file

BOMB = "a: &a [x, x]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(20))


def test_numbers_are_read_as_mlx_lm_reads_them(tmp_path: Path) -> None:
    """1e-5 is one."""
    file = tmp_path / "lora.yaml"
    file.write_text("# ours\nlearning_rate: 1e-5\niters: 10\nlora_parameters:\n  rank: 4\n")
    made = read_stage_file(file)
    assert made.settings["learning_rate"] == 1e-5
    assert (made.settings["iters"], made.lora) == (10, {"rank": 4})


def test_an_empty_file_asks_for_nothing(tmp_path: Path) -> None:
    """As mlx-lm has it."""
    file = tmp_path / "lora.yaml"
    file.write_text("# nothing\n")
    assert read_stage_file(file).settings == {}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file"),
        (b"x" * (MOST_BYTES + 1), "has more than 64 KiB"),
        (BOMB.encode(), "has aliases"),
        (b"iters: 1\niters: 2\n", "iters stands there twice"),
        (b"- iters\n", "must be a mapping of names"),
        (b"just words", "must be a mapping of names"),
        (b"1: 2", "must be a mapping of names"),
        (b"iters: [", "is no YAML"),
        (b"\xff\xfe\xff", "is no YAML"),
        (b"a: \x00", "is no YAML"),
        (b"[" * 20_000, "has more than 16 levels"),
        (b"".join(b" " * i + b"a:\n" for i in range(20)), "has more than 16 levels"),
        (b"iters: " + b"9" * 10_000, "is no YAML"),
        (b"iters: 2001-99-99", "is no YAML"),
        (b"iters: !!python/object/apply:os.getcwd []", "is no YAML"),
        (b"model: {? {a: b} : c}", "is no YAML"),
        (b"iters: none", "iters must be a whole number"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_is_no_settings_file_is_refused(
    content: bytes | None, said: str, tmp_path: Path
) -> None:
    """In one line with the file's name, whatever it is; nothing in it is run."""
    file = tmp_path / "lora.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError) as refused:
        read_stage_file(file)
    assert said in str(refused.value)
    assert str(refused.value).startswith(str(file)[:40])
    assert "\n" not in str(refused.value)


def test_without_a_file_no_package_is_needed() -> None:
    """The client alone runs on the standard library."""
    code = (
        "import sys; from server import cli, stage_cli, chain_cli;"
        "print({'yaml', 'pydantic', 'mlx', 'numpy'} & {m.partition('.')[0] for m in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
