"""Files that are sound and finite, and still more than the product can work with."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from adapters.errors import AdapterFileError
from adapters.formats.arrays import HostArray
from adapters.formats.npz import read_npz
from adapters.formats.peft import read_peft
from tests.adapters.formats.test_peft import Q, V, put, theirs
from tests.attacks.files.conftest import SIZE, A, B, Victim


@pytest.mark.parametrize(
    ("index", "value", "scale"),
    [(0, 1e30, 2.0), (1, 1e30, 2.0), (1, 3e38, 1e4), (1, -40_000.0, -2.0), (0, 65_536.0, 1.0)],
)
def test_values_that_sixteen_bits_cannot_hold_are_refused(
    victim: Victim, index: int, value: float, scale: float
) -> None:
    """B times the scale would be infinite, and zero times infinity NaN in the rows of others."""
    values = [0.0] * 16
    values[8 * index + 3] = value
    victim.write(victim.header(), struct.pack("<16f", *values))
    victim.settings["lora_parameters"]["scale"] = scale
    victim.config.write_text(json.dumps(victim.settings))
    assert "is the most that 16 bits hold" in victim.refusal()
    values[8 * index + 3] = 30_000.0
    victim.write(victim.header(), struct.pack("<16f", *values))
    victim.config.write_text(
        json.dumps(victim.settings | {"lora_parameters": {"rank": 2, "scale": 2.0}})
    )
    victim.read()


@pytest.mark.parametrize("alpha", [1e8, 40_001, -40_001, 1e-320, 5e-39])
def test_an_alpha_that_makes_no_scale_of_ours_is_refused(tmp_path: Path, alpha: float) -> None:
    """The revision that it became could never be read again."""
    put(tmp_path / "a", theirs({Q: 4}), lora_alpha=alpha)
    with pytest.raises(AdapterFileError, match="its scale is"):
        read_peft(tmp_path / "a")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("alpha", [1e308, -1e308, 1e-310])
def test_an_alpha_beyond_any_number_is_refused_for_one_module_too(
    tmp_path: Path, alpha: float
) -> None:
    """The quotient of two scales may be infinite."""
    zeros = HostArray("F32", (10, 4), bytes(160))
    tensors = theirs({Q: 4, V: 4}) | {f"base_model.model.{V}.lora_B.weight": zeros}
    put(tmp_path / "a", tensors, alpha_pattern={"v_proj": alpha, "q_proj": 1e-300})
    with pytest.raises(AdapterFileError):
        read_peft(tmp_path / "a")


@pytest.mark.parametrize("scale", [1e5, -1e5, 1e-320])
def test_a_scale_that_a_caller_gives_is_held_to_the_same(tmp_path: Path, scale: float) -> None:
    """An npz has none of its own."""
    name = "model.layers.0.mlp.up_proj"
    arrays = {f"{name}.lora_a": np.ones((4, 2), "<f4"), f"{name}.lora_b": np.ones((2, 4), "<f4")}
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(AdapterFileError, match="its scale is"):
        read_npz(tmp_path / "a.npz", scale=scale)


def test_a_rank_beyond_any_adapter_is_refused(tmp_path: Path) -> None:
    """With a pattern of ranks, PEFT's tensors have the word, and an npz has no other."""
    put(tmp_path / "a", theirs({Q: 5000}), rank_pattern={"q_proj": 5000})
    with pytest.raises(AdapterFileError, match="its rank is 5000, at most 4096"):
        read_peft(tmp_path / "a")


def test_a_hundred_thousand_tensors_are_refused_by_their_number(victim: Victim) -> None:
    """Each costs far more than its bytes; the last two share a name, to be looked for in vain."""
    one = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    names = [*range(100_000), 99_999]
    victim.write(("{" + ",".join(f'"t{name}":{one}' for name in names) + "}").encode(), b"")
    assert "has 100000 tensors, at most 20000 are read" in victim.refusal()


def test_a_name_that_stands_twice_is_found_in_one_pass(victim: Victim) -> None:
    """Counting each of 20,000 names among all of them took seconds, and minutes for more."""
    one = f'{{"dtype":"F32","shape":[4,2],"data_offsets":[0,{SIZE}]}}'
    empty = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    many = ",".join(f'"t{index}":{empty}' for index in range(19_000))
    rest = json.dumps({B: victim.header()[B]})[1:]
    victim.write(f'{{{many},"{A}":{one},"{A}":{one},{rest}'.encode(), bytes(2 * SIZE))
    assert f"{A!r} stands twice" in victim.refusal()
