"""``chainlora serve`` on a device that can be broken from outside.

``python -m tests.acceptance.serving.serve_fragile serve OPTIONS``: the forward that finds the file
``$FRAGILE`` removes it and fails. It runs under the product's own supervisor.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from server import cli
from server.supervise import RestartPolicy, Supervisor

WHERE = "FRAGILE"


def main(arguments: list[str]) -> int:
    """The supervisor, or with ``--no-supervise`` its child."""
    if "--no-supervise" in arguments:
        _make_fragile(Path(os.environ.pop(WHERE)))
        return cli.main(arguments)
    command = [sys.executable, "-m", __spec__.name, *arguments, "--no-supervise"]
    return Supervisor(command, policy=RestartPolicy(), clock=time.monotonic, log=_log).run()


def _make_fragile(breaks: Path) -> None:
    # Late: the supervisor must stay without MLX.
    from adapters.base.load import load_base
    from server import loading

    def fragile(*arguments: Any, **options: Any) -> Any:
        base = load_base(*arguments, **options)
        model: Any = base.model
        plain = type(model)

        def forward(module: Any, *inputs: Any, **named: Any) -> Any:
            if breaks.exists():
                breaks.unlink()
                raise RuntimeError("the device broke")
            return plain.__call__(module, *inputs, **named)

        # This instance alone: a module around the model would change the paths of its layers.
        model.__class__ = type(plain.__name__, (plain,), {"__call__": forward})
        return base

    vars(loading)["load_base"] = fragile


def _log(event: str, fields: Any) -> None:
    sys.stderr.write(f"{event} {fields}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
