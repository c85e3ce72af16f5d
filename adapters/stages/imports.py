"""Adapters from elsewhere as a chain's first revision."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adapters.errors import AdapterMismatch, ChainExists, ChainNotFound
from adapters.formats.foreign import NOTHING_TOLD, Notes, Told, read_any
from adapters.formats.mlx_lm import AdapterFiles, write_adapter
from adapters.formats.revision import revision_id
from adapters.lineage import Origin, Stage
from adapters.shape import BaseShape
from adapters.store import Store
from adapters.store.layout import sha256_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Arrival:
    """An adapter that was read, and what its record will say of where it came from.

    ``layers_told``: somebody or something says how many blocks it is for.
    """

    name: str
    files: AdapterFiles
    notes: Notes
    source: Mapping[str, Any]
    layers_told: bool


def read_arrival(path: Path, told: Told = NOTHING_TOLD, *, follow_links: bool = False) -> Arrival:
    """Read an adapter of any format; raises AdapterFileError for one that cannot be used."""
    files, notes = read_any(path, told, follow_links=follow_links)
    digest, nbytes = sha256_of(notes.weights)
    source = {
        "format": notes.format,
        "file": notes.weights.name,
        "sha256": digest,
        "bytes": nbytes,
        "base": notes.base,
    }
    layers_told = notes.format == "mlx-lm" or told.num_layers is not None
    return Arrival(path.name, files, notes, source, layers_told)


def fitted(arrival: Arrival, base: BaseShape, fingerprint: str) -> AdapterFiles:
    """The adapter as one of this base, its shape saying which blocks it adapts.

    Keys that the base does not have are left out, as mlx-lm leaves them: the chain could never be
    trained on with them. Raises AdapterMismatch where it names another base, a module is not there,
    a shape contradicts, or ``num_layers`` leaves adapted blocks out, which mlx-lm would drop.
    """
    files = arrival.files
    named = arrival.notes.base
    if named is not None and named != fingerprint:
        raise AdapterMismatch(
            f"{arrival.name} was trained on another base (fingerprint {named[:12]}, this one is "
            f"{fingerprint[:12]}). Serve the base that it was trained on."
        )
    _check_modules(arrival.name, files, base)
    if strange := strange_keys(files, base):
        kept = tuple(key for key in files.shape.keys or () if key not in strange)
        files = replace(files, shape=replace(files.shape, keys=kept))
    blocks = 1 + max((each.block for each in base.linears if each.block is not None), default=-1)
    adapted = [each.block for each in files.targets if each.block is not None]
    needed = blocks - min(adapted) if adapted else -1
    if not arrival.layers_told:
        return replace(files, shape=replace(files.shape, num_layers=needed))
    if 0 < files.shape.num_layers < needed:
        raise AdapterMismatch(
            f"{arrival.name} adapts block {min(adapted)} of {blocks}, and num_layers says the last "
            f"{files.shape.num_layers}. Make it {needed} or more, or -1 for all.",
            param="num_layers",
        )
    return files


def strange_keys(files: AdapterFiles, base: BaseShape) -> list[str]:
    """The keys of an adapter's shape that mean no linear layer of the base."""
    known = {each.key for each in base.linears} | {each.path for each in base.linears}
    return [key for key in files.shape.keys or () if key not in known]


def begin(store: Store, chain: str, arrival: Arrival, base: BaseShape) -> Stage:
    """Make an adapter the first revision of the new chain ``chain``.

    Raises AdapterMismatch, ChainExists or StorageFull, and then nothing is stored.
    """
    files = fitted(arrival, base, store.base)
    revision = revision_id(files)
    warnings = [*arrival.notes.warnings]
    if strange := strange_keys(arrival.files, base):
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        warnings.append(
            f"Its keys name {strange[0][:64]!a}{more}, which this base does not have; left out."
        )
    temp = store.revision_temp()
    write_adapter(temp, files)
    stage = store.chains.import_revision(
        chain,
        temp,
        revision,
        shape=files.shape,
        manifest={"format": "chainlora manifest 1", "revision": revision, "origin": "imported"},
        origin=Origin.IMPORTED,
        record={"source": arrival.source, "warnings": warnings},
    )
    for warning in warnings:
        log.warning("%s: %s", chain, warning)
    log.info("imported %s as the chain %s", arrival.name, chain)
    return stage


def bring_in(
    store: Store, chain: str, path: Path, base: BaseShape, *, arrival: Arrival | None = None
) -> None:
    """Make the adapter at the operator's ``path`` the first revision of ``chain``.

    Nothing happens where the chain began with the very same adapter: whatever it has learned since
    stays its head. ``arrival`` is what was read there before. Raises ChainExists where the chain
    began otherwise, AdapterError for an adapter that cannot be used.
    """
    arrival = arrival or read_arrival(path, follow_links=True)
    revision = revision_id(fitted(arrival, base, store.base))
    try:
        first = store.chains.first(chain)
    except ChainNotFound:
        begin(store, chain, arrival, base)
        return
    if first.revision != revision:
        raise ChainExists(
            f"There is a chain {chain!r} already, and it did not begin with {path}. Give the "
            "adapter another name, or delete the chain first."
        )


def began_elsewhere(store: Store, chain: str) -> bool:
    """Whether there is such a chain and it began with an adapter from elsewhere."""
    try:
        return store.chains.first(chain).origin is Origin.IMPORTED
    except ChainNotFound:
        return False


def _check_modules(name: str, files: AdapterFiles, base: BaseShape) -> None:
    features = {each.path: (each.in_features, each.out_features) for each in base.linears}
    unknown = [each.path for each in files.targets if each.path not in features]
    if unknown:
        match = "no" if len(unknown) == len(files.targets) else "not every"
        raise AdapterMismatch(
            f"{name} does not fit this base: {match} module matches. This base has no linear layer "
            f"{unknown[0]!r} ({len(unknown)} of {len(files.targets)} modules unknown). Serve the "
            "base that it was trained on."
        )
    for target in files.targets:
        own = (target.in_features, target.out_features)
        if own != features[target.path]:
            raise AdapterMismatch(
                f"{name} does not fit this base: {target.path} maps {features[target.path][0]} to "
                f"{features[target.path][1]} features here, {own[0]} to {own[1]} in the adapter. "
                "Serve the base that it was trained on."
            )
