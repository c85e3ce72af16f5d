"""Adapters from elsewhere as a chain's first revision."""

from __future__ import annotations

import logging
from pathlib import Path

from adapters.errors import ChainExists, ChainNotFound
from adapters.formats.mlx_lm import read_adapter, write_adapter
from adapters.formats.revision import revision_id
from adapters.lineage import Origin
from adapters.store import Store

log = logging.getLogger(__name__)


def bring_in(store: Store, chain: str, directory: Path) -> None:
    """Make the mlx-lm adapter in the operator's ``directory`` the first revision of ``chain``.

    Nothing happens where the chain began with the very same adapter: whatever it has learned since
    stays its head. Raises ChainExists where the chain began otherwise, AdapterError for a directory
    that cannot be used.
    """
    files = read_adapter(directory, follow_links=True)
    revision = revision_id(files)
    try:
        first = store.chains.first(chain)
    except ChainNotFound:
        pass
    else:
        if first.revision == revision:
            return
        raise ChainExists(
            f"There is a chain {chain!r} already, and it did not begin with {directory}. Give the "
            "adapter another name, or delete the chain first."
        )
    temp = store.revision_temp()
    write_adapter(temp, files)
    manifest = {"format": "chainlora manifest 1", "revision": revision, "origin": "imported"}
    store.chains.import_revision(
        chain, temp, revision, shape=files.shape, manifest=manifest, origin=Origin.IMPORTED
    )
    log.info("imported %s as the chain %s", directory.name, chain)
