"""Anything at all in a file: it is refused with a reason, or can be stored and read again."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.errors import AdapterFileError
from adapters.formats.mlx_lm import CONFIG, AdapterFiles, read_adapter, write_adapter
from adapters.formats.npz import read_npz
from adapters.formats.peft import read_peft
from tests.adapters.formats.samples import as_plain
from tests.adapters.formats.test_peft import Q, V, put, theirs
from tests.attacks.files.conftest import Victim
from tests.attacks.files.test_npz_archives import SOUND, written

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 2, 4, 10**19, 10**400, 1e308, -1e-320, float("nan"), float("inf")])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["q_proj", "^v_proj$", "LORA", "lora", "pissa", "(a+)+$", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["q_proj", "v_proj", Q, ".*", ""]), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = [
    "fine_tune_type", "num_layers", "lora_parameters", "rank", "scale", "dropout", "keys",
]  # fmt: skip
THEIR_FIELDS = [
    "peft_type", "r", "lora_alpha", "use_rslora", "bias", "lora_dropout", "rank_pattern",
    "alpha_pattern", "init_lora_weights", "use_dora", "modules_to_save",
]  # fmt: skip


def survives(read: Callable[[], AdapterFiles], folder: Path) -> None:
    """What is read must be what a store can keep: the same, written and read again."""
    try:
        files = read()
    except AdapterFileError as error:
        assert str(folder) in str(error)  # noqa: PT017  # only where it is refused
        return
    write_adapter(folder / "stored", files)
    assert as_plain(read_adapter(folder / "stored")) == as_plain(files)


def fuzzed(examples: int) -> Callable[[Any], Any]:
    """A number of examples, in folders of their own."""
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=examples, suppress_health_check=quiet, deadline=None)


@pytest.fixture
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """A new folder for each example."""
    return lambda: tmp_path_factory.mktemp("fuzz")


@given(changes=st.dictionaries(st.sampled_from(FIELDS), anything, min_size=1, max_size=3))
@fuzzed(150)
def test_any_value_in_the_configuration(fresh: Callable[[], Path], changes: dict[str, Any]) -> None:
    """Of mlx-lm."""
    victim = Victim(fresh())
    inner = {name: each for name, each in changes.items() if name in FIELDS[3:]}
    outer = {name: each for name, each in changes.items() if name not in inner}
    config = victim.settings | {"lora_parameters": victim.settings["lora_parameters"] | inner}
    victim.config.write_text(json.dumps(config | outer))
    survives(lambda: read_adapter(victim.directory), victim.directory)


@given(changes=st.dictionaries(st.sampled_from(THEIR_FIELDS), anything, min_size=1, max_size=3))
@fuzzed(200)
@pytest.mark.filterwarnings("error")
def test_any_value_in_the_configuration_of_peft(
    fresh: Callable[[], Path], changes: dict[str, Any]
) -> None:
    """Two modules, so that patterns have something to tell apart."""
    folder = fresh()
    put(folder / "theirs", theirs({Q: 4, V: 4}), **changes)
    survives(lambda: read_peft(folder / "theirs"), folder)


numbers = st.floats(1e-300, 1e300) | st.integers(1, 10**9)


@given(alpha=numbers, first=numbers, second=numbers, rs=st.booleans(), dtype=st.sampled_from("FB"))
@fuzzed(150)
@pytest.mark.filterwarnings("error")
def test_any_alphas_of_two_modules(
    fresh: Callable[[], Path], alpha: float, first: float, second: float, rs: bool, dtype: str
) -> None:
    """Folded exactly or refused."""
    folder = fresh()
    tensors = theirs({Q: 4, V: 2}, {"F": "F16", "B": "BF16"}[dtype])
    put(
        folder / "theirs", tensors, lora_alpha=alpha, use_rslora=rs, rank_pattern={"v_proj": 2},
        alpha_pattern={"v_proj": first, "self_attn.q_proj": second},
    )  # fmt: skip
    survives(lambda: read_peft(folder / "theirs"), folder)


@given(at=st.integers(0, 1 << 16), piece=st.binary(max_size=12), drop=st.integers(0, 12))
@fuzzed(200)
def test_any_bytes_in_the_weights(
    fresh: Callable[[], Path], at: int, piece: bytes, drop: int
) -> None:
    """Put in, taken out, exchanged; the length of the header is mended, so that it is parsed."""
    victim = Victim(fresh())
    raw = victim.weights.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    head = bytearray(raw[8 : 8 + size])
    head[at % size : at % size + drop] = piece
    victim.weights.write_bytes(struct.pack("<Q", len(head)) + head + raw[8 + size :])
    survives(lambda: read_adapter(victim.directory), victim.directory)


@given(at=st.integers(0, 1 << 16), piece=st.binary(max_size=12), drop=st.integers(0, 12))
@fuzzed(200)
@pytest.mark.filterwarnings("ignore:Reading")
def test_any_bytes_in_an_archive(
    fresh: Callable[[], Path], at: int, piece: bytes, drop: int
) -> None:
    """Zip's own structures, and numpy's headers in it."""
    folder = fresh()
    path = written(folder / "a.npz", SOUND)
    raw = bytearray(path.read_bytes())
    raw[at % len(raw) : at % len(raw) + drop] = piece
    path.write_bytes(raw)
    survives(lambda: read_npz(path, scale=2.0), folder)


@given(text=st.text(max_size=200))
@fuzzed(150)
@pytest.mark.filterwarnings("ignore")
def test_any_text_as_the_header_of_an_array(fresh: Callable[[], Path], text: str) -> None:
    """numpy reads it as a literal."""
    folder = fresh()
    data = text.encode("utf-8", "surrogatepass")
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(data)) + data + bytes(32)
    path = written(folder / "a.npz", {**SOUND, next(iter(SOUND)): member})
    survives(lambda: read_npz(path, scale=2.0), folder)


def test_of_two_fields_of_one_name_the_last_counts_as_it_does_to_the_owners(
    victim: Victim, tmp_path: Path
) -> None:
    """Python's json, with which mlx-lm and PEFT read it, takes the last too."""
    text = victim.config.read_text().replace('"rank": 2', '"rank": 7, "rank": 2')
    victim.config.write_text(text)
    assert json.loads(text)["lora_parameters"]["rank"] == 2
    assert read_adapter(victim.directory).shape.rank == 2
    put(tmp_path / "theirs", theirs({Q: 4}))
    config = tmp_path / "theirs" / CONFIG
    config.write_text(config.read_text().replace('"r": 4', '"r": 9, "r": 4'))
    assert read_peft(tmp_path / "theirs").shape.rank == 4
