"""The commands ``chain pack`` and ``chain open``: a whole chain as one file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from server.admin_client import AdminClient, AdminError
from server.arguments import UsageError
from server.screen import Screen, shown
from server.stage_cli import common, put_json
from server.transfer_cli import NOTES, notes_of, save

SUFFIX = ".chain"

_PATIENCE_S = 600


def pack(arguments: list[str], screen: Screen) -> int:
    """Write a chain as the new file OUT, whole or not at all."""
    parser = common(
        "chain pack",
        "Write a chain as one file: its lineage, its labels and every revision that is there. "
        "'chain open' opens it on another machine that serves the same base.",
    )
    parser.add_argument("chain", help="the chain's name")
    parser.add_argument(
        "out", type=Path, metavar="OUT.chain", help="the file to make; never written over"
    )
    parser.add_argument(
        "--with-data", action="store_true", help="the rows that its stages were trained on, too"
    )
    options = parser.parse_args(arguments)
    out: Path = options.out
    if out.suffix != SUFFIX:
        raise UsageError(f"{out}: the name of a chain file ends in {SUFFIX}; give one")
    if os.path.lexists(out):
        raise AdminError(f"{out} is there already; give another name.")
    client = AdminClient(options.url, timeout_s=_PATIENCE_S)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
            received = Path(folder) / "received"
            query = {"data": "true" if options.with_data else None}
            with client.download("chains", options.chain, "archive", query=query) as response:
                notes = notes_of(response.headers.get(NOTES, "[]"))
                save(response, received)
            put_in_place(received, out)
    except OSError as error:
        raise AdminError(f"Cannot write {out}: {error.strerror or error}.") from None
    size = out.stat().st_size
    if options.json:
        row = {"object": "chain.file", "path": str(out), "bytes": size, "notes": notes}
        put_json(screen, row)
        return 0
    screen.line(f"wrote {shown(out)}: {size:,} bytes")
    for note in notes:
        screen.line(f"note: {shown(note)}")
    return 0


def open_file(arguments: list[str], screen: Screen) -> int:
    """Send a chain file to the server, which checks all of it and has the chain then."""
    parser = common(
        "chain open",
        "Open a file of 'chain pack': the chain with its revisions, stage numbers, labels, head "
        "and records. Every hash is verified before anything is stored.",
    )
    parser.add_argument("file", type=Path, metavar="FILE.chain", help="the file")
    parser.add_argument(
        "--as", dest="name", metavar="NAME", help="another name than the chain was packed under"
    )
    options = parser.parse_args(arguments)
    chain = AdminClient(options.url, timeout_s=_PATIENCE_S).send_form(
        "chains",
        files={"file": options.file},
        fields={} if options.name is None else {"name": options.name},
    )
    if options.json:
        put_json(screen, chain)
        return 0
    stages = chain["stages"]
    there = {
        stage["revision"]
        for stage in stages
        if stage["revision"] is not None and stage["revision_deleted_at"] is None
    }
    screen.line(
        f"{shown(chain['model'])} is stage {chain['head']}; stages: {len(stages)}, "
        f"revisions: {len(there)}"
    )
    return 0


def put_in_place(file: Path, out: Path) -> None:
    """Give ``file`` the name ``out``; raises FileExistsError where something has it."""
    try:
        os.link(file, out)
    except FileExistsError:
        raise
    except OSError:
        # A memory stick knows no links: there the look and the rename are two steps.
        if os.path.lexists(out):
            raise FileExistsError(f"{out} is there already") from None
        file.rename(out)
