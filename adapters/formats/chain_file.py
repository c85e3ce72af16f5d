"""``.chain``: a whole chain as one file, its lineage and its revisions, with or without its data.

A zip in the form of ``stored_zip`` that begins with ``manifest.json``: the base, the chain, its
stages with all that is recorded of them, and name, size and SHA-256 of every other member. Those
are, for each revision that is there, the three files of its directory as they lie in the store
(``revisions/ID/…``), then ``datasets/SHA256.jsonl``. The same chain is the same file.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from adapters.errors import AdapterFileError
from adapters.formats.chain_manifest import (
    MANIFEST,
    MOST_MANIFEST_BYTES,
    Content,
    dataset_name,
    dumped,
    parsed,
    refusal,
)
from adapters.formats.files import sync
from adapters.formats.stored_zip import (
    Digest,
    Member,
    NotSound,
    Reader,
    digest_of,
    directory_of,
    header_of,
    pieces_of,
)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where what goes into a chain file lies: a revision's directory, a data set's file."""

    revision: Callable[[str], Path]
    dataset: Callable[[str], Path]

    def file(self, name: str) -> Path:
        """The file of a member."""
        kind, _, rest = name.partition("/")
        if kind == "datasets":
            return self.dataset(rest.removesuffix(".jsonl"))
        revision, _, file = rest.partition("/")
        return self.revision(revision) / file


def write_chain_file(path: Path, content: Content, sources: Sources) -> None:
    """Write a chain as the new file ``path``, durable, piece by piece, whole or not at all.

    Raises FileExistsError where ``path`` is there, AdapterFileError where a data set is not what
    its id says, a file changes meanwhile, or the lineage is too long for a manifest. Whether the
    revisions are what their ids say is the caller's to have looked at.
    """
    files = {name: sources.file(name) for name in content.names()}
    digests = {name: _digest(file) for name, file in files.items()}
    for dataset in content.datasets:
        name = dataset_name(dataset.id)
        if digests[name].sha256 != dataset.id:
            raise AdapterFileError(
                f"{files[name]} is not what was stored under that name: the disk may be failing. "
                "Restore it from a backup, or pack without data."
            )
    manifest = dumped(content, digests)
    with path.open("xb") as sink:
        try:
            members = [_begin(sink, MANIFEST, digest_of((manifest,)))]
            sink.write(manifest)
            for name, digest in digests.items():
                members.append(_begin(sink, name, digest))
                if _digest(files[name], sink) != digest:
                    raise AdapterFileError(f"{files[name]} changed meanwhile; pack it again.")
            sink.write(directory_of(members))
            sink.flush()
            sync(path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


class ChainFile:
    """A chain file that is being read: first ``content``, then ``unpack``, once.

    A context that closes the file. Nothing in it is believed before it was compared: names, sizes
    and order of the members follow from the lineage, and every byte of the file has its place.
    """

    def __init__(self, path: Path) -> None:
        """Read and check the manifest; raises AdapterFileError with what is wrong and where."""
        self._path = path
        with ExitStack() as opened:
            self._reader = Reader(opened.enter_context(path.open("rb")))
            try:
                raw = self._reader.first(MANIFEST, MOST_MANIFEST_BYTES)
            except NotSound as error:
                raise refusal(path, str(error)) from None
            self.content, self._members = parsed(path, raw)
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def unpack(self, folder: Path) -> None:
        """Write every member to its name under ``folder``, durably, each hash and size verified.

        Raises AdapterFileError, also where anything follows the last one.
        """
        try:
            for member in self._members:
                file = folder / member.name
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("xb") as sink:
                    digest = self._reader.take(member.name, member.size, sink)
                if digest.sha256 != member.sha256:
                    raise NotSound(f"{member.name} has another SHA-256 than the manifest says")
                sync(file)
            self._reader.finish()
        except NotSound as error:
            raise refusal(self._path, str(error)) from None


def _digest(file: Path, sink: BinaryIO | None = None) -> Digest:
    with file.open("rb") as stream:
        return digest_of(pieces_of(stream), sink)


def _begin(sink: BinaryIO, name: str, digest: Digest) -> Member:
    member = Member(name, digest.size, digest.crc)
    sink.write(header_of(member))
    return member
