"""mlx-lm's adapters are served as mlx-lm computes them, and mlx-lm loads ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import pytest
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import save_config

from adapters.errors import AdapterFileError
from adapters.formats.mlx_lm import CONFIG, WEIGHTS, read_adapter
from tests.acceptance.elsewhere.test_transfer import exported, sent
from tests.acceptance.extending.product import Product, row
from tests.acceptance.extending.test_rules import assert_served_like

LORA = {"rank": 4, "scale": 4.0, "dropout": 0.0}
QUERIES = {"keys": ["self_attn.q_proj"]}


def save(
    base: Path, directory: Path, num_layers: int, lora: dict[str, Any], *, dora: bool = False
) -> Path:
    """An adapter of noise by mlx-lm's own functions, as ``mlx_lm.lora`` leaves it."""
    model: Any = mlx_lm.load(str(base))[0]
    model.freeze()
    linear_to_lora_layers(model, num_layers, lora, use_dora=dora)
    mx.random.seed(5)
    learned = dict(tree_flatten(model.trainable_parameters()))
    learned = {name: each + 0.02 * mx.random.normal(each.shape) for name, each in learned.items()}
    directory.mkdir()
    mx.save_safetensors(str(directory / WEIGHTS), learned)
    kind = "dora" if dora else "lora"
    told = {"fine_tune_type": kind, "num_layers": num_layers, "lora_parameters": lora}
    save_config(told, config_path=directory / CONFIG)
    return directory


@pytest.mark.parametrize(
    ("name", "num_layers", "lora"),
    [
        ("every-layer", -1, LORA),
        ("last-block", 1, LORA),
        ("queries", 3, LORA | QUERIES),
        ("dropout", 2, LORA | {"dropout": 0.1}),
    ],
)
def test_an_adapter_that_mlx_lm_saves_is_served_as_mlx_lm_computes_it(
    product: Product, tmp_path: Path, name: str, num_layers: int, lora: dict[str, Any]
) -> None:
    """With and without keys, on all blocks and on the last ones."""
    saved = save(product.model_dir, tmp_path / name, num_layers, lora)
    stage = product.ok(sent(product, name, saved))
    assert stage["lora"]["rank"] == 4
    assert_served_like(product, f"tiny:{name}", saved)


def test_a_key_that_no_layer_has_keeps_no_next_stage_from_being_trained(
    product: Product, tmp_path: Path
) -> None:
    """mlx-lm passes over it; so do we, and say so."""
    keys = {"keys": ["self_attn.q_proj", "mlp.switch_mlp.up_proj"]}
    saved = save(product.model_dir, tmp_path / "strange", 2, LORA | keys)
    stage = product.ok(sent(product, "strange", saved))
    assert stage["lora"]["keys"] == ["self_attn.q_proj"]
    assert "'mlp.switch_mlp.up_proj'" in stage["record"]["warnings"][-1]
    assert_served_like(product, "tiny:strange", saved)
    product.train("strange", [row("What is a keel?", "A fin below a boat.")], iters=1)


def test_mlx_lm_loads_what_we_export_and_gives_the_served_tokens(
    product: Product, tmp_path: Path
) -> None:
    """After a stage of ours on an adapter of theirs, as ``chain export`` writes it."""
    product.ok(sent(product, "out", save(product.model_dir, tmp_path / "in", 2, LORA)))
    product.train("out", [row("What is a keel?", "A fin below a boat.")], iters=4)
    assert_served_like(product, "tiny:out", exported(product, "out", tmp_path, format="mlx-lm"))


def test_a_dora_of_mlx_lm_is_refused(product: Product, tmp_path: Path) -> None:
    """By its type, and where somebody changed that, by its tensors."""
    saved = save(product.model_dir, tmp_path / "dora", 1, LORA, dora=True)
    with pytest.raises(AdapterFileError, match="fine_tune_type is 'dora'"):
        read_adapter(saved)
    (saved / CONFIG).write_text((saved / CONFIG).read_text().replace('"dora"', '"lora"'))
    with pytest.raises(AdapterFileError, match="Full and DoRA fine-tunes are not served"):
        read_adapter(saved)


@pytest.mark.slow
def test_the_command_mlx_lm_lora_makes_what_we_serve_and_goes_on_from_what_we_export(
    product: Product, tmp_path: Path
) -> None:
    """There and back: trained there, a stage here, trained there again from our export."""
    first = trained_there(product.model_dir, tmp_path, "first")
    product.ok(sent(product, "command", first))
    assert_served_like(product, "tiny:command", first)
    product.train("command", [row("What is a keel?", "A fin below a boat.")], iters=2)
    ours = exported(product, "command", tmp_path, format="mlx-lm")
    second = trained_there(product.model_dir, tmp_path, "second", resume=ours / WEIGHTS)
    product.ok(sent(product, "command-again", second))
    assert_served_like(product, "tiny:command-again", second)


def trained_there(base: Path, folder: Path, name: str, *, resume: Path | None = None) -> Path:
    """What ``mlx_lm.lora`` leaves after two steps."""
    data = folder / f"data-{name}"
    data.mkdir()
    for part in ("train", "valid"):
        line = json.dumps(row("What is a sail?", "A cloth that catches the wind."))
        (data / f"{part}.jsonl").write_text(f"{line}\n" * 4)
    config = folder / f"{name}.yaml"
    config.write_text(json.dumps({"lora_parameters": LORA, "num_layers": 2}))
    command = [sys.executable, "-m", "mlx_lm", "lora", "--model", str(base), "--train"]
    command += ["--data", str(data), "--config", str(config), "--adapter-path", str(folder / name)]
    command += ["--iters", "2", "--batch-size", "2", "--learning-rate", "0.01"]
    if resume is not None:
        command += ["--resume-adapter-file", str(resume)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / name
