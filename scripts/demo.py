"""The tour: one chain learns two small tasks, one after the other, while it is served.

``./scripts/demo`` starts a server on a free port with a data directory of its own, which is gone
afterwards, and exits with 1 where an accuracy that the tour promises is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from adapters.base.embedded import ensure_embedded
from adapters.errors import AdapterError
from scripts.bench.servers import ServerError, free_port, running
from scripts.demo_telling import Telling, is_bold, standard_output, transcript
from scripts.demo_tour import Tour
from server.admin_client import AdminError
from server.settings import EMBEDDED_NAME
from server.settings_text import SettingsError, from_environment_and_flags

_START_S = 300.0
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Start a server, walk, end it; 1 where a promise was not kept, 2 for a wrong FILE."""
    parser = argparse.ArgumentParser(prog="demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--transcript",
        metavar="FILE",
        type=Path,
        help="also write it there, without bars; must not exist",
    )
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        screens = [standard_output()]
        if options.transcript is not None:
            try:
                file = stack.enter_context(options.transcript.open("x", encoding="utf-8"))
            except OSError as error:
                parser.error(f"--transcript {options.transcript}: {error.strerror or error}")
            screens.append(transcript(file))
        return _tour(Telling(*screens, bold=is_bold()))


def _tour(telling: Telling) -> int:
    try:
        kept = from_environment_and_flags(os.environ, {}).data_dir
        model = ensure_embedded(kept, progress=telling.line)
        with tempfile.TemporaryDirectory(prefix="chainlora-demo-") as work:
            tour = _serve_and_walk(model, Path(work), telling)
    except KeyboardInterrupt:
        print("\nThe tour ends here; its server has stopped.", file=sys.stderr)
        return _INTERRUPTED
    except (AdapterError, AdminError, ServerError, SettingsError, OSError) as error:
        print(f"\nThe tour cannot go on. {error}", file=sys.stderr)
        return 1
    count, missed = len(telling.promises), len(telling.missed)
    kept_all = f"All {count} promises kept" if not missed else f"{missed} of {count} NOT kept"
    telling.last(
        "One base in memory, one chain of two stages, served while it learned",
        tour.table(),
        [
            f"{kept_all}, in {telling.seconds:.0f} s. The server has stopped.",
            "Your own: ./scripts/serve, then .venv/bin/chainlora stage add NAME rows.jsonl --watch",
        ],
    )
    return 1 if missed else 0


def _serve_and_walk(model: Path, work: Path, telling: Telling) -> Tour:
    telling.heading("A server starts, with an empty data directory")
    port = free_port()
    arguments = ["server.cli", "serve", "--model", str(model), "--served-name", EMBEDDED_NAME]
    arguments += ["--port", str(port), "--data-dir", str(work / "data"), "--no-supervise"]
    ready, log = "/health/ready", work / "server.log"
    with running(arguments, port=port, ready=ready, log=log, timeout_s=_START_S) as server:
        telling.line(f"it serves {EMBEDDED_NAME} at {server.url}/v1")
        tour = Tour(server.url, telling)
        tour.walk()
        return tour


if __name__ == "__main__":
    sys.exit(main())
