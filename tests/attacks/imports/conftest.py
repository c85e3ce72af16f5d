"""A live server that is sent bad adapters, and what may not change of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from tests.acceptance.extending.product import Product, serving

Part = tuple[str, bytes]
QUESTION = "What is a rudder?"


@dataclass(frozen=True, slots=True)
class Target:
    """A server with one good chain, its answers, and everything that lies in its directory."""

    product: Product
    answers: tuple[str, str]
    files: dict[str, int]

    @classmethod
    def of(cls, product: Product) -> Target:
        """As it is now."""
        return cls(product, answers(product), files_of(product.data_dir))

    def send(
        self, file: Part, config: Part | None = None, *, chain: str = "bad", **fields: str
    ) -> Any:
        """Import as ``chain``: the parts are (file name, content)."""
        files = {"file": file} | ({} if config is None else {"config": config})
        return self.product.http.post(f"/admin/chains/{chain}/import", files=files, data=fields)

    def untouched(self) -> None:
        """It answers as before, knows no new chain or stage, and has no other file."""
        assert answers(self.product) == self.answers
        assert names(self.product) == ["good"]
        assert [stage["model"] for stage in stages(self.product)] == ["tiny:good@1"]
        assert files_of(self.product.data_dir) == self.files


def answers(product: Product) -> tuple[str, str]:
    """What the base and the good chain say."""
    base, good = (product.answer(model, QUESTION, max_tokens=4) for model in ("tiny", "tiny:good"))
    return base, good


def names(product: Product) -> list[str]:
    """The chains."""
    found = product.ok(product.http.get("/admin/chains"))["data"]
    return [chain["id"] for chain in found]


def stages(product: Product) -> list[Any]:
    """All of every chain."""
    found: list[Any] = product.ok(product.http.get("/admin/stages"))["data"]
    return found


def files_of(directory: Path) -> dict[str, int]:
    """Every entry below and its size; the database's own files change with every look at them."""
    return {
        str(path.relative_to(directory)): path.stat().st_size if path.is_file() else -1
        for path in directory.rglob("*")
        if not path.name.startswith("chainlora.db")
    }


@pytest.fixture(scope="module")
def live(
    tiny_model: Path, tiny_adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    """The tiny model with the chain ``good``."""
    with serving(
        tiny_model,
        tmp_path_factory.mktemp("data"),
        adapters=(("good", tiny_adapters["a4"]),),
        max_upload_bytes=8 << 20,
    ) as product:
        yield Target.of(product)


@pytest.fixture
def target(live: Target, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    """The live server, held to what it was after each attack; MLX opens no file meanwhile."""

    def touched(*_: object, **__: object) -> None:
        raise RuntimeError("MLX has seen the file")

    monkeypatch.setattr(mx, "load", touched)
    yield live
    live.untouched()
