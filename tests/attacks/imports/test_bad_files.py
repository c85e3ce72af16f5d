"""Each kind of bad adapter over HTTP: refused with its reason, and the server is what it was."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.acceptance.extending.product import error_of, serving
from tests.attacks.files.test_npz_archives import npy
from tests.attacks.files.test_other_formats_renamed import Evil
from tests.attacks.imports.conftest import Target

V = "model.layers.3.self_attn.v_proj"
CONFIG: dict[str, Any] = {
    "fine_tune_type": "lora",
    "num_layers": 1,
    "lora_parameters": {"rank": 2, "scale": 2.0, "dropout": 0.0},
}
PEFT: dict[str, Any] = {
    "peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "target_modules": ["v_proj"],
}  # fmt: skip
MLX_LM = {f"{V}.lora_a": np.ones((128, 2), "<f4"), f"{V}.lora_b": np.ones((2, 64), "<f4")}
THEIRS = {
    f"base_model.model.{V}.lora_A.weight": np.ones((2, 128), "<f4"),
    f"base_model.model.{V}.lora_B.weight": np.ones((64, 2), "<f4"),
}
Arrays = dict[str, np.ndarray]


def safetensors(arrays: Arrays, *, metadata: Any = None) -> bytes:
    """A file of the format, written by hand so that it can be wrong."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    data = b""
    kinds = {"<f4": "F32", "<f2": "F16", "<f8": "F64", "<i4": "I32"}
    for name, array in arrays.items():
        end = len(data) + array.nbytes
        header[name] = {
            "dtype": kinds[array.dtype.str],
            "shape": list(array.shape),
            "data_offsets": [len(data), end],
        }
        data += array.tobytes()
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def npz(arrays: Arrays, kind: int = zipfile.ZIP_STORED) -> bytes:
    """An archive as numpy writes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", npy(array, pickled=array.dtype.hasobject))
    return buffer.getvalue()


def renamed(arrays: Arrays, old: str, new: str) -> Arrays:
    """The same arrays of other modules."""
    return {name.replace(old, new): array for name, array in arrays.items()}


def filled(arrays: Arrays, value: float) -> Arrays:
    """With one value of the last array changed."""
    changed = {name: array.copy() for name, array in arrays.items()}
    changed[max(changed)][-1, -1] = value
    return changed


SAFETENSORS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a sound safetensors file"),
    "truncated": (safetensors(MLX_LM)[:-1], "not a sound safetensors file"),
    "endless header": (b"\xff" * 8, "claims a header"),
    "overlap": (
        safetensors(MLX_LM).replace(b"[1024, 1536]", b"[1000, 1512]"),
        "not a sound safetensors file",
    ),
    "pickle": (pickle.dumps(Evil()), "a Python pickle"),
    "npz": (npz(MLX_LM), "a zip archive"),
    "torch": (b"PK\x03\x04archive/data.pkl", "a zip archive"),
    "no tensors": (safetensors({}), "holds no tensor"),
    "float64": (safetensors({f"{V}.lora_a": np.ones((1, 1), "<f8")}), "is F64"),
    "nan": (safetensors(filled(MLX_LM, np.nan)), "not finite"),
    "infinity": (safetensors(filled(MLX_LM, np.inf)), "not finite"),
    "too large": (safetensors(filled(MLX_LM, 1e38)), "16 bits hold"),
    "experts": (safetensors({f"{V}.lora_a": np.ones((2, 2, 2), "<f4")}), "experts of a mixture"),
    "dora": (safetensors(MLX_LM | {f"{V}.m": np.ones((1, 64), "<f4")}), "DoRA"),
    "whole layer": (safetensors({f"{V}.weight": np.ones((2, 2), "<f4")}), "no part of a LoRA"),
    "half": (safetensors({f"{V}.lora_a": np.ones((128, 2), "<f4")}), "has no lora_b"),
    "attribute": (safetensors(renamed(MLX_LM, V, "__class__.x-y")), "no part of a LoRA"),
    "other rank": (
        safetensors({name: np.tile(each, 2)[: each.shape[0]] for name, each in MLX_LM.items()}),
        "ranks differ",
    ),
    "other modules": (safetensors(renamed(MLX_LM, "model.", "gpt.")), "no module matches"),
    "not every module": (
        safetensors(MLX_LM | renamed(MLX_LM, "v_proj", "w_proj")), "not every module matches"
    ),
    "other shape": (
        safetensors(MLX_LM | {f"{V}.lora_a": np.ones((64, 2), "<f4")}), "maps 128 to 64 features"
    ),
    "other base": (safetensors(MLX_LM, metadata={"chainlora_base": "f" * 64}), "another base"),
    "no base": (safetensors(MLX_LM, metadata={"chainlora_base": "\x1b[2J"}), "no fingerprint"),
    "other blocks": (safetensors(renamed(MLX_LM, "layers.3", "layers.0")), "num_layers says"),
}  # fmt: skip


@pytest.mark.parametrize("name", SAFETENSORS)
def test_weights_of_mlx_lm(target: Target, name: str) -> None:
    """Nothing of them is stored."""
    content, reason = SAFETENSORS[name]
    sent = target.send(("a.safetensors", content), ("c.json", json.dumps(CONFIG).encode()))
    assert sent.status_code == 400
    assert reason in sent.json()["error"]["message"]


THEIR_WEIGHTS: dict[str, tuple[bytes, str]] = {
    "pickle": (pickle.dumps(Evil()), "a Python pickle"),
    "nan": (safetensors(filled(THEIRS, np.nan)), "not finite"),
    "dora": (
        safetensors(THEIRS | {
            f"base_model.model.{V}.lora_magnitude_vector": np.ones((64, 1), "<f4")
        }),
        "DoRA",
    ),
    "added vocabulary": (
        safetensors(THEIRS | {
            "base_model.model.model.embed_tokens.weight": np.ones((700, 128), "<f4")
        }),
        "added vocabulary",
    ),
    "saved module": (
        safetensors(THEIRS | {
            "base_model.model.lm_head.modules_to_save.weight": np.ones((640, 128), "<f4")
        }),
        "whole layers",
    ),
    "transposed": (safetensors({name: each.T for name, each in THEIRS.items()}), "ranks differ"),
    "wide head": (
        safetensors({
            "base_model.model.lm_head.lora_A.weight": np.ones((2, 128), "<f4"),
            "base_model.model.lm_head.lora_B.weight": np.ones((643, 2), "<f4"),
        }),
        "maps 128 to 640 features",
    ),
    "other modules": (safetensors(renamed(THEIRS, "v_proj", "c_attn")), "no module matches"),
    "other base": (safetensors(THEIRS, metadata={"chainlora_base": "f" * 64}), "another base"),
}  # fmt: skip


@pytest.mark.parametrize("name", THEIR_WEIGHTS)
def test_weights_of_peft(target: Target, name: str) -> None:
    """A head for a larger vocabulary has the wrong shape."""
    content, reason = THEIR_WEIGHTS[name]
    sent = target.send(("a.safetensors", content), ("c.json", json.dumps(PEFT).encode()))
    assert sent.status_code == 400
    assert reason in sent.json()["error"]["message"]


def configured(base: dict[str, Any], **changes: Any) -> bytes:
    """A configuration with other fields; those of lora_parameters by their names there."""
    inner = base.get("lora_parameters", {})
    own = {name: value for name, value in changes.items() if name in inner}
    rest = {name: value for name, value in changes.items() if name not in inner}
    return json.dumps(base | rest | ({"lora_parameters": inner | own} if own else {})).encode()


CONFIGURATIONS: dict[str, tuple[bytes, Arrays, str]] = {
    "empty": (b"", MLX_LM, "the file"),
    "no object": (b"[1]", MLX_LM, "the file"),
    "deep": (b"[" * 200_000, MLX_LM, "the file"),
    "deep, of peft": (b'{"peft_type":' * 50_000, THEIRS, "the file"),
    "no text": (b'{"fine_tune_type": "\xff"}', MLX_LM, "the file"),
    "nan": (configured(CONFIG, scale=float("nan")), MLX_LM, "lora_parameters.scale"),
    "endless": (b'{"lora_parameters": {"scale": 1e999}}', MLX_LM, "num_layers"),
    "huge": (configured(CONFIG, rank=10**400), MLX_LM, "lora_parameters.rank"),
    "many digits": (b'{"num_layers": ' + b"9" * 5000 + b"}", MLX_LM, "the file"),
    "dora": (configured(CONFIG, fine_tune_type="dora"), MLX_LM, "only 'lora' is served"),
    "no scale": (configured(CONFIG, scale=0), MLX_LM, "does nothing"),
    "rank": (configured(CONFIG, rank=3), MLX_LM, "has rank 2, the shape says 3"),
    "dora of peft": (configured(PEFT, use_dora=True), THEIRS, "DoRA"),
    "saved": (configured(PEFT, modules_to_save=["lm_head"]), THEIRS, "modules_to_save"),
    "kind": (configured(PEFT, peft_type="ADALORA"), THEIRS, "only 'LORA' is served"),
    "kind of no text": (configured(PEFT, peft_type=[1]), THEIRS, "peft_type"),
    "regex": (configured(PEFT, alpha_pattern={"(a+)+$": 1}), THEIRS, "regular expression"),
    "alpha": (configured(PEFT, lora_alpha=1e8), THEIRS, "its scale is 5e+07"),
    "infinite alpha": (configured(PEFT, lora_alpha=float("inf")), THEIRS, "lora_alpha"),
    "rank of peft": (configured(PEFT, r=8), THEIRS, "has rank 2, r is 8"),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_configurations(target: Target, name: str) -> None:
    """Beside sound weights."""
    config, arrays, reason = CONFIGURATIONS[name]
    sent = target.send(("a.safetensors", safetensors(arrays)), ("c.json", config))
    assert reason in error_of(sent, 400, "adapter_file_error")


def objects() -> bytes:
    """An array that runs code when it is unpickled."""
    return npz({f"{V}.lora_a": np.array([[Evil()]], dtype=object)})


def bomb() -> bytes:
    """A hundred kilobytes that unpack to a hundred megabytes, and say so."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(f"{V}.lora_a.npy", "w", force_zip64=True) as member,
    ):
        for _ in range(100):
            member.write(bytes(1 << 20))
    return buffer.getvalue()


def torch_archive() -> bytes:
    """What torch.save writes, in short."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Evil()))
    return buffer.getvalue()


ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "not a sound npz"),
    "truncated": (lambda: npz(MLX_LM)[:-9], "not a sound npz"),
    "pickle": (lambda: pickle.dumps(Evil()), "not a sound npz"),
    "objects": (objects, "never unpickled"),
    "nothing": (lambda: npz({}), "holds no array"),
    "torch": (torch_archive, "hold pickles and are never opened"),
    "bomb": (bomb, "and unpacks to"),
    "bzip2": (lambda: npz(MLX_LM, zipfile.ZIP_BZIP2), "packed in a way"),
    "nan": (lambda: npz(filled(MLX_LM, np.nan)), "not finite"),
    "double": (lambda: npz({f"{V}.lora_a": np.ones((2, 2))}), "is float64"),
    "traversal": (lambda: npz({"../../../evil.lora_a": np.ones((2, 2), "<f4")}), "no part of a"),
    "absolute": (lambda: npz({"/etc/cron.lora_a": np.ones((2, 2), "<f4")}), "no part of a"),
    "other modules": (lambda: npz(renamed(MLX_LM, "model.", "gpt.")), "no module matches"),
    "safetensors": (lambda: safetensors(MLX_LM), "not a sound npz"),
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives(target: Target, name: str) -> None:
    """Names in them are no paths, and nothing is unpacked to the disk."""
    make, reason = ARCHIVES[name]
    sent = target.send(("a.npz", make()))
    assert sent.status_code == 400
    assert reason in sent.json()["error"]["message"]


@pytest.mark.parametrize("file", ["../../../evil", "/etc/passwd", "a\x00b", "x" * 4000, ""])
def test_the_name_of_a_sent_file_is_no_path(target: Target, file: str) -> None:
    """What the parts are called on the client's disk means nothing here."""
    sent = target.send((file, safetensors(filled(MLX_LM, np.nan))), (file, configured(CONFIG)))
    assert sent.status_code == 400
    assert "evil" not in sent.text


@pytest.mark.parametrize("chain", ["..%2f..%2fevil", "%2e%2e", ".hidden", "a%00b", "a%0ab", "ä"])
def test_a_chain_s_name_is_no_path(target: Target, chain: str) -> None:
    """Letters and digits first; a slash finds no route."""
    sent = target.send(("a", safetensors(MLX_LM)), ("c.json", configured(CONFIG)), chain=chain)
    assert sent.status_code in (400, 404)


def test_an_upload_beyond_the_limit_leaves_nothing(target: Target) -> None:
    """Also not the part of it that had come."""
    error_of(target.send(("a.npz", bytes(9 << 20))), 413, "request_too_large")


def test_sound_ones_are_taken(tiny_model: Path, tmp_path: Path) -> None:
    """Each refusal beside this is for its own reason."""
    with serving(tiny_model, tmp_path / "data") as product:
        fresh = Target(product, ("", ""), {})
        for name, arrays, config in (("mlx", MLX_LM, CONFIG), ("peft", THEIRS, PEFT)):
            part = ("c.json", json.dumps(config).encode())
            stage = product.ok(fresh.send(("a", safetensors(arrays)), part, chain=name))
            assert "do not say which base" in stage["record"]["warnings"][0]
        product.ok(fresh.send(("a.npz", npz(MLX_LM)), chain="npz", scale="2"))
