"""What ``--kv-bits`` costs a model: its log-probabilities with a quantized KV against float ones.

``python -m scripts.measure_kv_bits [MODEL] [--check FILE]``; MODEL as for ``chainlora serve``.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.base.load import load_base, resolve_model
from adapters.base.quantized_kv import GROUP_SIZES, KVQuantization
from adapters.base.scores import change, check_text, first_tokens, scores
from adapters.base.tokenizer import load_tokenizer
from adapters.errors import AdapterError
from server.settings import Settings

if TYPE_CHECKING:  # else MLX would be imported before the BLAS that our own modules open for it
    import mlx.core as mx


def main(arguments: list[str]) -> int:
    """Print a table in Markdown; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", nargs="?", help="a model directory or hub id")
    parser.add_argument("--check", type=Path, metavar="FILE", help="text to check on")
    parser.add_argument("--data-dir", type=Path, default=Settings().data_dir)
    options = parser.parse_args(arguments)
    try:
        path = resolve_model(options.model, options.data_dir, progress=print)
        model: Any = load_base(path).model
        tokens = first_tokens(load_tokenizer(path).encode, check_text(options.check))
        before = scores(model, tokens)
    except AdapterError as error:
        print(error, file=sys.stderr)
        return 1
    print("| bits | group size | mean | largest | same likeliest token | perplexity | bytes |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for bits in (8, 4):
        for size in GROUP_SIZES:
            form = KVQuantization(bits, size)
            try:
                form.refuse_unfit(model, path)
            except AdapterError as error:
                print(f"{bits} bits, groups of {size}: {error}", file=sys.stderr)
                continue
            found = change(before, scores(partial(_logits, model, form), tokens))
            print(
                f"| {bits} | {size} | {found.mean:.4f} | {found.largest:.3f} "
                f"| {found.agreement:.1%} of {found.tokens} | {found.rise:+.2%} "
                f"| {form.bytes_per_value(4):.3f} |"
            )
    return 0


def _logits(model: Any, form: KVQuantization, tokens: mx.array) -> mx.array:
    layers = form.layers(form.make_caches(model), tokens=tokens.shape[1])
    logits: mx.array = model(tokens, cache=layers)
    return logits


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
