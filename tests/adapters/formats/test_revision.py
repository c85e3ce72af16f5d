"""A revision's id is its content: what the outputs depend on, and nothing else."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from adapters.formats.arrays import HostArray
from adapters.formats.mlx_lm import AdapterFiles, read_adapter, write_adapter
from adapters.formats.revision import revision_id
from adapters.shape import LoraShape

Q, V = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"


def matrix(*shape: int, dtype: str = "F32", first: int = 0) -> HostArray:
    """A tensor of zeros but for its first byte."""
    array = HostArray(dtype, shape, b"")
    size = array.size * (4 if dtype == "F32" else 2)
    return dataclasses.replace(array, data=bytes([first]) + bytes(size - 1))


def adapter(scale: float = 2.0, **tensors: tuple[HostArray, HostArray]) -> AdapterFiles:
    """An adapter on q and v, with a module replaced by keyword."""
    pairs = {
        Q: (matrix(4, 2), matrix(2, 4)),
        V: (matrix(4, 2), matrix(2, 4)),
    }
    return AdapterFiles(LoraShape(2, scale, -1), pairs | {Q: tensors.get("q", pairs[Q])})


CHANGED = {
    "scale": adapter(scale=2.0000001),
    "a byte of A": adapter(q=(matrix(4, 2, first=1), matrix(2, 4))),
    "a byte of B": adapter(q=(matrix(4, 2), matrix(2, 4, first=1))),
    "a type": adapter(q=(matrix(4, 2, dtype="F16"), matrix(2, 4, dtype="F16"))),
    "the other type": adapter(q=(matrix(4, 2, dtype="BF16"), matrix(2, 4, dtype="BF16"))),
    "a shape of the same bytes": adapter(q=(matrix(8, 1), matrix(1, 8))),
    "a module's name": AdapterFiles(
        LoraShape(2, 2.0, -1), {f"{Q}x": adapter().tensors[Q], V: adapter().tensors[V]}
    ),
    "one module less": AdapterFiles(LoraShape(2, 2.0, -1), {Q: adapter().tensors[Q]}),
}


def test_every_change_that_outputs_depend_on_gives_another_id() -> None:
    """One id each, and none is the unchanged adapter's."""
    ids = {revision_id(files) for files in (adapter(), *CHANGED.values())}
    assert len(ids) == len(CHANGED) + 1


@pytest.mark.parametrize(
    "shape",
    [
        LoraShape(2, 2, -1),
        LoraShape(2, 2.0, -1, dropout=0.5),
        LoraShape(2, 2.0, 1, ("self_attn.q_proj", "self_attn.v_proj")),
    ],
)
def test_what_outputs_do_not_depend_on_changes_nothing(shape: LoraShape) -> None:
    """Dropout, how the targets are spelled, an integer for a float."""
    assert revision_id(dataclasses.replace(adapter(), shape=shape)) == revision_id(adapter())


def test_the_order_of_the_tensors_changes_nothing() -> None:
    """Files keep them in any order."""
    files = adapter()
    turned = dict(sorted(files.tensors.items(), reverse=True))
    assert revision_id(dataclasses.replace(files, tensors=turned)) == revision_id(files)


def test_the_same_adapter_under_two_names_has_one_id(
    tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    """Copied by hand, or read and written again."""
    shutil.copytree(tiny_adapters["b8"], tmp_path / "copied")
    write_adapter(tmp_path / "written", read_adapter(tiny_adapters["b8"]))
    places = (tiny_adapters["b8"], tmp_path / "copied", tmp_path / "written")
    assert len({revision_id(read_adapter(place)) for place in places}) == 1
    assert len({revision_id(read_adapter(place)) for place in tiny_adapters.values()}) == 4


def test_the_id_of_a_known_adapter_never_changes() -> None:
    """Ids are kept in stores: another way to hash is another format, not a fix."""
    assert revision_id(adapter()) == (
        "75f1b2497bd9c6cef99d777ee03b7ce668c933082d232f147281caaf56d62299"
    )
