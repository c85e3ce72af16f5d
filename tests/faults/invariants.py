"""What must hold for a data directory at any moment, looked at after a restart."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from adapters.formats.mlx_lm import read_adapter
from adapters.formats.revision import revision_id
from adapters.lineage import Stage
from adapters.store import Store


def check(store: Store) -> None:
    """Everything that is listed is whole, and nothing else is there."""
    root = store._layout.root
    database = store._database
    assert database.all("PRAGMA integrity_check")[0][0] == "ok"
    assert database.all("PRAGMA foreign_key_check") == []
    revisions = {row["id"] for row in database.all("SELECT id FROM revisions")}
    assert {path.name for path in (root / "revisions").iterdir()} == revisions
    for revision in revisions:
        path = store.revision_path(revision)
        assert revision_id(read_adapter(path)) == revision
        json.loads((path / "manifest.json").read_text())
    stages = all_stages(store)
    named = {stage.revision for stage in stages if stage.revision_deleted_at is None}
    assert revisions == named - {None}
    _check_names(store)
    _check_files(store)
    running = [stage for stage in stages if stage.state.is_claimed]
    assert running == [], "a restart gives back what ran"


def _check_names(store: Store) -> None:
    for chain in store.chains.list():
        pins = [*chain.labels, *([] if chain.head is None else [None])]
        for pin in pins:
            revision = store.chains.resolve(chain.name, pin).revision
            assert revision is not None
            assert store.has_revision(revision)
        numbers = [stage.number for stage in store.chains.stages(chain.name)]
        assert numbers == sorted(set(numbers))


def _check_files(store: Store) -> None:
    root = store._layout.root
    sets = store.datasets.list(after=None, limit=99).data
    assert {path.name for path in (root / "datasets").iterdir()} == {
        f"{each.id}.jsonl" for each in sets
    }
    for each in sets:
        content = store.datasets.path(each.id).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (each.id, each.nbytes)
    kept = store.checkpoints.names()
    found = {
        path.name: {file.name for file in path.iterdir()}
        for path in (root / "checkpoints").iterdir()
    }
    assert found == kept
    assert list((root / "incoming").iterdir()) == []


def all_stages(store: Store) -> list[Stage]:
    """Every stage, oldest first."""
    page = store.stages.list(chain=None, state=None, after=None, limit=9999)
    return list(reversed(page.data))


def picture(store: Store) -> dict[str, Any]:
    """All that users can see but ids and times, to compare two directories by."""
    files = store._layout
    return {
        "chains": [
            (each.name, each.head, each.head_revision, dict(each.labels))
            for each in store.chains.list()
        ],
        "stages": [
            (
                each.chain,
                each.number,
                each.state,
                each.revision,
                each.revision_deleted_at,
                each.parent if each.state.is_final else None,
                None if each.error is None else each.error.code,
            )
            for each in all_stages(store)
        ],
        "sets": sorted(each.id for each in store.datasets.list(after=None, limit=99).data),
        "checkpoints": sorted(
            (store.stages.get(stage).chain, sorted(names))
            for stage, names in store.checkpoints.names().items()
        ),
        "files": sorted(
            str(path.relative_to(files.root))
            for directory in (files.revisions, files.datasets)
            for path in directory.rglob("*")
        ),
    }
