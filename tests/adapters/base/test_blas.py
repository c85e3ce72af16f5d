"""The BLAS that MLX gets. Each process can be prepared once only, so most tests start their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import adapters
from adapters.base import blas
from adapters.errors import BaseError

ROOT = Path(blas.__file__).resolve().parents[2]
linux = pytest.mark.skipif(sys.platform != "linux", reason="the BLAS is replaced on Linux only")


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a fresh interpreter at the repository's root."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_importing_adapters_does_not_import_mlx() -> None:
    """The preload must come first, so nothing on its way may import mlx."""
    done = run("import sys, adapters; print('mlx.core' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr


@linux
def test_the_wheel_s_openblas_is_found_on_a_machine_with_nothing_else() -> None:
    """cmeel-openblas is a dependency; it must load even where libgfortran.so.5 is missing."""
    done = run("import adapters; from adapters.base.blas import preload as p; print(p().source)")
    assert done.stdout.strip() == "cmeel-openblas", done.stderr


@linux
def test_mlx_multiplies_with_the_preloaded_library() -> None:
    """The process has mapped OpenBLAS, and a product still comes out right."""
    done = run(
        "import adapters\n"
        "import mlx.core as mx\n"
        "print((mx.ones((64, 64)) @ mx.ones((64, 64))).sum().item())\n"
        "print('libopenblas' in open('/proc/self/maps').read())"
    )
    assert done.stdout.split() == [str(64.0**3), "True"], done.stderr


@linux
def test_a_late_preload_says_so() -> None:
    """After mlx.core is imported the BLAS cannot be changed, and the report gives the cure."""
    done = run("import mlx.core; from adapters.base.blas import preload as p; print(p())")
    assert "source='none'" in done.stdout
    assert "before adapters" in done.stdout
    assert "import adapters before mlx" in done.stdout


@linux
def test_a_library_that_does_not_load_is_an_error() -> None:
    """What the operator names is used or refused, never replaced."""
    done = run("import adapters", CHAINLORA_BLAS="no-such-library.so")
    assert done.returncode != 0
    assert "BaseError: CHAINLORA_BLAS='no-such-library.so' cannot be loaded" in done.stderr


@linux
def test_a_library_that_is_no_blas_is_an_error() -> None:
    """A file that opens but lacks the CBLAS interface is refused too."""
    done = run("import adapters", CHAINLORA_BLAS="libc.so.6")
    assert "has no cblas_sgemm" in done.stderr


@linux
def test_the_operator_s_thread_count_is_what_runs() -> None:
    """CHAINLORA_THREADS wins over the number of cores and over OpenBLAS's own variable."""
    done = run(
        "import adapters; from adapters.base.blas import preload as p; print(p().threads)",
        CHAINLORA_THREADS="1",
        OPENBLAS_NUM_THREADS="2",
    )
    assert done.stdout.strip() == "1", done.stderr


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "9999", "²"])
def test_a_thread_count_that_is_no_number_is_refused(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only whole numbers from 1 to 1024 are thread counts."""
    monkeypatch.setenv(blas.THREADS_VARIABLE, text)
    with pytest.raises(BaseError, match="1 to 1024"):
        blas.thread_count()


@linux
def test_an_unconfigured_process_uses_the_cores_it_may_run_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Affinity, not the machine's size, is the number of threads."""
    monkeypatch.delenv(blas.THREADS_VARIABLE, raising=False)
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert blas.thread_count() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_a_container_s_quota_is_read_in_both_versions(
    files: dict[str, str], expected: float | None, tmp_path: Path
) -> None:
    """More threads than the quota pays for would only wait for each other."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert blas._cgroup_quota(tmp_path) == expected


@linux
def test_a_file_without_its_name_as_soname_is_not_patched(tmp_path: Path) -> None:
    """The copy is made only where the SONAME is found: never a blind edit of a library."""
    file = tmp_path / "libgfortran-0123abcd.so.5.0.0"
    file.write_bytes(b"\x7fELF nothing else")
    with pytest.raises(OSError, match="SONAME"):
        blas._open_as(file, "libgfortran.so.5")


def test_a_foreign_adapters_distribution_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyPI's own ``adapters`` package would overwrite ours: it is detected by its metadata."""
    assert adapters.foreign_distribution() is None
    folder = tmp_path / "adapters-1.2.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: adapters\nVersion: 1.2.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert adapters.foreign_distribution() == "adapters 1.2.0"
