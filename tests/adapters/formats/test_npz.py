"""mlx-examples' npz files are read as what they compute, and written as mlx-examples reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlx.nn.layers.linear import Linear
from mlx.nn.layers.positional_encoding import RoPE

from adapters.errors import AdapterFileError
from adapters.formats.arrays import values_of
from adapters.formats.mlx_lm import AdapterFiles, read_adapter, write_adapter
from adapters.formats.npz import read_npz, write_npz
from adapters.formats.oldest import Heads
from adapters.shape import LoraShape
from tests.adapters.formats.samples import as_plain, foreign_adapters, matrix, update_of

UP = "model.layers.1.mlp.up_proj"
Q = "model.layers.0.self_attn.q_proj"


class ExampleLayer:
    """mlx-examples' LoRALinear, said again: a linear layer and what it adds to it."""

    def __init__(self, linear: Linear, arrays: dict[str, mx.array], scale: float) -> None:
        self.linear, self.scale = linear, scale
        self.lora_a, self.lora_b = arrays["lora_a"], arrays["lora_b"]

    def __call__(self, x: mx.array) -> mx.array:
        """y + scale * z."""
        return self.linear(x) + self.scale * ((x @ self.lora_a) @ self.lora_b)


def save(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write an npz as numpy does."""
    np.savez(path, **arrays)


def adapter(*modules: str, rank: int = 2, scale: float = 10.0, size: int = 8) -> AdapterFiles:
    """A small adapter on square layers."""
    tensors = {
        module: (matrix(size, rank, index), matrix(rank, size, 100 + index))
        for index, module in enumerate(sorted(modules))
    }
    keys = tuple(sorted({module.split(".", 3)[3] for module in modules}))
    return AdapterFiles(LoraShape(rank, scale, -1, keys), tensors)


@given(files=foreign_adapters())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_from_mlx_lm_to_npz_and_back_nothing_changes(
    tmp_path_factory: pytest.TempPathFactory, files: AdapterFiles
) -> None:
    """Every byte, given the scale that npz does not hold."""
    folder = tmp_path_factory.mktemp("trip")
    write_adapter(folder / "one", files)
    assert write_npz(folder / "a.npz", read_adapter(folder / "one")) == 0
    write_adapter(folder / "two", read_npz(folder / "a.npz", scale=files.scale))
    assert as_plain(read_adapter(folder / "two")) == as_plain(files)


@given(files=foreign_adapters(types=("BF16",)))
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bfloat16_keeps_its_values(
    tmp_path_factory: pytest.TempPathFactory, files: AdapterFiles
) -> None:
    """As float32: numpy has no bfloat16."""
    path = tmp_path_factory.mktemp("trip") / "a.npz"
    write_npz(path, files)
    back = read_npz(path, scale=files.scale)
    for module, pair in files.tensors.items():
        for was, now in zip(pair, back.tensors[module], strict=True):
            assert now.dtype in ("F32", "BF16")
            assert (values_of(was) == values_of(now)).all()


def test_the_bfloat16_that_mlx_itself_writes_is_read(tmp_path: Path) -> None:
    """Two bytes without a type."""
    a, b = mx.random.normal((8, 2)).astype(mx.bfloat16), mx.ones((2, 8), mx.bfloat16)
    mx.savez(str(tmp_path / "a.npz"), **{f"{UP}.lora_a": a, f"{UP}.lora_b": b})
    found = read_npz(tmp_path / "a.npz", scale=2.0).tensors[UP]
    assert (values_of(found[0]) == np.array(a.astype(mx.float32))).all()
    assert found[1].dtype == "BF16"


@pytest.mark.parametrize("fold", [None, 20.0])
def test_a_written_file_does_the_same_in_mlx_examples_layer(
    tmp_path: Path, fold: float | None
) -> None:
    """Loaded as lora.py loads it, with the scale that the file was written for."""
    files = adapter(Q, UP)
    write_npz(tmp_path / "a.npz", files, scale=fold)
    loaded = mx.load(str(tmp_path / "a.npz"))
    assert isinstance(loaded, dict)
    x = mx.random.normal((3, 8), key=mx.random.key(1))
    for module in (Q, UP):
        linear = Linear(8, 8, bias=False)
        arrays = {part: loaded[f"{module}.{part}"] for part in ("lora_a", "lora_b")}
        theirs = ExampleLayer(linear, arrays, files.scale if fold is None else fold)(x)
        ours = np.array(linear(x)) + update_of(files, module, np.array(x))
        np.testing.assert_allclose(np.array(theirs), ours, rtol=1e-4, atol=1e-4)


def test_a_file_of_mlx_examples_is_read(tmp_path: Path) -> None:
    """Rank, keys and blocks from the names; the scale from whoever knows it."""
    arrays = {
        f"model.layers.{block}.self_attn.{key}.{part}": mx.random.normal(shape)
        for block in (2, 3)
        for key in ("q_proj", "v_proj")
        for part, shape in (("lora_a", (16, 8)), ("lora_b", (8, 16)))
    }
    mx.savez(str(tmp_path / "adapters.npz"), **arrays)
    files = read_npz(tmp_path / "adapters.npz", scale=2.0)
    assert files.shape == LoraShape(8, 2.0, -1, ("self_attn.q_proj", "self_attn.v_proj"))
    assert len(files.tensors) == 4
    name = "model.layers.3.self_attn.v_proj"
    assert (values_of(files.tensors[name][1]) == np.array(arrays[f"{name}.lora_b"])).all()


def test_a_compressed_file_in_another_order_of_bytes_and_axes_is_read(tmp_path: Path) -> None:
    """Whatever numpy writes of float32."""
    a = np.asfortranarray(np.arange(16, dtype=">f4").reshape(8, 2))
    b = np.ones((2, 8), "<f4")
    arrays: dict[str, Any] = {f"{UP}.lora_a": a, f"{UP}.lora_b": b}
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    found = read_npz(tmp_path / "a.npz", scale=2.0).tensors[UP]
    assert (values_of(found[0]) == a).all()


@pytest.mark.parametrize(
    ("scale", "exact"), [(5.0, True), (20.0, True), (10.0, True), (3.0, False), (2.0, False)]
)
def test_folding_is_exact_for_powers_of_two_and_else_says_its_error(
    tmp_path: Path, scale: float, exact: bool
) -> None:
    """Never more than half a unit of float32's last place."""
    files = adapter(UP)
    error = write_npz(tmp_path / "a.npz", files, scale=scale)
    assert (error == 0) == exact
    assert error <= 2**-24
    back = read_npz(tmp_path / "a.npz", scale=scale)
    x = np.random.default_rng(3).standard_normal((4, 8))
    np.testing.assert_allclose(update_of(back, UP, x), update_of(files, UP, x), rtol=1e-5)


def test_a_fold_that_float32_cannot_hold_is_refused(tmp_path: Path) -> None:
    """Nothing infinite is written, and no half file stays."""
    with pytest.raises(AdapterFileError, match="exceeds float32"):
        write_npz(tmp_path / "a.npz", adapter(UP), scale=1e-40)
    with pytest.raises(AdapterFileError, match="must not be 0"):
        write_npz(tmp_path / "a.npz", adapter(UP), scale=0.0)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_never_written_over(tmp_path: Path) -> None:
    """Nor is the same adapter ever another file."""
    files = adapter(UP)
    write_npz(tmp_path / "a.npz", files)
    first = (tmp_path / "a.npz").read_bytes()
    with pytest.raises(FileExistsError):
        write_npz(tmp_path / "a.npz", files)
    write_npz(tmp_path / "b.npz", files)
    assert (tmp_path / "b.npz").read_bytes() == first
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf")])
def test_a_scale_that_does_nothing_is_refused(tmp_path: Path, scale: float) -> None:
    """And the message knows both of mlx-examples' scales."""
    write_npz(tmp_path / "a.npz", adapter(UP))
    with pytest.raises(AdapterFileError, match="20, or 2 for a file from before 2024-01-09"):
        read_npz(tmp_path / "a.npz", scale=scale)


@given(
    heads=st.sampled_from([(4, 4), (4, 2), (6, 3), (1, 1)]),
    half=st.integers(1, 4),
    seed=st.integers(0, 2**32),
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_oldest_files_attend_as_they_did(
    tmp_path_factory: pytest.TempPathFactory, heads: tuple[int, int], half: int, seed: int
) -> None:
    """Scores after Meta's interleaved rotary embedding equal those after Hugging Face's halves."""
    query, key_value = heads
    size, rank = 2 * half, 3
    draw = np.random.default_rng(seed)
    old = {
        f"layers.0.attention.{name}.lora_{part}": draw.standard_normal(shape).astype(np.float32)
        for name, count in (("wq", query), ("wk", key_value))
        for part, shape in (("a", (5, rank)), ("b", (rank, count * size)))
    }
    path = tmp_path_factory.mktemp("oldest") / "a.npz"
    save(path, old)
    files = read_npz(path, scale=1.0, heads=Heads(query, key_value))
    x = draw.standard_normal((7, 5)).astype(np.float32)

    def scores(queries: np.ndarray, keys: np.ndarray, *, traditional: bool) -> np.ndarray:
        rope = RoPE(size, traditional=traditional)

        def turned(values: np.ndarray, count: int) -> np.ndarray:
            split = mx.array(values.reshape(1, 7, count, size)).transpose(0, 2, 1, 3)
            made: np.ndarray = np.repeat(np.array(rope(split))[0], query // count, axis=0)
            return made

        made: np.ndarray = turned(queries, query) @ turned(keys, key_value).swapaxes(1, 2)
        return made

    def old_update(name: str) -> np.ndarray:
        layer = f"layers.0.attention.{name}.lora_"
        made: np.ndarray = x @ old[f"{layer}a"] @ old[f"{layer}b"]
        return made

    def new_update(name: str) -> np.ndarray:
        return update_of(files, f"model.layers.0.self_attn.{name}_proj", x).astype(np.float32)

    theirs = scores(old_update("wq"), old_update("wk"), traditional=True)
    ours = scores(new_update("q"), new_update("k"), traditional=False)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_oldest_names_become_today_s(tmp_path: Path) -> None:
    """wv, wo and the feed-forward keep their order; a base with interleaved rotations keeps all."""
    names = [f"attention.w{letter}" for letter in "qkvo"] + [f"feed_forward.w{n}" for n in "123"]
    arrays = {
        f"layers.1.{name}.lora_{part}": np.random.default_rng(index).standard_normal(shape)
        for index, name in enumerate(names)
        for part, shape in (("a", (8, 2)), ("b", (2, 8)))
    }
    save(tmp_path / "a.npz", {key: each.astype("<f4") for key, each in arrays.items()})
    kept = read_npz(tmp_path / "a.npz", scale=2.0, heads=Heads(2, 2, interleaved=True))
    turned = read_npz(tmp_path / "a.npz", scale=2.0, heads=Heads(2, 2))
    today = [f"self_attn.{letter}_proj" for letter in "qkvo"]
    today += ["mlp.gate_proj", "mlp.down_proj", "mlp.up_proj"]
    assert set(kept.tensors) == {f"model.layers.1.{name}" for name in today}
    for old, new in zip(names, today, strict=True):
        b = arrays[f"layers.1.{old}.lora_b"].astype("<f4")
        assert (values_of(kept.tensors[f"model.layers.1.{new}"][1]) == b).all()
        same = (values_of(turned.tensors[f"model.layers.1.{new}"][1]) == b).all()
        assert same == (new not in ("self_attn.q_proj", "self_attn.k_proj"))


def test_the_oldest_names_need_the_base_and_no_others_beside_them(tmp_path: Path) -> None:
    """A wrong order of outputs would be served without an error."""
    ones = {"lora_a": np.ones((6, 2), "<f4"), "lora_b": np.ones((2, 6), "<f4")}
    old = {f"layers.0.attention.wq.{part}": each for part, each in ones.items()}
    save(tmp_path / "old.npz", old)
    with pytest.raises(AdapterFileError, match="how many heads the base has"):
        read_npz(tmp_path / "old.npz", scale=2.0)
    with pytest.raises(AdapterFileError, match="which 2 heads of an even size cannot"):
        read_npz(tmp_path / "old.npz", scale=2.0, heads=Heads(2, 1))
    mixed = {**old, **{f"{UP}.{part}": each for part, each in ones.items()}}
    save(tmp_path / "mixed.npz", mixed)
    with pytest.raises(AdapterFileError, match="names of two ages"):
        read_npz(tmp_path / "mixed.npz", scale=2.0, heads=Heads(1, 1))
    save(
        tmp_path / "odd.npz",
        {f"layers.0.attention.w1.{part}": each for part, each in ones.items()},
    )
    with pytest.raises(AdapterFileError, match="no module of the oldest form"):
        read_npz(tmp_path / "odd.npz", scale=2.0, heads=Heads(1, 1))


def test_the_heads_are_in_the_model_s_configuration() -> None:
    """Without grouped heads both counts are one; a text model may lie inside; no guesses."""
    assert Heads.of({"num_attention_heads": 4}) == Heads(4, 4)
    inside = {"text_config": {"num_attention_heads": 4, "num_key_value_heads": 2}}
    assert Heads.of(inside) == Heads(4, 2)
    assert Heads.of({"num_attention_heads": 4, "rope_traditional": True}) == Heads(4, 4, True)
    assert Heads.of({}) is None
    assert Heads.of({"num_attention_heads": "4"}) is None


def test_modules_of_two_ranks_are_refused(tmp_path: Path) -> None:
    """lora.py writes one."""
    save(
        tmp_path / "a.npz",
        {
            f"{Q}.lora_a": np.ones((4, 2), "<f4"),
            f"{Q}.lora_b": np.ones((2, 4), "<f4"),
            f"{UP}.lora_a": np.ones((4, 3), "<f4"),
            f"{UP}.lora_b": np.ones((3, 4), "<f4"),
        },
    )
    with pytest.raises(AdapterFileError, match=r"ranks \[2, 3\]"):
        read_npz(tmp_path / "a.npz", scale=2.0)
