"""The command ``convert``: a Hugging Face model becomes an MLX model directory."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.arguments import CommandFailed, Parser, UsageError
from server.screen import Screen, shown

if TYPE_CHECKING:
    from adapters.base.convert import Conversion, Quantization
    from adapters.base.scores import Change

WARN_RISE = 0.10
"""A rise of perplexity by more than this share is warned of."""
WARN_AGREEMENT = 0.80
"""So is a smaller share of positions at which the likeliest token stayed the same."""

_BITS = (2, 3, 4, 6, 8)
_GROUP_SIZES = (32, 64, 128)
_RECIPES = ("mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6")
_DTYPES = ("float16", "bfloat16", "float32")


def run(arguments: Sequence[str], screen: Screen) -> int:
    """``convert``; its exit code. Raises UsageError and CommandFailed."""
    options = _parser().parse_args(arguments)
    _check_together(options)
    # Late: --help and wrong usage need no MLX, and it must come after the BLAS that this opens.
    from adapters.base.convert import Quantization, convert_model
    from adapters.base.load import resolve_model
    from adapters.base.scores import check_text
    from adapters.errors import AdapterError

    def progress(text: str) -> None:
        if not options.json:
            screen.line(text)

    packing = None
    if options.quantize:
        given = {"bits": options.bits, "group_size": options.group_size, "recipe": options.recipe}
        packing = Quantization(**{name: each for name, each in given.items() if each is not None})
    try:
        # Before a download, which may take long.
        if os.path.lexists(options.out):
            raise FileExistsError(
                f"{options.out} exists and is not overwritten: give another name."
            )
        text = None if options.no_check else check_text(options.check)
        source = resolve_model(options.source, Path(), progress=progress)
        done = convert_model(
            source,
            options.out,
            quantization=packing,
            dtype=options.dtype,
            text=text,
            progress=progress,
        )
    except (AdapterError, OSError) as error:
        raise CommandFailed(str(error)) from error
    _report(screen, done, packing, as_json=options.json)
    return 0


def _parser() -> Parser:
    parser = Parser(
        "convert",
        "Make an MLX model directory of a Hugging Face model, by mlx-lm's converter. "
        "'chainlora serve --model OUT' serves it.",
    )
    parser.add_argument("source", metavar="SOURCE", help="a directory, or a hub id (owner/name)")
    parser.add_argument("out", metavar="OUT", type=Path, help="the new directory; must not exist")
    parser.add_argument("-q", "--quantize", action="store_true", help="pack the matrices")
    parser.add_argument("--bits", type=int, choices=_BITS, help="of a packed weight; default: 4")
    parser.add_argument(
        "--group-size",
        type=int,
        choices=_GROUP_SIZES,
        help="weights that share a scale; default: 64",
    )
    parser.add_argument("--recipe", choices=_RECIPES, help="few bits, and more where they matter")
    parser.add_argument(
        "--dtype", choices=_DTYPES, help="of what is not packed; default: what config.json names"
    )
    check = parser.add_mutually_exclusive_group()
    check.add_argument(
        "--check",
        type=Path,
        metavar="TEXTFILE",
        help="text that both models are scored on; default: a page of our own",
    )
    check.add_argument("--no-check", action="store_true", help="do not score: halves the time")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _check_together(options: argparse.Namespace) -> None:
    for name in ("bits", "group_size", "recipe"):
        if getattr(options, name) is not None and not options.quantize:
            raise UsageError(f"--{name.replace('_', '-')} says how to quantize: give -q with it")
    if options.bits is not None and options.recipe is not None:
        raise UsageError("--recipe chooses the bits itself: give it or --bits, one of them")
    if not options.source:
        raise UsageError("SOURCE is empty: give a directory or a hub id")


def _report(
    screen: Screen, done: Conversion, packing: Quantization | None, *, as_json: bool
) -> None:
    warning = None if done.change is None else warning_of(done.change)
    if as_json:
        document = {
            "path": str(done.path),
            "bytes_before": done.bytes_before,
            "bytes_after": done.bytes_after,
            "quantization": None if packing is None else dataclasses.asdict(packing),
            "matrices": done.matrices,
            "unpacked": done.unpacked,
            "check": None if done.change is None else change_row(done.change),
            "warning": warning,
        }
        screen.line(json.dumps(document))
        return
    before, after = size(done.bytes_before), size(done.bytes_after)
    screen.line(f"{before} -> {after} of weights in {shown(done.path)}")
    if done.unpacked and packing is not None:
        screen.line(
            f"{done.unpacked} of {done.matrices} matrices stay as they were: a group size of "
            f"{packing.group_size} does not divide their width; a smaller --group-size may"
        )
    if done.change is None:
        screen.line("not checked")
    else:
        screen.line(change_line(done.change))
    if warning is not None:
        screen.line(f"warning: {warning}")


def size(nbytes: int) -> str:
    """A size for people: ``1.3 GB``, ``640 kB``."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if nbytes >= scale:
            return f"{nbytes / scale:.1f} {unit}"
    return f"{nbytes / 1e3:.0f} kB"


def change_line(change: Change) -> str:
    """What the check found, on one line."""
    return (
        f"on {change.tokens} tokens: perplexity {change.perplexity_before:.4g} -> "
        f"{change.perplexity_after:.4g} ({100 * change.rise:+.1f} %), log-probabilities apart by "
        f"{change.mean:.3g} on average and {change.largest:.3g} at most, same likeliest token at "
        f"{100 * change.agreement:.1f} %"
    )


def change_row(change: Change) -> dict[str, Any]:
    """The same for programs."""
    return {**dataclasses.asdict(change), "rise": change.rise}


def warning_of(change: Change) -> str | None:
    """What to think of a change that is large, or None."""
    if change.rise > WARN_RISE:
        return (
            f"perplexity rose by more than {WARN_RISE:.0%}: more --bits or a smaller --group-size "
            "lose less."
        )
    if change.agreement < WARN_AGREEMENT:
        return (
            f"the likeliest token is another one at more than {1 - WARN_AGREEMENT:.0%} of the "
            "positions: more --bits or a smaller --group-size lose less."
        )
    return None
