"""A fast BLAS for MLX on Linux CPUs, opened before anything imports ``mlx``.

MLX's Linux wheel is linked against the reference BLAS, which is some thirty times slower than
OpenBLAS. A library that is already in the process's global symbol scope when ``mlx.core`` is loaded
wins over the one that the wheel names, so opening OpenBLAS first is all that it takes. After the
first import of ``mlx.core`` it would change nothing, silently; hence the strict order here.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adapters.errors import BaseError

LIBRARY_VARIABLE = "CHAINLORA_BLAS"
THREADS_VARIABLE = "CHAINLORA_THREADS"

_SYSTEM_LIBRARY = "libopenblas.so.0"
_CURE = (
    "install PyPI's cmeel-openblas or the system's OpenBLAS (Debian: libopenblas0-pthread), or set "
    f"{LIBRARY_VARIABLE} to the path of a BLAS library with the CBLAS interface"
)


@dataclass(frozen=True, slots=True)
class BlasReport:
    """Which BLAS MLX will use, and why.

    ``source`` is "environment", "cmeel-openblas", "system", "none" (MLX's own slow one) or
    "not needed" (not Linux). ``library`` is its path or name, ``config`` its own description of
    itself, ``threads`` the number that it runs (None where it cannot say). ``why`` tells what was
    found, ``cure`` what to do where that is not the best; "" where there is nothing to say.
    """

    source: str
    library: str | None = None
    config: str = ""
    threads: int | None = None
    why: str = ""
    cure: str = ""


def usable_cores() -> int:
    """The processors that this process may run on: its affinity, capped by its cgroup's quota."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = len(os.sched_getaffinity(0))
    quota = _cgroup_quota(Path("/sys/fs/cgroup"))
    return cores if quota is None else max(1, min(cores, round(quota)))


def thread_count() -> int:
    """``CHAINLORA_THREADS``, or one thread for each usable core. Raises BaseError for nonsense."""
    text = os.environ.get(THREADS_VARIABLE, "")
    if not text:
        return usable_cores()
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1024):
        raise BaseError(
            f"{THREADS_VARIABLE}={text!r} is not a number from 1 to 1024: set it to the number of "
            "threads that matrix products may use, or unset it."
        )
    return int(text)


@functools.cache
def preload() -> BlasReport:
    """Open the best BLAS that this machine has and give it its threads; later calls do nothing.

    The order is ``CHAINLORA_BLAS``, cmeel-openblas, the system's OpenBLAS, none. Never imports mlx.
    Raises BaseError where ``CHAINLORA_BLAS`` or ``CHAINLORA_THREADS`` cannot be used.
    """
    threads = thread_count()
    if sys.platform != "linux":
        return BlasReport("not needed", why="MLX brings a fast BLAS on this platform")
    if "mlx.core" in sys.modules:
        return BlasReport(
            "none",
            why="mlx.core was imported before adapters, so that its own slow BLAS is already bound",
            cure="import adapters before mlx, mlx_lm or anything that imports them",
        )
    chosen = os.environ.get(LIBRARY_VARIABLE, "")
    if chosen:
        try:
            return _configure("environment", chosen, _open(chosen), threads)
        except OSError as error:
            raise BaseError(
                f"{LIBRARY_VARIABLE}={chosen!r} cannot be loaded ({error}): set it to the path of "
                "a shared BLAS library for this machine, or unset it."
            ) from error
    failures: list[str] = []
    for source, library in _candidates():
        try:
            if source == "cmeel-openblas":
                _provide_gfortran()
            return _configure(source, library, _open(library), threads)
        except OSError as error:
            failures.append(f"{source}: {error}")
    return BlasReport("none", why="; ".join(failures), cure=_CURE)


@functools.cache
def measure_gflops() -> float:
    """Speed of one float32 matrix product on MLX's default device, in 1e9 operations a second.

    Measured once per process, in well under a second even where the BLAS is slow.
    """
    import mlx.core as mx

    rows, inner, columns = 256, 1024, 1024
    left, right = mx.ones((rows, inner)), mx.ones((inner, columns))
    mx.eval(left @ right)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        mx.eval(left @ right)
        best = min(best, time.perf_counter() - start)
    return 2 * rows * inner * columns / best / 1e9


def _candidates() -> Iterator[tuple[str, str]]:
    wheel = _wheel_file("cmeel-openblas", "cmeel.prefix/lib/libopenblas.so.0")
    if wheel is not None:
        yield "cmeel-openblas", str(wheel)
    yield "system", _SYSTEM_LIBRARY


def _open(library: str) -> ctypes.CDLL:
    return ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)


def _configure(source: str, library: str, blas: ctypes.CDLL, threads: int) -> BlasReport:
    """Set the thread count where the library is an OpenBLAS, and read back what it made of it."""
    if not hasattr(blas, "cblas_sgemm"):
        raise OSError(f"{library} has no cblas_sgemm")
    if not hasattr(blas, "openblas_set_num_threads"):
        return BlasReport(source, library, why="not an OpenBLAS: it chooses its own threads")
    blas.openblas_set_num_threads(ctypes.c_int(threads))
    running = int(blas.openblas_get_num_threads())
    blas.openblas_get_config.restype = ctypes.c_char_p
    config = (blas.openblas_get_config() or b"").decode("ascii", "replace").strip()
    if running >= threads:
        return BlasReport(source, library, config, running)
    return BlasReport(
        source,
        library,
        config,
        running,
        why=f"this build runs at most {running} threads, and {threads} are wanted",
        cure=f"install the system's OpenBLAS and set {LIBRARY_VARIABLE}={_SYSTEM_LIBRARY}",
    )


def _provide_gfortran() -> None:
    """Make ``libgfortran.so.5`` known to the loader, which cmeel's OpenBLAS needs by that name.

    Fresh machines have no Fortran run-time, but MLX's own wheel (and numpy's) carries one under a
    name with a hash in it. The loader matches a needed library by the SONAME of those already
    loaded, so an anonymous copy of that file with its SONAME put right satisfies it. Raises OSError
    where neither exists.
    """
    try:
        _open("libgfortran.so.5")
        return
    except OSError as error:
        missing = error
    for distribution, folder in (("mlx-cpu", "mlx_cpu.libs"), ("numpy", "numpy.libs")):
        libs = _wheel_file(distribution, folder)
        if libs is None:
            continue
        for fortran in libs.glob("libgfortran-*.so.5*"):
            for quadmath in libs.glob("libquadmath-*.so.0*"):
                _open(str(quadmath))
            _open_as(fortran, "libgfortran.so.5")
            return
    raise OSError(f"it needs libgfortran.so.5 ({missing}); Debian has it in libgfortran5")


def _open_as(file: Path, soname: str) -> None:
    """Open a copy of ``file`` whose SONAME, now the file's own name, reads ``soname``."""
    old = file.name.encode() + b"\0"
    data = file.read_bytes()
    if old not in data or len(soname) >= len(old):
        raise OSError(f"{file} does not carry its own name as SONAME")
    memory = os.memfd_create(soname)
    try:
        with open(memory, "wb", closefd=False) as copy:
            copy.write(data.replace(old, soname.encode().ljust(len(old), b"\0")))
        _open(f"/proc/self/fd/{memory}")
    finally:
        os.close(memory)


def _wheel_file(distribution: str, path: str) -> Path | None:
    """``path`` in the place where ``distribution`` is installed, if both exist."""
    try:
        found = Path(str(importlib.metadata.distribution(distribution).locate_file(path)))
    except importlib.metadata.PackageNotFoundError:
        return None
    return found if found.exists() else None


def _cgroup_quota(root: Path) -> float | None:
    """Processors' worth of time that the cgroup allows, None for no limit. Versions 2 and 1."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not (quota.isdigit() and period.isdigit() and int(period)):
        return None
    return int(quota) / int(period)
