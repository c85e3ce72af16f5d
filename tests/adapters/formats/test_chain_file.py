"""A chain's lineage, revisions and rows go into one file and come out as they were."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.errors import AdapterFileError
from adapters.formats import chain_file, chain_manifest
from adapters.formats.chain_file import ChainFile, Sources, write_chain_file
from adapters.formats.chain_manifest import BaseWords, Content, dataset_name, revision_name
from adapters.lineage import LoraRequest, Progress
from tests.adapters.store.rig import BASE, Rig, opened, unsynced
from tests.chain_files import grown

WORDS = BaseWords(fingerprint=BASE, model_type="toy", blocks=1, hidden_size=2)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A store with the chain ``support``."""
    with unsynced(), opened(tmp_path / "data") as made:
        grown(made)
        yield made


def content_of(rig: Rig, *, with_data: bool = True) -> Content:
    """All there is of ``support``."""
    record, _ = rig.store.archive.record("support")
    sets = tuple(map(rig.store.datasets.get, record.datasets)) if with_data else ()
    return Content(WORDS, record, sets)


def sources(rig: Rig) -> Sources:
    """Where it lies."""
    return Sources(rig.store.revision_path, rig.store.datasets.path)


def test_what_goes_in_comes_out(rig: Rig, tmp_path: Path) -> None:
    """The lineage value for value, every file byte for byte."""
    content = content_of(rig)
    first, *others = content.record.stages
    assert first.request is not None
    rich = replace(
        first,
        request=replace(
            first.request,
            lora=LoraRequest(rank=4, keys=("a.b", "c")),
            samples=("¿Qué?", "two\nlines"),
            validation=first.request.dataset,
        ),
        progress=Progress(3, 3, 99, 1.5, 0.25, 1e-7),
        metrics={"loss": 0.1 + 0.2, "steps": 3, "validation_loss": None},
        record={"plan": "x", "build": {"versions": {"mlx": "1"}}, "odd": [1, [True], {"a": None}]},
        started_at=1_800_000_000.123456,
    )
    content = replace(content, record=replace(content.record, stages=(rich, *others)))
    write_chain_file(tmp_path / "a.chain", content, sources(rig))
    with ChainFile(tmp_path / "a.chain") as found:
        assert found.content == content
        found.unpack(tmp_path / "out")
    for revision in content.record.revisions:
        there = rig.store.revision_path(revision)
        for file in there.iterdir():
            out = tmp_path / "out" / revision_name(revision) / file.name
            assert out.read_bytes() == file.read_bytes()
    for each in content.datasets:
        rows = (tmp_path / "out" / dataset_name(each.id)).read_bytes()
        assert rows == rig.store.datasets.path(each.id).read_bytes()


def test_the_manifest_names_every_member_with_size_and_hash(rig: Rig, tmp_path: Path) -> None:
    """It stands first, for people and other programs; a deleted revision has a record alone."""
    content = content_of(rig, with_data=False)
    write_chain_file(tmp_path / "a.chain", content, sources(rig))
    with zipfile.ZipFile(tmp_path / "a.chain") as archive:
        names = archive.namelist()
        manifest = json.loads(archive.read("manifest.json"))
    assert manifest["format"] == "chainlora chain 1"
    assert ["manifest.json", *(each["name"] for each in manifest["members"])] == names
    assert len(names) == 1 + 3 * 2
    deleted = manifest["stages"][1]
    assert deleted["revision_deleted_at"] is not None
    assert not any(deleted["revision"] in name for name in names)
    assert manifest["datasets"] == []
    assert str(WORDS) == "toy, 1 blocks, hidden size 2, fingerprint bbbbbbbbbbbb"
    assert str(BaseWords(fingerprint=BASE)) == "fingerprint bbbbbbbbbbbb"


def test_the_same_chain_is_the_same_file(rig: Rig, tmp_path: Path) -> None:
    """Nothing in it depends on when or where it was packed."""
    for name in ("a", "b"):
        write_chain_file(tmp_path / name, content_of(rig), sources(rig))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_nothing_is_written_over(rig: Rig, tmp_path: Path) -> None:
    """Whatever has the name keeps it."""
    (tmp_path / "a").write_text("mine")
    with pytest.raises(FileExistsError):
        write_chain_file(tmp_path / "a", content_of(rig), sources(rig))
    assert (tmp_path / "a").read_text() == "mine"


def test_a_data_set_that_is_not_its_hash_is_not_packed(rig: Rig, tmp_path: Path) -> None:
    """The file would be refused wherever it is opened."""
    content = content_of(rig)
    rig.store.datasets.path(content.datasets[0].id).write_text('{"text": "x"}\n')
    with pytest.raises(AdapterFileError, match="not what was stored"):
        write_chain_file(tmp_path / "a", content, sources(rig))
    assert not (tmp_path / "a").exists()


def test_a_file_that_changes_meanwhile_leaves_nothing(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its hash stands in the manifest before its bytes are copied."""
    content = content_of(rig)
    weights = rig.store.revision_path(content.record.revisions[0]) / "adapters.safetensors"
    real = chain_manifest.dumped

    def meanwhile(*given: object) -> bytes:
        raw = real(*given)  # type: ignore[arg-type]
        weights.write_bytes(weights.read_bytes() + b"x")
        return raw

    monkeypatch.setattr(chain_file, "dumped", meanwhile)
    with pytest.raises(AdapterFileError, match="changed meanwhile"):
        write_chain_file(tmp_path / "a", content, sources(rig))
    assert not (tmp_path / "a").exists()


def test_a_lineage_without_end_is_not_packed(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader would refuse the manifest by its size."""
    monkeypatch.setattr(chain_manifest, "MOST_MANIFEST_BYTES", 1000)
    with pytest.raises(AdapterFileError, match=r"has room for 1000\. Fork the chain"):
        write_chain_file(tmp_path / "a", content_of(rig), sources(rig))
    assert not (tmp_path / "a").exists()
