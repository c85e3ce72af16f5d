"""Adapters come and go by vLLM's routes while the server runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from adapters.formats.foreign import write_as
from adapters.formats.mlx_lm import read_adapter
from tests.acceptance.extending.product import Product, error_of, row, serving
from tests.acceptance.extending.test_rules import assert_served_like


@pytest.fixture(scope="module")
def allowed(tiny_adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory to load from."""
    root = tmp_path_factory.mktemp("allowed")
    for name in ("a4", "d8"):
        shutil.copytree(tiny_adapters[name], root / name)
    (root / "deep").mkdir()
    write_as("peft", read_adapter(tiny_adapters["b8"]), root / "deep" / "b8")
    write_as("npz", read_adapter(tiny_adapters["d8"]), root / "deep" / "d8.npz")
    return root


@pytest.fixture(scope="module")
def product(
    tiny_model: Path, allowed: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Product]:
    """The tiny model, which may load from ``allowed``."""
    data = tmp_path_factory.mktemp("data")
    with serving(tiny_model, data, adapter_import_dirs=(allowed,)) as running:
        yield running


def load(product: Product, name: str, path: str | Path, **fields: Any) -> Any:
    """vLLM's request."""
    body = {"lora_name": name, "lora_path": str(path), **fields}
    return product.http.post("/v1/load_lora_adapter", json=body)


def unload(product: Product, name: str) -> Any:
    """vLLM's request."""
    return product.http.post("/v1/unload_lora_adapter", json={"lora_name": name})


def models(product: Product) -> list[str]:
    """The ids of the chains' heads."""
    rows = product.ok(product.http.get("/v1/models"))["data"]
    assert all(row["parent"] == "tiny" and row["root"] for row in rows[1:])
    return [row["id"] for row in rows[1:]]


@pytest.mark.parametrize("path", ["a4", "a4/", "{allowed}/a4", "deep/b8", "deep/d8.npz"])
def test_an_adapter_is_loaded_served_and_unloaded_again(
    product: Product, allowed: Path, tiny_adapters: dict[str, Path], path: str
) -> None:
    """Of any format, by its path below the directory or its whole one."""
    answer = load(product, "x", path.format(allowed=allowed))
    assert answer.status_code == 200, answer.text
    assert answer.text == "Success: LoRA adapter 'x' added successfully."
    assert answer.headers["content-type"].startswith("text/plain")
    assert models(product) == ["tiny:x"]
    if not path.endswith("npz"):  # which has no scale of its own
        assert_served_like(product, "tiny:x", tiny_adapters[path.strip("/").rpartition("/")[2]])
    stage = product.ok(product.http.get("/admin/chains/x"))["stages"][-1]
    assert stage["origin"] == "imported"
    gone = unload(product, "x")
    assert (gone.status_code, gone.text) == (
        200,
        "Success: LoRA adapter 'x' removed successfully.",
    )
    assert models(product) == []
    error_of(product.chat("tiny:x", "hi"), 404, "model_not_found")


def test_a_name_is_taken_once_unless_it_is_to_be_replaced(product: Product) -> None:
    """Loading the same again in place changes nothing, loading another one is another revision."""
    assert load(product, "tiny:y", "a4").status_code == 200
    assert "load_inplace" in error_of(load(product, "y", "a4"), 400, "adapter_already_loaded")
    before = product.ok(product.http.get("/admin/chains/y"))
    assert load(product, "y", "a4", load_inplace=True).status_code == 200
    assert product.ok(product.http.get("/admin/chains/y")) == before
    error_of(load(product, "y", "nowhere", load_inplace=True), 404, "adapter_path_not_found")
    assert product.ok(product.http.get("/admin/chains/y")) == before
    assert load(product, "y", "d8", load_inplace=True).status_code == 200
    after = product.ok(product.http.get("/admin/chains/y"))
    assert after["head_revision"] != before["head_revision"]
    assert unload(product, "tiny:y").status_code == 200
    error_of(unload(product, "y"), 404, "chain_not_found")


def test_ten_loads_of_one_name_at_once_load_once(product: Product) -> None:
    """FACTS 4, case 7: the others are told that it is there."""
    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(lambda _: load(product, "z", "a4").status_code, range(10)))
    assert sorted(found) == [200] + [400] * 9
    assert unload(product, "z").status_code == 200


def test_what_was_trained_here_is_never_unloaded_or_replaced(product: Product) -> None:
    """A client that tidies up must not delete what nobody can load again."""
    assert load(product, "kept", "a4").status_code == 200
    product.train("kept", [row("a", "b")], iters=1)
    product.train("own", [row("a", "b")], iters=1)
    for name in ("kept", "own"):
        message = error_of(unload(product, name), 409, "revision_protected")
        assert f"DELETE /admin/chains/{name}" in message
        error_of(load(product, name, "d8", load_inplace=True), 409, "revision_protected")
        assert f"tiny:{name}" in models(product)
        assert product.http.delete(f"/admin/chains/{name}").status_code == 200


def test_a_loaded_adapter_is_there_after_a_restart(
    tiny_model: Path, allowed: Path, tmp_path: Path
) -> None:
    """It is in the store, whatever becomes of the directory; without the setting none is loaded."""
    with serving(tiny_model, tmp_path, adapter_import_dirs=(allowed,)) as product:
        assert load(product, "x", "a4").status_code == 200
        answer = product.answer("tiny:x", "hi")
    with serving(tiny_model, tmp_path) as product:
        assert product.answer("tiny:x", "hi") == answer
        message = error_of(load(product, "other", "a4"), 404, "adapter_path_not_found")
        assert "--adapter-import-dirs" in message
        assert unload(product, "x").status_code == 200
