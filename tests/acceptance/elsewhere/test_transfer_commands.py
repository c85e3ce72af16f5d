"""The commands ``chain import`` and ``chain export``, and the flag ``--adapter``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import AdapterMismatch, ChainExists
from adapters.formats import peft
from adapters.formats.foreign import Wanted, read_any, write_as
from adapters.formats.mlx_lm import AdapterFiles, read_adapter, write_adapter
from server import cli
from tests.acceptance.extending.product import Product, serving
from tests.acceptance.extending.test_rules import assert_served_like
from tests.adapters.formats.samples import as_plain, matrix


def test_the_command_line_takes_and_gives(
    product: Product,
    tiny_adapters: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Import, export to each format, never over what is there."""

    def run(*arguments: str, code: int = 0) -> str:
        assert cli.main(["chain", *arguments, "--url", product.url]) == code
        out, err = capsys.readouterr()
        return err if code else out

    write_as("npz", read_adapter(tiny_adapters["a4"]), tmp_path / "in.npz")
    said = run("import", "shell", str(tmp_path / "in.npz"), "--scale", "10", "--num-layers", "2")
    assert said.startswith("tiny:shell@1 is imported: rank 4, scale 10\nnote: The files do not")
    for form, name in (("npz", "out.npz"), ("mlx-lm", "out"), ("peft", "out-peft")):
        path = tmp_path / name
        assert f"wrote {path}" in run("export", "shell", str(path), "--format", form)
        told = run("export", "shell", str(path), "--format", form, code=1)
        assert "is there already" in told
    assert as_plain(read_any(tmp_path / "out")[0]) == as_plain(
        replace(read_any(tmp_path / "out-peft")[0], shape=read_adapter(tmp_path / "out").shape)
    )
    document = json.loads(
        run("export", "shell", str(tmp_path / "f.npz"), "--format=npz", "--fold-scale=20", "--json")
    )
    assert "must multiply by 20" in document["notes"][0]
    row_ = json.loads(run("import", "shell2", str(tmp_path / "out-peft"), "--json"))
    assert row_["lora"]["num_layers"] == 2
    assert "end in .npz" in run("export", "shell", str(tmp_path / "x"), "--format", "npz", code=2)
    assert "no chain" in run("export", "none", str(tmp_path / "x"), "--format", "peft", code=1)
    assert "neither" in run("import", "x", str(tmp_path), code=1)
    assert "Cannot read" in run("import", "x", str(tmp_path / "missing.npz"), code=1)
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "adapter_model.bin").touch()
    assert "Python pickle" in run("import", "x", str(tmp_path / "torch"), code=1)
    left = {each.name for each in tmp_path.iterdir() if each.name.startswith(".")}
    assert left == set()


@contextmanager
def refused(*arguments: Any, **changes: Any) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """A server that does not start."""
    with (
        pytest.raises((AdapterMismatch, ChainExists)) as caught,
        serving(*arguments, **changes),
    ):
        pass
    yield caught


def test_the_flag_takes_every_format_and_checks_before_it_stores(
    tiny_model: Path, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    """--adapter NAME=PATH: once imported, it is no second import; one that does not fit ends it."""
    files = read_adapter(tiny_adapters["a4"])
    peft.write_peft(tmp_path / "theirs", files)
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    write_as("npz", files, tmp_path / "a.npz", Wanted(fold_scale=20.0))
    adapters = (("npz", tmp_path / "a.npz"), ("peft", tmp_path / "link"))
    for _ in range(2):
        with serving(tiny_model, tmp_path / "data", adapters=adapters) as product:
            for name in ("npz", "peft"):
                assert_served_like(product, f"tiny:{name}", tiny_adapters["a4"])
                assert len(stages(product, name)) == 1
    first = next(iter(files.tensors))
    wide = {**files.tensors, first: (matrix(64, 4, 1), files.tensors[first][1])}
    write_adapter(tmp_path / "wide", AdapterFiles(files.shape, wide))
    with refused(tiny_model, tmp_path / "new", adapters=(("w", tmp_path / "wide"),)) as caught:
        assert "does not fit this base" in str(caught.value)
    assert list((tmp_path / "new" / "revisions").iterdir()) == []


def stages(product: Product, chain: str) -> list[Any]:
    """All of a chain's."""
    found: list[Any] = product.ok(product.http.get(f"/admin/chains/{chain}"))["stages"]
    return found
