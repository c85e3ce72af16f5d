"""The Python that has torch and PEFT, which this project's own does not.

``./scripts/test --full`` makes it from ``requirements.txt``. Apart from ours, because transformers
works otherwise where torch is installed, and no user of the product has to have it.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".cache" / "owners"
PYTHON = HOME / "bin" / "python"
STAMP = HOME / "installed"
"""Made last, when everything is installed."""
PROGRAM = Path(__file__).with_name("peft_program.py")


def run_peft(plan: dict[str, Any], folder: Path) -> None:
    """Carry out a plan, as ``peft_program.py`` explains it; skips where there is no PEFT."""
    if not STAMP.exists():
        pytest.skip(
            f"no torch and PEFT in {HOME.relative_to(ROOT)}: ./scripts/test --full installs"
        )
    file = folder / "plan.json"
    file.write_text(json.dumps(plan))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [str(PYTHON), "-I", str(PROGRAM), str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{PROGRAM.name} failed:\n{done.stdout}{done.stderr}", pytrace=False)
