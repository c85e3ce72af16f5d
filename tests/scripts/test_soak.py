"""A server that gets everything at once keeps its promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_ten_seconds_of_everything_break_no_invariant() -> None:
    """The script says which one it was, and ends with 1."""
    command = [sys.executable, "-m", "scripts.soak", "--seconds", "10", "--seed", "5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 invariants broken" in done.stdout
