"""``mlx_lm.server`` with the fast BLAS: its best form on Linux, which it cannot reach by itself.

``python -m scripts.bench.peer [options of mlx_lm.server]``; with ``--no-blas`` as the first
argument it runs as installed.
"""

from __future__ import annotations

import runpy
import sys

if __name__ == "__main__":
    if sys.argv[1:2] == ["--no-blas"]:
        del sys.argv[1]
    else:
        # Before the first import of mlx, or it has no effect.
        from adapters.base.blas import preload

        preload()
    runpy.run_module("mlx_lm.server", run_name="__main__")
