"""Paths that lead out of the directories that adapters may be loaded from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.extending.product import error_of, serving
from tests.attacks.imports.conftest import Target


@pytest.fixture(scope="module")
def allowed(tiny_adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory to load from, with one adapter, beside one that may not be loaded."""
    root = tmp_path_factory.mktemp("allowed")
    shutil.copytree(tiny_adapters["b8"], root / "open" / "good")
    shutil.copytree(tiny_adapters["d8"], root / "secret" / "taken")
    outside = root / "secret" / "taken"
    (root / "open" / "link").symlink_to(outside)
    (root / "open" / "sub").symlink_to(root / "secret")
    half = root / "open" / "half"
    half.mkdir()
    (half / "adapters.safetensors").symlink_to(outside / "adapters.safetensors")
    shutil.copy(outside / "adapter_config.json", half)
    os.mkfifo(root / "open" / "pipe.npz")
    return root / "open"


@pytest.fixture(scope="module")
def live(
    tiny_model: Path,
    tiny_adapters: dict[str, Path],
    allowed: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Target]:
    """The tiny model with the chain ``good``, which may load from ``allowed``."""
    with serving(
        tiny_model,
        tmp_path_factory.mktemp("data"),
        adapters=(("good", tiny_adapters["a4"]),),
        adapter_import_dirs=(allowed,),
    ) as product:
        yield Target.of(product)


def load(target: Target, path: str, **fields: Any) -> Any:
    """vLLM's route with ``path``."""
    body = {"lora_name": "bad", "lora_path": path, **fields}
    return target.product.http.post("/v1/load_lora_adapter", json=body)


@pytest.mark.parametrize(
    "path",
    [
        "../secret/taken",
        "good/../../secret/taken",
        "{allowed}/../secret/taken",
        "{allowed}/good/../good",
        "{allowed}/./good",
        "{allowed}//good",
        "./good",
        "{secret}",
        "link",
        "{allowed}/link",
        "sub/taken",
        "{allowed}/sub/taken",
        "/",
        ".",
        "..",
        "/etc/passwd",
        "~",
        "*",
        "goo?",
        "good\x00",
        "good/adapters.safetensors",
        "GOOD/",
        "%2e%2e/secret/taken",
        "..\\secret\\taken",
        "file://{allowed}/good",
        "https://hub.test/good",
        "good\n",
        " good",
    ],
)
def test_nothing_but_what_a_scan_finds_is_loaded(target: Target, allowed: Path, path: str) -> None:
    """A path is compared, not opened; links lead nowhere."""
    text = path.format(allowed=allowed, secret=allowed.parent / "secret" / "taken")
    message = error_of(load(target, text), 404, "adapter_path_not_found")
    assert "adapter_import_dirs" in message


@pytest.mark.parametrize("path", ["half", "pipe.npz"])
def test_files_that_are_links_or_pipes_are_not_read(
    target: Target, allowed: Path, path: str
) -> None:
    """Also within a directory that may be loaded; and where it lies is not told."""
    message = error_of(load(target, path), 400, "adapter_file_error")
    assert str(allowed) not in message


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".x", "a:b", "a@1", "x" * 65, "tiny:"])
def test_a_name_that_no_chain_may_have_is_refused(target: Target, name: str) -> None:
    """It becomes part of no path either."""
    error_of(load(target, "good", lora_name=name), 400, "invalid_request")


@pytest.mark.parametrize("path", [None, 7, ["good"], "", "x" * 5000])
def test_a_path_is_a_short_text(target: Target, path: Any) -> None:
    """Refused before anything is looked for."""
    error_of(load(target, path), 400, "invalid_request")
