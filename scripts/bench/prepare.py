"""What both servers need on disk: the model in two forms and adapters for it, made once.

Runs as a process of its own (``python -m scripts.bench.prepare OUT [MODEL] [--adapters N]
[--small N]``), so that no MLX is in the process that measures.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ADAPTERS = 8
RANK = 8
_SCALE = 2.0
_RECORD = "prepared.json"
_END = "<|end of the bench|>"


@dataclass(frozen=True, slots=True)
class Prepared:
    """Directories that a run needs.

    ``plain`` is the model itself and ``ends`` its end tokens, ``quantized`` the model as it is
    served, ``dequantized`` the same weights written in float32, ``adapters`` mlx-lm directories of
    rank 8 on every linear layer of every block, ``small`` ones of rank 1 on a single layer, to be
    registered and not asked. ``quantized`` and ``dequantized`` have an end token that they cannot
    draw, so that output lengths are fixed.
    Banning the end tokens by ``logit_bias`` would do so too, and cost mlx_lm.server 5 % at 16
    streams: it runs logits processors row by row.
    """

    quantized: str
    dequantized: str
    adapters: tuple[str, ...]
    small: tuple[str, ...] = ()
    plain: str = ""
    ends: tuple[int, ...] = ()


def read(out: Path) -> Prepared:
    """What ``prepare`` left in ``out``; OSError where it never ran to its end."""
    record = json.loads((out / _RECORD).read_text())
    return Prepared(**{name: _fixed(value) for name, value in record.items()})


def _fixed(value: str | list[Any]) -> Any:
    return tuple(value) if isinstance(value, list) else value


def prepare(out: Path, model: Path | None, *, adapters: int = ADAPTERS, small: int = 0) -> Prepared:
    """Make what is missing below ``out``, for ``model`` or the embedded one."""
    import adapters as package  # noqa: F401  # opens the fast BLAS before MLX
    from adapters.base.embedded import ensure_embedded
    from adapters.base.tokenizer import load_tokenizer

    out.mkdir(parents=True, exist_ok=True)
    quantized, dequantized = out / "quantized", out / "dequantized"
    plain = model or ensure_embedded(out, progress=print)
    if not quantized.exists():
        _without_end(plain, quantized)
    if not dequantized.exists():
        _dequantize(quantized, dequantized)
    large = [out / "adapters" / f"a{number}" for number in range(adapters)]
    tiny = [out / "small" / f"a{number}" for number in range(small)]
    missing = [directory for directory in (*large, *tiny) if not directory.exists()]
    if missing:
        shapes = list(_linear_shapes(dequantized))
        for directory in missing:
            seed = int(directory.name[1:])
            if directory in large:
                _make_adapter(shapes, directory, rank=RANK, seed=seed)
            else:
                _make_adapter(_one_of_the_last(shapes), directory, rank=1, seed=seed)
    prepared = Prepared(
        str(quantized),
        str(dequantized),
        tuple(map(str, large)),
        tuple(map(str, tiny)),
        str(plain),
        tuple(sorted(load_tokenizer(plain).end_tokens)),
    )
    (out / _RECORD).write_text(json.dumps(asdict(prepared), indent=1))
    return prepared


def _without_end(source: Path, target: Path) -> None:
    """A view of a model directory whose end token lies outside the model's output.

    mlx-lm ends at the ids of the configuration and also at the tokenizer's own end token, so both
    become a token that is added behind the last one.
    """
    work = _fresh(target)
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    added = tokenizer["added_tokens"]
    end = 1 + max([*tokenizer["model"]["vocab"].values(), *(token["id"] for token in added)])
    added.append({**added[-1], "id": end, "content": _END})
    changed: dict[str, Any] = {"tokenizer.json": tokenizer}
    for name, key, value in (
        ("config.json", "eos_token_id", end),
        ("generation_config.json", "eos_token_id", end),
        ("tokenizer_config.json", "eos_token", _END),
    ):
        if (source / name).exists():
            changed[name] = {**json.loads((source / name).read_text()), key: value}
    for file in source.resolve().iterdir():
        if file.name not in changed:
            (work / file.name).symlink_to(file)
    for name, content in changed.items():
        (work / name).write_text(json.dumps(content, indent=1))
    work.rename(target)


def _fresh(target: Path) -> Path:
    """An empty directory beside ``target``, to be renamed to it once complete."""
    work = target.with_name(target.name + ".part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    return work


def _dequantize(source: Path, target: Path) -> None:
    """mlx-lm's own conversion to float32: the form in which its server is fastest on a CPU."""
    from mlx_lm import convert

    work = _fresh(target)
    work.rmdir()  # mlx-lm insists on making it
    convert(str(source), str(work), dequantize=True, dtype="float32")
    work.rename(target)


def _linear_shapes(model_dir: Path) -> Iterator[tuple[str, int, int]]:
    """(path, input size, output size) of every linear layer inside the blocks."""
    from mlx.nn.layers.linear import Linear
    from mlx_lm.utils import load_model

    model, _ = load_model(model_dir, lazy=True)
    for path, module in model.named_modules():
        if isinstance(module, Linear) and ".layers." in f".{path}":
            outputs, inputs = module.weight.shape
            yield path, inputs, outputs


def _block(path: str) -> int:
    return int(path.split(".layers.")[1].split(".")[0])


def _one_of_the_last(shapes: Sequence[tuple[str, int, int]]) -> Sequence[tuple[str, int, int]]:
    """A single layer of the last block: mlx-lm's format counts adapted blocks from there."""
    last = max(_block(path) for path, _, _ in shapes)
    return [shape for shape in shapes if _block(shape[0]) == last][:1]


def _make_adapter(
    shapes: Sequence[tuple[str, int, int]], directory: Path, *, rank: int, seed: int
) -> None:
    """A random adapter in mlx-lm's form that changes the outputs without drowning them."""
    import mlx.core as mx

    key = mx.random.key(seed)
    tensors: dict[str, Any] = {}
    for path, inputs, outputs in shapes:
        key, for_a, for_b = mx.random.split(key, 3)
        tensors[f"{path}.lora_a"] = mx.random.normal((inputs, rank), key=for_a) * inputs**-0.5
        tensors[f"{path}.lora_b"] = mx.random.normal((rank, outputs), key=for_b) * 0.01
    numbers = {_block(path) for path, _, _ in shapes}
    keys = sorted({path.split(".layers.")[1].split(".", 1)[1] for path, _, _ in shapes})
    config = {
        "fine_tune_type": "lora",
        "num_layers": 1 + max(numbers) - min(numbers),
        "lora_parameters": {"rank": rank, "scale": _SCALE, "dropout": 0.0, "keys": keys},
    }
    work = _fresh(directory)
    mx.save_safetensors(str(work / "adapters.safetensors"), tensors)
    (work / "adapter_config.json").write_text(json.dumps(config, indent=1))
    work.rename(directory)


def main() -> None:
    """Read the arguments and make what they ask for."""
    parser = argparse.ArgumentParser(prog="scripts.bench.prepare", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--adapters", type=int, default=ADAPTERS)
    parser.add_argument("--small", type=int, default=0)
    options = parser.parse_args()
    prepare(options.out, options.model, adapters=options.adapters, small=options.small)


if __name__ == "__main__":
    main()
