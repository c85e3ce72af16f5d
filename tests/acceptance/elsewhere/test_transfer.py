"""Adapters come from elsewhere and go there, and compute the same on both sides."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.formats import mlx_lm, peft
from adapters.formats.arrays import HostArray, values_of
from adapters.formats.foreign import Wanted, write_as
from adapters.formats.mlx_lm import AdapterFiles, read_adapter, write_adapter
from adapters.shape import LoraShape
from tests.acceptance.extending.product import Json, Product, error_of, row, serving
from tests.acceptance.extending.test_rules import assert_served_as_trained, assert_served_like
from tests.adapters.formats.samples import matrix

Q, V = "self_attn.q_proj", "self_attn.v_proj"


def sent(product: Product, chain: str, path: Path, **fields: object) -> Any:
    """Upload an adapter as the command line does, by HTTP."""
    if path.is_dir():
        weights = next(path.glob("adapter*.safetensors"))
        files = {"file": weights.read_bytes(), "config": (path / mlx_lm.CONFIG).read_bytes()}
    else:
        files = {"file": path.read_bytes()}
    data = {name: str(value) for name, value in fields.items()}
    return product.http.post(f"/admin/chains/{chain}/import", files=files, data=data)


def exported(product: Product, chain: str, folder: Path, **query: str) -> Path:
    """An export as a file, or as the directory that its zip holds."""
    response = product.http.get(f"/admin/chains/{chain}/export", params=query)
    assert response.status_code == 200, response.text
    if query["format"] == "npz":
        path = folder / f"{chain}.npz"
        path.write_bytes(response.content)
        return path
    path = folder / f"{chain}-{query['format']}"
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        archive.extractall(path)
    return path


def unchanged(product: Product, chain: str) -> None:
    """Nothing of a refused adapter is there."""
    assert product.http.get(f"/admin/chains/{chain}").status_code == 404
    assert list((product.data_dir / "incoming").iterdir()) == []
    assert not any(each.name.startswith(".") for each in (product.data_dir / "revisions").iterdir())


def chain(product: Product, name: str) -> Json:
    """What the server shows of it."""
    return product.ok(product.http.get(f"/admin/chains/{name}"))


@pytest.mark.parametrize("form", ["mlx-lm", "npz", "peft"])
def test_an_imported_adapter_is_served_as_mlx_lm_serves_it(
    product: Product, tiny_adapters: dict[str, Path], tmp_path: Path, form: Any
) -> None:
    """By the equality rule, against mlx-lm with the directory that it was made from."""
    files = read_adapter(tiny_adapters["d8"])
    path = tmp_path / ("a.npz" if form == "npz" else "a")
    write_as(form, files, path)
    told = {"scale": files.scale} if form == "npz" else {}
    stage = product.ok(sent(product, f"from-{form}", path, **told))
    assert stage["origin"] == "imported"
    assert stage["lora"]["scale"] == files.scale
    source = stage["record"]["source"]
    assert source["format"] == form
    assert len(source["sha256"]) == 64
    assert "do not say which base" in stage["record"]["warnings"][0]
    assert_served_like(product, f"tiny:from-{form}", tiny_adapters["d8"])
    assert_served_as_trained(product, f"tiny:from-{form}", stage["revision"])


def test_what_goes_out_comes_back_as_the_same_revision(
    product: Product, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    """Through each format, over HTTP both ways: one content, one id."""
    first = product.ok(sent(product, "circle", tiny_adapters["a4"]))
    first_base = chain(product, "circle")["base"]
    revisions = set()
    for form in ("mlx-lm", "peft"):
        path = exported(product, "circle", tmp_path, format=form)
        stage = product.ok(sent(product, f"circle-{form}", path))
        assert stage["record"]["source"]["base"] == first_base
        assert stage["record"]["warnings"] == []
        revisions.add(stage["revision"])
    assert revisions == {first["revision"]}
    npz = exported(product, "circle", tmp_path, format="npz")
    stage = product.ok(sent(product, "circle-npz", npz, scale=10))
    ours = read_adapter(product.revision_dir(stage["revision"]))
    was = read_adapter(tiny_adapters["a4"])
    assert ours.scale == was.scale
    for module, pair in was.tensors.items():
        for before, after in zip(pair, ours.tensors[module], strict=True):
            assert (values_of(before) == values_of(after)).all()


def test_a_next_stage_continues_modules_that_are_not_the_last_blocks(
    product: Product, tmp_path: Path
) -> None:
    """Block 0's q and block 2's v alone: stage 2 keeps them, and adds what the shape spans."""
    features = {Q: (128, 128), V: (128, 64)}
    tensors = {}
    for block, key in ((0, Q), (2, V)):
        rows, columns = features[key]
        a, b = matrix(rows, 2, block), matrix(2, columns, 9 + block)
        small = HostArray("F32", b.shape, (values_of(b) * 1e-2).tobytes())
        tensors[f"model.layers.{block}.{key}"] = (a, small)
    files = AdapterFiles(LoraShape(2, 1.0, -1, (Q, V)), tensors)
    peft.write_peft(tmp_path / "odd", files)
    stage = product.ok(sent(product, "odd", tmp_path / "odd"))
    assert stage["lora"]["num_layers"] == 4
    assert_served_as_trained(product, "tiny:odd", stage["revision"])
    rows_ = [row("What is a keel?", "A fin."), row("What is a sail?", "A cloth.")]
    second = product.train("odd", rows_, epochs=1, learning_rate=1e-6)
    assert second["parent"] == stage["revision"]
    grown = read_adapter(product.revision_dir(second["revision"]))
    assert len(grown.tensors) == 8
    for module, pair in tensors.items():
        np.testing.assert_allclose(
            values_of(grown.tensors[module][1]), values_of(pair[1]), atol=1e-4
        )
    assert_served_as_trained(product, "tiny:odd", second["revision"])


def test_the_oldest_npz_is_read_by_the_heads_of_the_base(product: Product, tmp_path: Path) -> None:
    """Four heads of 32, two of them for keys: wq and wk get the base's order."""
    old = {
        f"layers.3.attention.{name}.lora_{part}": values_of(matrix(*shape, seed))
        for seed, (name, width) in enumerate((("wq", 128), ("wk", 64)))
        for part, shape in (("a", (128, 2)), ("b", (2, width)))
    }
    path = tmp_path / "old.npz"
    np.savez(path, **old)  # type: ignore[arg-type]
    stage = product.ok(sent(product, "oldest", path, scale=2))
    assert stage["lora"]["num_layers"] == 1
    found = read_adapter(product.revision_dir(stage["revision"])).tensors
    for name, heads in (("q", 4), ("k", 2)):
        halves = values_of(found[f"model.layers.3.self_attn.{name}_proj"][1]).reshape(2, heads, -1)
        pairs = old[f"layers.3.attention.w{name}.lora_b"].reshape(2, heads, 16, 2)
        assert (halves[..., :16] == pairs[..., 0]).all()
        assert (halves[..., 16:] == pairs[..., 1]).all()


def test_the_head_or_a_named_revision_goes_out(
    product: Product, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    """A deleted or unknown one is 404 with the reason, an unknown format 400."""
    product.ok(sent(product, "named", tiny_adapters["a4"]))
    trained = product.train("named", [row("a", "b")], iters=1)
    ids = [
        mlx_id(exported(product, "named", folder(tmp_path, name), format="mlx-lm", **query))
        for name, query in (("head", {}), ("two", {"revision": "2"}), ("one", {"revision": "1"}))
    ]
    assert ids[0] == ids[1] == trained["revision"] != ids[2]

    def ask(**query: str) -> Any:
        return product.http.get("/admin/chains/named/export", params=query)

    error_of(ask(format="npz", revision="7"), 404, "revision_not_found")
    assert "one of mlx-lm, npz, peft" in error_of(ask(format="gguf"), 400, "invalid_request")
    assert "for npz alone" in error_of(
        ask(format="peft", fold_scale="2"), 400, "adapter_file_error"
    )
    assert "for peft alone" in error_of(
        ask(format="npz", base_model="x"), 400, "adapter_file_error"
    )
    product.ok(product.http.delete("/admin/chains/named/revisions/1"))
    assert "was deleted" in error_of(ask(format="npz", revision="1"), 404, "revision_not_found")
    assert list((product.data_dir / "incoming").iterdir()) == []


def folder(parent: Path, name: str) -> Path:
    """A new one."""
    (parent / name).mkdir()
    return parent / name


def mlx_id(path: Path) -> str:
    """The revision that an mlx-lm directory is."""
    from adapters.formats.revision import revision_id

    return revision_id(read_adapter(path))


def test_what_cannot_begin_a_chain_is_refused_and_leaves_nothing(
    product: Product, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    """Another base by shape, no matching module, blocks left out, a chain that is there."""
    good = read_adapter(tiny_adapters["a4"])
    first = next(iter(good.tensors))
    wide = {**good.tensors, first: (matrix(64, 4, 1), good.tensors[first][1])}
    write_adapter(tmp_path / "wide", AdapterFiles(good.shape, wide))
    said = error_of(sent(product, "bad", tmp_path / "wide"), 400, "adapter_mismatch")
    assert "maps 128 to 128 features here, 64 to 128 in the adapter" in said
    other = {
        name.replace("model.layers", "transformer.layers"): pair
        for name, pair in good.tensors.items()
    }
    write_adapter(tmp_path / "other", AdapterFiles(good.shape, other))
    said = error_of(sent(product, "bad", tmp_path / "other"), 400, "adapter_mismatch")
    assert "no module matches" in said
    moved = {
        name.replace("layers.2", "layers.0").replace("layers.3", "layers.1"): pair
        for name, pair in good.tensors.items()
    }
    write_adapter(tmp_path / "moved", AdapterFiles(good.shape, moved))
    said = error_of(sent(product, "bad", tmp_path / "moved"), 400, "adapter_mismatch")
    assert "adapts block 0 of 4, and num_layers says the last 2" in said
    unchanged(product, "bad")
    product.ok(sent(product, "there", tiny_adapters["a4"]))
    error_of(sent(product, "there", tiny_adapters["b8"]), 409, "chain_exists")
    error_of(sent(product, "no way", tiny_adapters["b8"]), 400, "invalid_request")


def test_an_adapter_that_names_another_base_is_refused(
    product: Product, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    """The fingerprint travels with what we export, whatever the shapes say."""
    for form in ("mlx-lm", "peft"):
        path = tmp_path / form
        write_as(form, read_adapter(tiny_adapters["a4"]), path, Wanted(base="f" * 64))
        said = error_of(sent(product, "foreign", path), 400, "adapter_mismatch")
        assert "trained on another base (fingerprint ffffffffffff" in said
    unchanged(product, "foreign")


def test_bad_files_are_refused_without_our_paths(
    product: Product, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    """Not finite, pickled, cut off, contradicting fields: the message has the file's own name."""
    good = read_adapter(tiny_adapters["a4"])
    first = next(iter(good.tensors))
    a, b = good.tensors[first]
    bad = HostArray("F32", b.shape, np.full(b.shape, np.nan, "<f4").tobytes())
    write_adapter(tmp_path / "nan", AdapterFiles(good.shape, {**good.tensors, first: (a, bad)}))
    write_as("npz", good, tmp_path / "a.npz")
    pickle = tmp_path / "p.npz"
    np.savez(pickle, x=np.array([{}], dtype=object))
    refusals = [
        (sent(product, "bad", tmp_path / "nan"), "not finite"),
        (sent(product, "bad", pickle), "never unpickled"),
        (sent(product, "bad", tiny_adapters["a4"] / mlx_lm.CONFIG), "not a sound npz file"),
        (sent(product, "bad", tiny_adapters["a4"], scale=2), "states its own scale"),
        (sent(product, "bad", tiny_adapters["a4"], num_layers=2), "states its own num_layers"),
    ]
    for response, reason in refusals:
        said = error_of(response, 400, "adapter_file_error")
        assert reason in said
        assert str(product.data_dir) not in said
    for fields in ({"scale": "nan"}, {"scale": 0}, {"scale": "1e400"}, {"num_layers": "0"}):
        error_of(sent(product, "bad", tmp_path / "a.npz", **fields), 400, "invalid_request")
    error_of(sent(product, "bad", tmp_path / "a.npz", rank=2), 400, "invalid_request")
    assert "more than 64 bytes" in error_of(
        sent(product, "bad", tmp_path / "a.npz", scale="1" * 65), 400, "invalid_request"
    )
    unchanged(product, "bad")


def test_an_upload_beyond_the_limit_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    """max_upload_bytes holds for adapters too, max_body_bytes does not."""
    with serving(
        tiny_model, tmp_path / "data", max_body_bytes=1024, max_upload_bytes=100_000
    ) as product:
        files = AdapterFiles(
            LoraShape(4, 1.0, -1, (Q,)),
            {f"model.layers.0.{Q}": (matrix(128, 4, 1), matrix(4, 128, 2))},
        )
        write_as("npz", files, tmp_path / "a.npz")
        product.ok(sent(product, "small", tmp_path / "a.npz"))
        response = product.http.post("/admin/chains/large/import", files={"file": bytes(200_000)})
        error_of(response, 413, "request_too_large")
        unchanged(product, "large")
