"""The models that tests run on, made once and kept under ``.cache/`` between runs.

A pytest plugin; every fixture has the scope of the session, and what it returns is read-only.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"
SCRIPT = ROOT / "scripts" / "make_tiny_model.py"
ADAPTERS = ("a4", "b8", "c16", "d8")


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """The tiny quantized llama, an mlx-lm directory with a tokenizer and a chat template."""
    return _tiny() / "base"


@pytest.fixture(scope="session")
def tiny_adapters() -> dict[str, Path]:
    """mlx-lm adapter directories on ``tiny_model``, by name.

    ``a4``: rank 4 on q and v of the last 2 layers; ``b8``: rank 8 on every linear layer, scale 20;
    ``c16``: rank 16 on the MLPs; ``d8``: rank 8 on q, k, v and o, scale 2.
    """
    return {name: _tiny() / "adapters" / name for name in ADAPTERS}


@pytest.fixture(scope="session")
def embedded_model() -> Path:
    """The embedded SmolLM2-135M, as the product converts it."""
    from adapters.base.embedded import ensure_embedded

    return ensure_embedded(CACHE / "embedded")


def _tiny() -> Path:
    """The directory with ``base`` and ``adapters``, made where it is not there yet."""
    made = CACHE / "tiny" / _key()
    made.parent.mkdir(parents=True, exist_ok=True)
    with _locked(made.parent / "lock"):
        if not made.exists():
            _make(made)
    return made


def _make(made: Path) -> None:
    """Run the script beside ``made`` and put the result in place in one step.

    In a process of its own, with its own thread count: MLX's state here stays untouched.
    """
    part = Path(tempfile.mkdtemp(prefix="part-", dir=made.parent))
    command = [
        sys.executable,
        str(SCRIPT),
        str(part / "base"),
        "--adapters",
        str(part / "adapters"),
    ]
    environment = os.environ | {"CHAINLORA_THREADS": "1"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"{SCRIPT.name} failed:\n{done.stdout}{done.stderr}", pytrace=False)
        part.rename(made)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _key() -> str:
    """A hash of all that the files depend on: script, text, versions."""
    digest = hashlib.sha256(SCRIPT.read_bytes())
    for text in sorted((ROOT / "examples" / "text").glob("*.txt")):
        digest.update(text.name.encode() + b"\0" + text.read_bytes())
    for package in ("mlx", "mlx-lm", "tokenizers"):
        digest.update(importlib.metadata.version(package).encode() + b"\0")
    return digest.hexdigest()[:16]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time: two test runs side by side train once."""
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
