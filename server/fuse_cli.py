"""The command ``fuse``, and what ``chain fuse`` shares with it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from server.arguments import CommandFailed, Parser, UsageError
from server.convert_cli import change_line, change_row, size
from server.screen import Screen, shown

if TYPE_CHECKING:
    from adapters.base.scores import Change
    from adapters.formats.mlx_lm import AdapterFiles
    from adapters.lora.fuse import Fusion

WARN_AGREEMENT = 0.99
"""A fused model whose likeliest token is the same at a smaller share of positions is warned of."""
WARN_MEAN = 0.05
"""So is a larger mean difference of log-probabilities, in nats."""

_DTYPES = ("float16", "bfloat16", "float32")


def run(arguments: Sequence[str], screen: Screen) -> int:
    """``fuse``; its exit code. Raises UsageError and CommandFailed."""
    parser = Parser(
        "fuse",
        "Write a model with an adapter merged into it. 'chainlora chain fuse' takes a chain.",
    )
    parser.add_argument("model", metavar="MODEL", help="the base: a directory, or a hub id")
    parser.add_argument("adapter", metavar="ADAPTER", type=Path, help="an mlx-lm adapter directory")
    add_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    check_options(options)
    from adapters.base.load import resolve_model
    from adapters.errors import AdapterError
    from adapters.formats.mlx_lm import read_adapter

    if not options.model:
        raise UsageError("MODEL is empty: give a directory or a hub id")
    try:
        files = read_adapter(options.adapter, follow_links=True)
        model = resolve_model(options.model, Path())
    except (AdapterError, OSError) as error:
        raise CommandFailed(str(error)) from error
    return fuse(screen, model, files, options)


def add_options(parser: argparse.ArgumentParser) -> None:
    """OUT and what to do, for both commands."""
    parser.add_argument("out", metavar="OUT", type=Path, help="the new directory; must not exist")
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--dequantize",
        action="store_true",
        help="nothing stays quantized, so that nothing is lost but rounding; the default",
    )
    form.add_argument(
        "--requantize",
        action="store_true",
        help="pack the matrices again as the base packs them: small, and other answers",
    )
    parser.add_argument("--dtype", choices=_DTYPES, help="dequantized; default: the base's own")
    check = parser.add_mutually_exclusive_group()
    check.add_argument(
        "--check", type=Path, metavar="TEXTFILE", help="text to score; default: a page of our own"
    )
    check.add_argument("--no-check", action="store_true", help="do not score before and after")


def check_options(options: argparse.Namespace) -> None:
    """Raise UsageError for options that contradict each other."""
    if options.requantize and options.dtype is not None:
        raise UsageError("--dtype has no meaning beside --requantize, which keeps the base's own")


def fuse(screen: Screen, model: Path, files: AdapterFiles, options: argparse.Namespace) -> int:
    """Fuse ``files`` into ``model`` as ``options`` ask, and tell. Raises CommandFailed."""
    from adapters.base.scores import check_text
    from adapters.errors import AdapterError
    from adapters.lora.fuse import fuse_adapter

    def progress(text: str) -> None:
        if not options.json:
            screen.line(text)

    try:
        done = fuse_adapter(
            model,
            files,
            options.out,
            requantize=options.requantize,
            dtype=options.dtype,
            text=None if options.no_check else check_text(options.check),
            progress=progress,
        )
    except (AdapterError, OSError) as error:
        raise CommandFailed(str(error)) from error
    _report(screen, done, as_json=options.json)
    return 0


def _report(screen: Screen, done: Fusion, *, as_json: bool) -> None:
    warning = warning_of(done.change, quantized=done.quantized)
    if as_json:
        document = {
            "path": str(done.path),
            "modules": done.modules,
            "quantized": done.quantized,
            "bytes_before": done.bytes_before,
            "bytes_after": done.bytes_after,
            "check": None if done.change is None else change_row(done.change),
            "warning": warning,
        }
        screen.line(json.dumps(document))
        return
    before, after = size(done.bytes_before), size(done.bytes_after)
    screen.line(f"{done.modules} modules merged, {before} -> {after} in {shown(done.path)}")
    screen.line("not checked" if done.change is None else change_line(done.change))
    if warning is not None:
        screen.line(f"warning: {warning}")


def warning_of(change: Change | None, *, quantized: bool) -> str | None:
    """What to think of a fusion, or None where it answers as base and adapter do."""
    if quantized and change is None:
        return "quantizing again changes the answers, and by how much was not measured."
    if change is None or (change.agreement >= WARN_AGREEMENT and change.mean <= WARN_MEAN):
        return None
    cure = "fuse without --requantize" if quantized else "a wider --dtype loses less"
    return (
        "the fused model does not answer as base and adapter do; serve the adapter beside its "
        f"base, or {cure}."
    )
