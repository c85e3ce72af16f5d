"""A process that serves a fake engine: ``python -m tests.server.serve_fake [fail | held]``.

``held`` gives every row three tokens and then none; ``fail`` breaks the device after two.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator

from server.app import serve
from server.core.messages import Generate
from tests.fakes import FakeEngine, letters
from tests.server.api.serving import load_fakes, settings


def main(mode: str) -> int:
    """Serve until a signal, or until the device breaks."""
    engine = FakeEngine()
    if mode == "held":
        engine.hold()
        engine.step(3)

    def breaking(request: Generate) -> Iterator[int]:
        for position, token in enumerate(letters(request)):
            if position == 2:
                asyncio.get_running_loop().call_soon(engine.poison)
            yield token

    if mode == "fail":
        engine.script = breaking
    return serve(settings(port=0), load_fakes(engine))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
