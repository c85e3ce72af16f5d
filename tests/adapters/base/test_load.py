"""Loading a base: which form, which memory, and what is refused."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import cache
from mlx_lm.utils import load_model

from adapters.base import load
from adapters.base.device import device_kind
from adapters.base.linear import dense_bytes
from adapters.errors import BaseError

cpu = pytest.mark.skipif(device_kind() != "cpu", reason="the float32 form is the CPU's")
kinds: Any = cache
TOKENS = [[1, 5, 9, 3, 7], [2, 4, 6, 8, 10]]


def reference(path: Path) -> Any:
    """The model as mlx-lm loads it, in float32."""
    model, _ = load_model(path)
    model.set_dtype(mx.float32)
    return model


@cpu
@pytest.mark.parametrize(("form", "copies"), [("dequantize", 0), ("dense", 1), ("blocks", 2)])
def test_every_form_is_the_model_that_mlx_lm_loads(
    form: str, copies: int, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log-probabilities within 1e-3 of mlx-lm's own quantized products, in float32."""
    monkeypatch.setattr(load, "blocks_pay", lambda: True)
    budget = copies * dense_bytes(reference(tiny_model))
    base = load.load_base(tiny_model, cpu_float32_bytes=budget)
    assert base.compute.form == form
    tokens = mx.array(TOKENS)
    found, expected = base.model(tokens), reference(tiny_model)(tokens)
    assert found.dtype == mx.float32
    np.testing.assert_allclose(np.array(found), np.array(expected), atol=1e-3)


@cpu
def test_matrices_are_kept_exactly_where_they_fit(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget is a number of bytes that all matrices together fit twice, once or not."""
    monkeypatch.setattr(load, "blocks_pay", lambda: True)
    needed = dense_bytes(reference(tiny_model))
    fits = load.load_base(tiny_model, cpu_float32_bytes=needed).compute
    assert (fits.form, fits.dense_bytes, fits.dense_budget_bytes) == ("dense", needed, needed)
    twice = load.load_base(tiny_model, cpu_float32_bytes=2 * needed).compute
    assert (twice.form, twice.dense_bytes) == ("blocks", 2 * needed)
    misses = load.load_base(tiny_model, cpu_float32_bytes=needed - 1).compute
    assert (misses.form, misses.dense_bytes) == ("dequantize", 0)
    assert (fits.device, fits.dtype) == ("cpu", "float32")


@cpu
def test_blocks_are_kept_only_where_they_pay(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine where few rows gain nothing, a second copy would be memory for nothing."""
    monkeypatch.setattr(load, "blocks_pay", lambda: False)
    needed = dense_bytes(reference(tiny_model))
    found = load.load_base(tiny_model, cpu_float32_bytes=2 * needed).compute
    assert (found.form, found.dense_bytes) == ("dense", needed)


def test_the_base_is_the_file_s_arrays_and_nothing_trainable(tiny_model: Path) -> None:
    """Names and packed weights are the files'; an optimizer would find nothing to change."""
    base = load.load_base(tiny_model)
    model: Any = base.model
    found: Any = dict(tree_flatten(model.parameters()))
    expected: Any = dict(tree_flatten(reference(tiny_model).parameters()))
    assert found.keys() == expected.keys()
    packed = [name for name, array in expected.items() if array.dtype == mx.uint32]
    assert packed
    assert all(mx.array_equal(found[name], expected[name]) for name in packed)
    assert tree_flatten(model.trainable_parameters()) == []
    assert not model.training
    assert base.compute.parameter_bytes == sum(array.nbytes for array in found.values())


def test_the_configuration_cannot_be_changed(tiny_model: Path) -> None:
    """A base is loaded once and never changed."""
    base = load.load_base(tiny_model)
    assert base.config["model_type"] == "llama"
    assert base.path == tiny_model
    with pytest.raises(TypeError):
        base.config["model_type"] = "other"  # type: ignore[index]


def edited(tiny_model: Path, target: Path, **changes: Any) -> Path:
    """A copy of the tiny model with another configuration."""
    shutil.copytree(tiny_model, target)
    config = json.loads((target / "config.json").read_text()) | changes
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "no_such_architecture"}, "not supported"),
        ({"model_file": "evil.py"}, "custom module"),
        ({"num_hidden_layers": 1}, "ValueError"),
        ({"quantization": {"group_size": 64}}, "KeyError"),
    ],
)
def test_a_model_that_mlx_lm_cannot_load_is_refused_with_its_reason(
    changes: dict[str, Any], reason: str, tiny_model: Path, tmp_path: Path
) -> None:
    """Another architecture, a model's own code, weights that do not fit: one kind of error."""
    model = edited(tiny_model, tmp_path / "model", **changes)
    ran = tmp_path / "ran"
    (model / "evil.py").write_text(f"open({str(ran)!r}, 'w')")
    with pytest.raises(BaseError, match=reason):
        load.load_base(model)
    assert not ran.exists()


def test_a_directory_without_a_configuration_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    """Weights alone are no model."""
    model = edited(tiny_model, tmp_path / "model")
    (model / "config.json").unlink()
    with pytest.raises(BaseError, match=r"could not be loaded.*config\.json"):
        load.load_base(model)


@cpu
def test_a_model_that_does_not_fit_in_memory_is_refused_before_it_is_read(
    tiny_model: Path,
) -> None:
    """float32 doubles a 16-bit model: the message gives both numbers."""
    model = reference(tiny_model)
    with pytest.raises(BaseError, match=r"takes 0\.0 GB on a CPU and 0\.0 GB are free"):
        load._refuse_too_large(model, tiny_model, free=1000)
    load._refuse_too_large(model, tiny_model, free=1 << 40)


@pytest.mark.parametrize(
    ("caches", "named"),
    [
        ([kinds.QuantizedKVCache()], "QuantizedKVCache"),
        ([kinds.KVCache(), kinds.ChunkedKVCache(16)], "ChunkedKVCache"),
        ([kinds.CacheList(kinds.KVCache(), kinds.QuantizedKVCache())], "CacheList"),
    ],
)
def test_a_cache_that_cannot_batch_is_refused_by_name(
    caches: list[Any], named: str, tiny_model: Path
) -> None:
    """A list of caches batches only where each of its members does."""
    model = reference(tiny_model)
    model.make_cache = lambda: caches
    with pytest.raises(BaseError, match=rf"\({named}\) cannot hold several requests"):
        load._refuse_unbatchable(model, tiny_model)


def test_caches_that_batch_are_accepted(tiny_model: Path) -> None:
    """Attention caches, recurrent state, and lists of both."""
    model = reference(tiny_model)
    model.make_cache = lambda: [
        kinds.KVCache(),
        kinds.CacheList(kinds.ArraysCache(2), kinds.KVCache()),
    ]
    load._refuse_unbatchable(model, tiny_model)


def test_a_local_directory_is_taken_as_it_is(tiny_model: Path, tmp_path: Path) -> None:
    """A directory wins over a hub id that it looks like; nothing is copied."""
    assert load.resolve_model(str(tiny_model), tmp_path) == tiny_model.resolve()
    assert list(tmp_path.iterdir()) == []


def test_no_name_is_the_embedded_model(embedded_model: Path) -> None:
    """With nothing named, the server still has a model."""
    assert load.resolve_model(None, embedded_model.parents[1]) == embedded_model


@pytest.mark.parametrize("name", ["no/such/dir", "/no/such", "justaname", "", "a b/c", "../x/y"])
def test_a_name_that_is_neither_directory_nor_hub_id_is_refused(name: str, tmp_path: Path) -> None:
    """Nothing is asked of a network for a mistyped path."""
    with pytest.raises(BaseError, match="it is no hub id"):
        load.resolve_model(name, tmp_path / "data")


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    """A model is a directory."""
    file = tmp_path / "model.safetensors"
    file.write_text("")
    with pytest.raises(BaseError, match="is a file: give the model's directory"):
        load.resolve_model(str(file), tmp_path)


def test_a_hub_id_that_cannot_be_fetched_is_an_error_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline and not in the cache: the message says so and what to do instead."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BaseError, match=r"could not be fetched.*give a local directory"):
        load.resolve_model("chainlora-tests/no-such-model", tmp_path)


@pytest.fixture
def mute_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = "http://{}:{}".format(*listener.getsockname())
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr(load, "HUB_WAIT_S", 0.1)
        yield


def keep_in_cache(cache: Path) -> Path:
    """What a download of ``chainlora-tests/kept`` left in the hub's cache."""
    kept = cache / "models--chainlora-tests--kept"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("0" * 40)
    snapshot = kept / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    return snapshot


class Unknown(BaseHTTPRequestHandler):
    """A hub that knows no repository."""

    def do_GET(self) -> None:
        """Refuse as the hub does."""
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's own name
        """Say nothing."""


def test_a_model_that_the_hub_does_not_know_is_not_taken_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub has answered: what was deleted there, or is not for us, is an error."""
    keep_in_cache(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Unknown) as hub:
        monkeypatch.setattr(
            "huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{hub.server_port}"
        )
        serving = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            with pytest.raises(BaseError, match=r"could not be fetched.*NotFound"):
                load.resolve_model("chainlora-tests/kept", tmp_path)
        finally:
            hub.shutdown()
            serving.join()


@pytest.mark.usefixtures("mute_hub")
def test_a_hub_that_does_not_answer_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own client would; what an earlier download left in the cache is used."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BaseError, match=r"could not be fetched.*Timeout"):
        load.resolve_model("chainlora-tests/kept", tmp_path)
    snapshot = keep_in_cache(tmp_path)
    assert load.resolve_model("chainlora-tests/kept", tmp_path) == snapshot


def test_a_long_list_in_an_error_is_cut() -> None:
    """A model that lacks a file lacks hundreds of parameters; the advice follows them."""
    said = load.brief(ValueError("Missing 300 parameters:\n" + ", ".join(["layer"] * 300)))
    assert said.startswith("ValueError: Missing 300 parameters: layer, layer")
    assert said.endswith("...")
    assert len(said) < 410
