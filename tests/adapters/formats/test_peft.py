"""PEFT directories are read as what they compute, and written as PEFT reads them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.errors import AdapterFileError
from adapters.formats import peft
from adapters.formats.arrays import HostArray
from adapters.formats.mlx_lm import AdapterFiles, read_adapter, write_adapter
from adapters.formats.peft import CONFIG, WEIGHTS, alpha_for, read_peft, write_peft
from adapters.formats.safetensors_file import read_tensors, write_tensors
from adapters.shape import LoraShape
from tests.adapters.formats.samples import as_plain, foreign_adapters, matrix, update_of

Q, V, UP = (
    f"model.layers.{where}_proj" for where in ("0.self_attn.q", "0.self_attn.v", "1.mlp.up")
)
ROWS, COLUMNS = 6, 10


def theirs(ranks: dict[str, int], dtype: str = "F32") -> dict[str, HostArray]:
    """PEFT's tensors of modules with these ranks: A (r, in), B (out, r)."""
    tensors = {}
    for index, (module, rank) in enumerate(ranks.items()):
        name = f"base_model.model.{module}"
        tensors[f"{name}.lora_A.weight"] = matrix(rank, ROWS, index, dtype)
        tensors[f"{name}.lora_B.weight"] = matrix(COLUMNS, rank, 50 + index, dtype)
    return tensors


def put(directory: Path, tensors: dict[str, HostArray], **config: Any) -> Path:
    """A PEFT directory as ``save_pretrained`` leaves it."""
    directory.mkdir()
    write_tensors(directory / WEIGHTS, tensors, metadata={"format": "pt"})
    default = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "bias": "none",
        "use_rslora": False, "use_dora": False, "modules_to_save": None, "lora_dropout": 0.05,
        "target_modules": ["q_proj", "v_proj"], "rank_pattern": {}, "alpha_pattern": {},
        "init_lora_weights": True, "base_model_name_or_path": "somewhere/model",
        "auto_mapping": None, "layers_pattern": None, "loftq_config": {}, "revision": None,
    }  # fmt: skip
    (directory / CONFIG).write_text(json.dumps({**default, **config}))
    return directory


def refusal(directory: Path, tensors: dict[str, HostArray] | None = None, **config: Any) -> str:
    """Why it is refused."""
    put(directory, theirs({Q: 4}) if tensors is None else tensors, **config)
    with pytest.raises(AdapterFileError) as caught:
        read_peft(directory)
    assert str(directory) in str(caught.value)
    return str(caught.value)


def values(tensors: dict[str, HostArray], module: str, part: str) -> np.ndarray:
    """A PEFT tensor as numpy has it."""
    array = tensors[f"base_model.model.{module}.lora_{part}.weight"]
    width = {"F32": "<f4", "F16": "<f2"}[array.dtype]
    return np.frombuffer(array.data, width).reshape(array.shape).astype(np.float64)


def peft_update(
    tensors: dict[str, HostArray], module: str, x: np.ndarray, scale: float
) -> np.ndarray:
    """PEFT's own formula: lora_B(lora_A(x)) * scaling, both as torch's linear layers."""
    a, b = values(tensors, module, "A"), values(tensors, module, "B")
    made: np.ndarray = (x @ a.T) @ b.T * scale
    return made


def assert_computes(
    directory: Path, tensors: dict[str, HostArray], scales: dict[str, float]
) -> AdapterFiles:
    """Hold what is read to PEFT's formula, module by module."""
    files = read_peft(directory)
    x = np.random.default_rng(9).standard_normal((5, ROWS))
    for module, scale in scales.items():
        np.testing.assert_allclose(
            update_of(files, module, x), peft_update(tensors, module, x, scale), rtol=1e-12
        )
    return files


@given(files=foreign_adapters(types=("F32", "F16", "BF16")))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_from_mlx_lm_to_peft_and_back_nothing_changes(
    tmp_path_factory: pytest.TempPathFactory, files: AdapterFiles
) -> None:
    """Every byte, and the scale."""
    folder = tmp_path_factory.mktemp("trip")
    write_adapter(folder / "one", files)
    write_peft(folder / "theirs", read_adapter(folder / "one"))
    write_adapter(folder / "two", read_peft(folder / "theirs"))
    assert as_plain(read_adapter(folder / "two")) == as_plain(files)


@given(scale=st.floats(2**-20, 1e6, width=32), rank=st.integers(1, 4096))
def test_a_float32_scale_comes_back_from_alpha_exactly(scale: float, rank: int) -> None:
    """Its product by the rank fits a float64."""
    assert alpha_for(scale, rank) / rank == scale


@given(scale=st.floats(1e-6, 1e6), rank=st.integers(1, 4096))
def test_any_scale_comes_back_from_alpha_to_the_last_place(scale: float, rank: int) -> None:
    """No float64 may lie nearer."""
    assert abs(alpha_for(scale, rank) / rank - scale) <= math.ulp(scale)


@pytest.mark.parametrize("rs", [False, True])
def test_a_directory_of_peft_is_read(tmp_path: Path, rs: bool) -> None:
    """Transposed; alpha / r, or alpha / sqrt(r) with rsLoRA."""
    tensors = theirs({Q: 4, V: 4})
    put(tmp_path / "a", tensors, lora_alpha=10, use_rslora=rs)
    scale = 10 / (2 if rs else 4)
    files = assert_computes(tmp_path / "a", tensors, {Q: scale, V: scale})
    keys = ("self_attn.q_proj", "self_attn.v_proj")
    assert files.shape == LoraShape(4, scale, -1, keys, 0.05)
    assert files.tensors[Q][0].shape == (ROWS, 4)
    assert files.tensors[Q][1].shape == (4, COLUMNS)


def test_smaller_ranks_are_padded(tmp_path: Path) -> None:
    """With columns of zeros: the function is what it was; here alpha keeps the scale one."""
    tensors = theirs({Q: 4, V: 2})
    put(
        tmp_path / "a", tensors, rank_pattern={"v_proj": 2}, alpha_pattern={"v_proj": 4.0},
    )  # fmt: skip
    files = assert_computes(tmp_path / "a", tensors, {Q: 2.0, V: 2.0})
    assert files.shape.rank == 4
    assert files.tensors[V][0].shape == (ROWS, 4)


@pytest.mark.parametrize(
    ("pattern", "scales"),
    [
        ({"v_proj": 32}, {Q: 2.0, V: 8.0, UP: 2.0}),
        ({"mlp.up_proj": 4, "q_proj": 16}, {Q: 4.0, V: 2.0, UP: 1.0}),
        ({f"^{V}": 2}, {Q: 2.0, V: 0.5, UP: 2.0}),
        ({r"layers\.0\.self_attn\.v_proj$": 2}, {Q: 2.0, V: 0.5, UP: 2.0}),
        ({"self_attn": 2, "^v_proj": 2, "j": 2}, {Q: 2.0, V: 2.0, UP: 2.0}),
        ({"q_proj": 16, "self_attn.q_proj": 2}, {Q: 4.0, V: 2.0, UP: 2.0}),
    ],
)
def test_alphas_that_differ_are_folded_into_b(
    tmp_path: Path, pattern: dict[str, float], scales: dict[str, float]
) -> None:
    """Whole steps of a path match its end, ``^`` the whole of it; the first match counts."""
    tensors = theirs({Q: 4, V: 4, UP: 4})
    put(tmp_path / "a", tensors, alpha_pattern=pattern)
    assert_computes(tmp_path / "a", tensors, scales)


def test_a_factor_that_the_values_have_room_for_is_folded_too(tmp_path: Path) -> None:
    """Times three, sixteen bits of precision fit float32."""
    tensors = theirs({Q: 4, V: 4}, "F16")
    put(tmp_path / "a", tensors, alpha_pattern={"v_proj": 24})
    files = assert_computes(tmp_path / "a", tensors, {Q: 2.0, V: 6.0})
    assert [files.tensors[module][1].dtype for module in (Q, V)] == ["F16", "F32"]


@pytest.mark.parametrize(
    "config",
    [
        {"alpha_pattern": {"v_proj": 24}},
        {"rank_pattern": {"v_proj": 2}, "use_rslora": True},
    ],
)
def test_scales_that_cannot_become_one_exactly_are_refused(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    """Rounding in silence would be another adapter."""
    rank = 2 if "rank_pattern" in config else 4
    said = refusal(tmp_path / "a", theirs({Q: 4, V: rank}), **config)
    assert "different scales" in said


@pytest.mark.parametrize("pattern", [".*v_proj", "(a+)+$", "layers.[0-9]+.v_proj", "", "a" * 300])
def test_regular_expressions_are_refused_unmatched(tmp_path: Path, pattern: str) -> None:
    """A pattern of a file may take for ever."""
    assert "is a regular expression" in refusal(tmp_path / "a", alpha_pattern={pattern: 2})


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save are whole layers"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "lora_only"}, "trained biases"),
        ({"trainable_token_indices": [1]}, "trained tokens"),
        ({"layer_replication": [[0, 4]]}, "another model"),
        ({"target_parameters": ["mlp.experts"]}, "experts"),
        ({"use_qalora": True}, "QALoRA"),
        ({"alora_invocation_tokens": [5]}, "from a token on"),
        ({"kasa_config": {"beta": 1.0}}, "KaSA cuts the base's own weights"),
        ({"monteclora_config": {"num_samples": 8}}, "Monteclora samples"),
        ({"arrow_config": {}, "init_lora_weights": "pissa_niter_4"}, "changes the base"),
        ({"init_lora_weights": "olora"}, "changes the base"),
        ({"peft_type": "LOHA"}, "only 'LORA' is served"),
        ({"peft_type": "PREFIX_TUNING"}, "only 'LORA' is served"),
        ({"lora_alpha": 0}, "alpha is 0"),
        ({"lora_alpha": "8"}, "lora_alpha: Input should be a valid number"),
        ({"r": 0}, "r: Input should be greater"),
        ({"r": 8}, "has rank 4, r is 8"),
        ({"lora_dropout": 1.0}, "lora_dropout"),
    ],
)  # fmt: skip
def test_more_than_lora_is_refused_by_name(
    tmp_path: Path, config: dict[str, Any], reason: str
) -> None:
    """Serving a part of it would be another adapter."""
    assert reason in refusal(tmp_path / "a", **config)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (f"base_model.model.{Q}.lora_magnitude_vector.weight", "DoRA"),
        (f"base_model.model.{Q}.lora_B.bias", "lora_bias"),
        ("base_model.model.model.embed_tokens.lora_embedding_A", "only linear layers"),
        ("base_model.model.model.embed_tokens.weight", "added vocabulary"),
        ("base_model.model.lm_head.weight", "added vocabulary"),
        ("base_model.model.lm_head.modules_to_save.weight", "whole layers"),
        ("base_model.model.model.embed_tokens.token_adapter.weight", "trained tokens"),
        ("base_model.model.lm_head.base_layer.weight", "save_embedding_layers=False"),
        ("base_model.model.model.embed_tokens.base_layer.weight", "only linear layers"),
        (f"{Q}.lora_A.weight", "no part of a LoRA adapter"),
        (f"base_model.model.{Q}.lora_A", "no part of a LoRA adapter"),
        ("base_model.model.../../etc.lora_A.weight", "no part of a LoRA adapter"),
    ],
)
def test_tensors_that_are_no_lora_are_refused(tmp_path: Path, name: str, reason: str) -> None:
    """Whatever the configuration says."""
    tensors = theirs({Q: 4}) | {name: matrix(4, 4, 1)}
    assert reason in refusal(tmp_path / "a", tensors)


def test_another_method_is_refused_by_its_type_though_it_has_no_rank(tmp_path: Path) -> None:
    """As IA3 is written: neither r nor lora_alpha."""
    put(tmp_path / "a", theirs({Q: 4}))
    (tmp_path / "a" / CONFIG).write_text('{"peft_type": "IA3", "target_modules": ["q_proj"]}')
    with pytest.raises(AdapterFileError, match="only 'LORA' is served"):
        read_peft(tmp_path / "a")


def test_a_pickle_is_named_and_never_opened(tmp_path: Path) -> None:
    """It can run code."""
    put(tmp_path / "a", theirs({Q: 4}))
    (tmp_path / "a" / WEIGHTS).rename(tmp_path / "a" / peft.PICKLE)
    with pytest.raises(AdapterFileError, match="safe_serialization=True"):
        read_peft(tmp_path / "a")


def test_ranks_that_differ_without_a_pattern_are_refused(tmp_path: Path) -> None:
    """Weights and configuration of two runs."""
    said = refusal(tmp_path / "a", theirs({Q: 4, V: 2}))
    assert "both files of one training run" in said


def test_a_half_of_a_pair_is_refused(tmp_path: Path) -> None:
    """An adapter that would add nothing."""
    tensors = theirs({Q: 4})
    del tensors[f"base_model.model.{Q}.lora_B.weight"]
    assert "has no lora_b" in refusal(tmp_path / "a", tensors)
    assert "holds no tensor" in refusal(tmp_path / "b", {})


def test_what_is_written_is_what_peft_reads(tmp_path: Path) -> None:
    """Names, transposes, alpha, and the modules by their whole paths, so that no other matches."""
    tensors = theirs({Q: 4, UP: 4})
    files = read_peft(put(tmp_path / "a", tensors, lora_alpha=12))
    write_peft(tmp_path / "b", files, base_model="some/model")
    written = read_tensors(tmp_path / "b" / WEIGHTS, most=1 << 20)
    assert {name: each.data for name, each in written.items()} == {
        name: each.data for name, each in tensors.items()
    }
    config = json.loads((tmp_path / "b" / CONFIG).read_text())
    assert config["base_model_name_or_path"] == "some/model"
    assert (config["r"], config["lora_alpha"]) == (4, 12)
    assert config["target_modules"] == sorted([Q, UP])
    with pytest.raises(FileExistsError):
        write_peft(tmp_path / "b", files)
    assert len(list(tmp_path.iterdir())) == 2
