"""``manifest.json`` of a chain file: what it tells, and the members that follow from that."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapters.chain_record import LATEST, ChainRecord
from adapters.errors import AdapterFileError
from adapters.formats.mlx_lm import CONFIG, WEIGHTS
from adapters.formats.stored_zip import Digest
from adapters.lineage import Dataset, Stage
from adapters.strict_json import BadJson, parse_object

FORMAT = "chainlora chain 1"
MANIFEST = "manifest.json"
MOST_MANIFEST_BYTES = 16 << 20

_FORMATS = FORMAT.rstrip("0123456789")
_MOST_BYTES = 1 << 50
_OF_ITS_STORE = ("fence", "unavailable")
"""Fields of a stage that mean something to one data directory alone."""
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_LATER = "A later version of chainlora may have packed it: open it with that."


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class BaseWords(_Part):
    """Which base a chain belongs to: ``fingerprint`` decides, the rest is for people."""

    fingerprint: str
    model_type: str | None = Field(default=None, max_length=64)
    blocks: int | None = Field(default=None, ge=0, lt=1 << 31)
    hidden_size: int | None = Field(default=None, ge=0, lt=1 << 31)

    def __str__(self) -> str:
        words = (
            self.model_type,
            None if self.blocks is None else f"{self.blocks} blocks",
            None if self.hidden_size is None else f"hidden size {self.hidden_size}",
            f"fingerprint {self.fingerprint[:12]}",
        )
        return ", ".join(word for word in words if word is not None)


@dataclass(frozen=True, slots=True)
class Content:
    """What a chain file holds. ``datasets`` are those whose rows are in it."""

    base: BaseWords
    record: ChainRecord
    datasets: tuple[Dataset, ...]

    def names(self) -> Iterator[str]:
        """The members behind the manifest, in their order."""
        for revision in self.record.revisions:
            for file in (WEIGHTS, CONFIG, MANIFEST):
                yield f"{revision_name(revision)}/{file}"
        for dataset in self.datasets:
            yield dataset_name(dataset.id)


class MemberRow(_Part):
    """What the manifest says of a member."""

    name: str
    size: int = Field(ge=0, lt=_MOST_BYTES)
    sha256: str


class _Chain(_Part):
    name: str
    created_at: float
    head: int
    first_number: int
    last_number: int
    labels: dict[str, int]


class _Dataset(_Part):
    id: str
    nbytes: int
    rows: int = Field(ge=0, lt=1 << 53)
    created_at: float = Field(ge=0, le=LATEST)
    name: str | None = Field(max_length=255)


class _Manifest(_Part):
    format: str
    base: BaseWords
    chain: _Chain
    stages: list[Stage]
    datasets: list[_Dataset]
    members: list[MemberRow]


def revision_name(revision: str) -> str:
    """The folder of a revision's members."""
    return f"revisions/{revision}"


def dataset_name(dataset: str) -> str:
    """The member that holds a data set's rows."""
    return f"datasets/{dataset}.jsonl"


def dumped(content: Content, digests: Mapping[str, Digest]) -> bytes:
    """The manifest of ``content``, whose members have these digests by their names.

    Raises AdapterFileError where the lineage is too long for one.
    """
    record = content.record
    chain = _Chain(
        name=record.name,
        created_at=record.created_at,
        head=record.head,
        first_number=record.first_number,
        last_number=record.last_number,
        labels=dict(sorted(record.labels.items())),
    )
    plain = {
        "format": FORMAT,
        "base": content.base.model_dump(),
        "chain": chain.model_dump(),
        "stages": [_lasting(stage) for stage in record.stages],
        "datasets": [asdict(each) for each in content.datasets],
        "members": [
            {"name": name, "size": each.size, "sha256": each.sha256}
            for name, each in digests.items()
        ],
    }
    raw = json.dumps(plain, indent=1, allow_nan=False).encode() + b"\n"
    if len(raw) > MOST_MANIFEST_BYTES:
        raise AdapterFileError(
            f"The lineage of {record.name!r} takes {len(raw)} bytes, and a chain file has room for "
            f"{MOST_MANIFEST_BYTES}. Fork the chain, and pack the fork."
        )
    return raw


def parsed(path: Path, raw: bytes) -> tuple[Content, Sequence[MemberRow]]:
    """What the manifest of the chain file ``path`` tells, all of it checked, and its members.

    Raises AdapterFileError with the first thing that is wrong.
    """
    try:
        plain = parse_object(raw)
    except BadJson as error:
        raise refusal(path, f"its {MANIFEST} {error}") from None
    found = plain.get("format")
    if found != FORMAT:
        later = isinstance(found, str) and found.startswith(_FORMATS)
        why = f"its format is {str(found)[:64]!a}, this version reads {FORMAT!r}"
        raise refusal(path, why, _LATER if later else None)
    try:
        manifest = _Manifest.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))[:128]
        cure = _LATER if first["type"] in _UNKNOWN else None
        raise refusal(path, f"its {MANIFEST}: {where}: {first['msg']}", cure) from None
    for stage in plain["stages"]:
        if own := [name for name in _OF_ITS_STORE if name in stage]:
            raise refusal(path, f"its {MANIFEST}: a stage cannot take {own[0]!r} along")
    content = _content(path, manifest)
    _check_members(path, content, manifest.members)
    return content, manifest.members


def refusal(path: Path, why: str, cure: str | None = None) -> AdapterFileError:
    """The error for a chain file that is not sound."""
    cure = cure or (
        "It was cut short, changed, or packed by another program: fetch it again from where it was "
        "packed."
    )
    return AdapterFileError(f"{path} is not a sound chain file ({why}). {cure}")


def _content(path: Path, manifest: _Manifest) -> Content:
    record = ChainRecord(
        base=manifest.base.fingerprint,
        stages=tuple(manifest.stages),
        **manifest.chain.model_dump(),
    )
    if fault := next(record.faults(), None):
        raise refusal(path, f"its {MANIFEST}: {fault}")
    datasets = tuple(Dataset(**each.model_dump()) for each in manifest.datasets)
    for each in datasets:
        if each.id not in record.datasets or not (each.name or "").isprintable():
            raise refusal(path, f"its {MANIFEST}: no stage has the data set {each.id[:64]!a}")
    return Content(manifest.base, record, datasets)


def _check_members(path: Path, content: Content, members: Sequence[MemberRow]) -> None:
    for member, name in zip_longest(members, content.names()):
        if member is None:
            raise refusal(path, f"{name} is missing")
        if member.name != name:
            raise refusal(path, f"a member is called {member.name[:128]!a}, not {name!a}")
    rows = {each.name: each for each in members}
    for dataset in content.datasets:
        member = rows[dataset_name(dataset.id)]
        if member.sha256 != dataset.id:
            raise refusal(path, f"{member.name} has another SHA-256 than its name")
        if member.size != dataset.nbytes:
            raise refusal(path, f"{member.name} has two sizes")


def _lasting(stage: Stage) -> dict[str, Any]:
    return {name: value for name, value in asdict(stage).items() if name not in _OF_ITS_STORE}
