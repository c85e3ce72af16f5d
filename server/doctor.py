"""What this machine runs on, what is missing for speed or at all, and the cure for each.

Nothing of ours or of MLX is imported before it is needed: the doctor must also be able to speak
where MLX or this installation is broken.
"""

from __future__ import annotations

import enum
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapters.base.device import DeviceReport

_GIB = 2**30
_NEEDED_DISK_BYTES = _GIB
_NEEDED_MEMORY_BYTES = 2 * _GIB
_SLOW_GFLOPS = 10.0
"""MLX's own BLAS on Linux reaches about 2 a core, OpenBLAS about 30."""
_PACKAGES = ("fastapi", "starlette", "uvicorn", "sse-starlette", "pydantic")


class Level(enum.StrEnum):
    """How much a finding matters."""

    OK = "ok"
    """As it should be."""
    WARNING = "warning"
    """It works, slower or with less than this machine could."""
    ERROR = "error"
    """Serving does not work, or not rightly."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; ``cure`` says what to do, "" where nothing is to be done."""

    topic: str
    level: Level
    text: str
    cure: str = ""


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """Everything that was found, in reading order."""

    findings: tuple[Finding, ...]

    @property
    def failed(self) -> bool:
        """Whether something is an error."""
        return any(finding.level is Level.ERROR for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the findings and ``failed``."""
        return {"failed": self.failed, **asdict(self)}


def examine(data_dir: Path, *, selftest: bool) -> DoctorReport:
    """Look at this machine, at ``data_dir``, and with ``selftest`` at every fast path.

    Takes about a second, the self-test some more. Runs MLX on the calling thread.
    """
    findings = [_python(), _versions()]
    foreign = foreign_adapters()
    if foreign is not None:
        findings.append(foreign)
    else:
        findings += _computing()
    findings += [_disk(data_dir), _embedded_model(data_dir)]
    if selftest and not any(finding.level is Level.ERROR for finding in findings):
        findings += _selftest()
    findings += _chains(data_dir, read=selftest)
    return DoctorReport(tuple(findings))


def foreign_adapters() -> Finding | None:
    """The finding that another distribution called ``adapters`` takes our import name, if it does.

    PyPI has one; both write into the same folder of site-packages.
    """
    try:
        distribution = importlib.metadata.distribution("adapters")
    except importlib.metadata.PackageNotFoundError:
        return None
    return Finding(
        "packages",
        Level.ERROR,
        f"the distribution 'adapters' {distribution.version} is installed beside chainlora, whose "
        "own package has the same name: one has overwritten the other.",
        "Give chainlora an environment of its own, or 'pip uninstall adapters' and install "
        "chainlora again.",
    )


def _python() -> Finding:
    return Finding(
        "python",
        Level.OK,
        f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.prefix}",
    )


def _versions() -> Finding:
    try:
        found = [f"chainlora {importlib.metadata.version('chainlora')}"]
    except importlib.metadata.PackageNotFoundError:
        found = ["chainlora from a clone"]
    missing = []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    if missing:
        return Finding(
            "packages",
            Level.ERROR,
            f"not installed: {', '.join(missing)}",
            "Run 'pip install .' in the clone, or use ./scripts/serve.",
        )
    return Finding("packages", Level.OK, ", ".join(found))


def _computing() -> Iterator[Finding]:
    try:
        from adapters.base.device import describe_device
    except ImportError as error:
        yield Finding(
            "device",
            Level.ERROR,
            f"MLX cannot be imported: {error}",
            "On Linux MLX needs a backend: 'pip install mlx[cpu]' or 'pip install mlx[cuda13]' "
            "(glibc 2.35 or later).",
        )
        return
    from adapters.errors import BaseError

    try:
        device = describe_device()
        yield from _device(device)
        yield from _blas(device)
    except (BaseError, RuntimeError) as error:
        yield Finding("device", Level.ERROR, str(error))


def _device(device: DeviceReport) -> Iterator[Finding]:
    versions = ", ".join(f"{name} {version}" for name, version in device.versions)
    cure = ""
    if device.kind == "cpu" and shutil.which("nvidia-smi"):
        cure = (
            "This machine seems to have an NVIDIA GPU: 'pip install mlx[cuda13]' lets MLX use it."
        )
    yield Finding(
        "device",
        Level.WARNING if cure else Level.OK,
        f"{device.kind}: {device.name} ({device.architecture}, {device.cores} usable cores); "
        f"{versions}",
        cure,
    )
    total, free = device.memory_total_bytes, device.memory_free_bytes
    tight = 0 < free < _NEEDED_MEMORY_BYTES
    yield Finding(
        "memory",
        Level.WARNING if tight else Level.OK,
        f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free",
        "The embedded model wants 2 GiB: end other programs." if tight else "",
    )
    # The name is MLX's own: on a CPU its compiler runs "g++" and nothing else.
    if device.kind == "cpu" and not shutil.which("g++"):
        yield Finding(
            "compiler",
            Level.WARNING,
            "no g++: mx.compile cannot fuse on this CPU, so some steps are slower",
            "Install a C++ compiler (Debian: g++; macOS: xcode-select --install).",
        )


def _blas(device: DeviceReport) -> Iterator[Finding]:
    from adapters.base.blas import measure_gflops, preload

    report = preload()
    speed = measure_gflops()
    where = f", {report.library}" if report.library else ""
    threads = f", {report.threads} threads" if report.threads else ""
    slow = device.kind == "cpu" and (report.source == "none" or speed < _SLOW_GFLOPS)
    cure = report.cure
    if slow and not cure:
        cure = (
            "Slower than a fast BLAS: is the machine busy, or CHAINLORA_THREADS too low? "
            "Run it again on an idle machine."
        )
    why = f" ({report.why})" if report.why else ""
    yield Finding(
        "BLAS",
        Level.WARNING if slow else Level.OK,
        f"{report.source}{where}{threads}: a float32 product runs at {speed:.0f} GFLOP/s{why}",
        cure,
    )


def _disk(data_dir: Path) -> Finding:
    existing = next(path for path in (data_dir, *data_dir.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
        free = shutil.disk_usage(existing).free
    except OSError as error:
        return Finding(
            "data",
            Level.ERROR,
            f"{data_dir} cannot be written: {error}",
            "Let this user write there, or choose another directory with --data-dir.",
        )
    mode = data_dir.stat().st_mode & 0o077 if data_dir.exists() else 0
    cures = []
    if free < _NEEDED_DISK_BYTES:
        cures.append("Make room: the embedded model alone takes 300 MB while it is made.")
    if mode and hasattr(os, "getuid") and data_dir.stat().st_uid == os.getuid():
        cures.append(f"Other users can read it: chmod 700 {data_dir}.")
    state = "" if data_dir.exists() else " (made at the first start)"
    return Finding(
        "data",
        Level.WARNING if cures else Level.OK,
        f"{data_dir}{state}: writable, {free / _GIB:.1f} GiB free",
        " ".join(cures),
    )


def _embedded_model(data_dir: Path) -> Finding:
    from server.settings import EMBEDDED_NAME

    directory = data_dir / "models" / EMBEDDED_NAME
    if (directory / "config.json").is_file():
        return Finding("embedded model", Level.OK, f"{EMBEDDED_NAME} in {directory}")
    return Finding(
        "embedded model",
        Level.OK,
        f"{EMBEDDED_NAME} is not made yet: the first start without --model fetches 75 MB with pip",
    )


def _chains(data_dir: Path, *, read: bool) -> Iterator[Finding]:
    """With ``read`` every revision is read and compared with its hash."""
    try:
        from adapters.errors import StoreError
        from adapters.stages.inspection import inspect
    except ImportError:  # what is missing has its own finding
        return
    try:
        found = inspect(data_dir, read=read)
    except StoreError as error:
        yield Finding("chains", Level.ERROR, str(error))
        return
    for lost in found.lost:
        text = f"{', '.join(lost.names)} cannot be served: {lost.what}"
        yield Finding("chains", Level.ERROR, text, lost.cure)
    whole = found.count - len(found.lost)
    seen = "as published" if read else "there"
    yield Finding("chains", Level.OK, f"{whole} of {found.count} revisions are {seen}")


def _selftest() -> Iterator[Finding]:
    from server.engine.selftest import run_selftest

    for check in run_selftest():
        yield Finding(
            f"selftest {check.name}",
            Level.OK if check.passed else Level.ERROR,
            check.detail,
            "" if check.passed else check.cure,
        )
