"""The command ``chain``: lineage, heads, labels and what may go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from server.admin_client import AdminClient, Json
from server.archive_cli import open_file, pack
from server.arguments import UsageError
from server.eject_cli import eject, fuse_chain
from server.screen import Screen, moment, shown, table
from server.stage_cli import common, dispatch, put_json, stage_table
from server.transfer_cli import bring_in, export

USAGE = """\
usage: chainlora chain COMMAND [options]

commands:
  list      every chain and its head
  show      a chain and all its stages
  rollback  move the head to another revision
  fork      start a new chain from a revision
  label     name a revision, or take the name away
  prune     delete all but the newest revisions
  delete    delete a chain, or one revision
  fuse      write a model with a revision merged into it
  eject     write a revision for mlx-lm, with the commands that use it
  import    start a chain from an adapter of mlx-examples, mlx-lm or PEFT
  export    write a revision as one of them
  pack      write a whole chain as one file, its data too if you like
  open      open such a file: the same chain on another machine

A REVISION is a stage number, a revision id or a label.
'chainlora chain COMMAND --help' lists a command's options.
"""


def run(arguments: Sequence[str], screen: Screen) -> int:
    """One ``chain`` command; its exit code. Raises UsageError and AdminError."""
    commands: Mapping[str, Callable[[list[str], Screen], int]] = {
        "list": _list,
        "show": _show,
        "rollback": _rollback,
        "fork": _fork,
        "label": _label,
        "prune": _prune,
        "delete": _delete,
        "fuse": fuse_chain,
        "eject": eject,
        "import": bring_in,
        "export": export,
        "pack": pack,
        "open": open_file,
    }
    return dispatch("chain", USAGE, commands, arguments, screen)


def _list(arguments: list[str], screen: Screen) -> int:
    options = common("chain list", "Every chain and its head.").parse_args(arguments)
    client = AdminClient(options.url)
    chains: list[Json] = []
    more = True
    while more:
        after = chains[-1]["id"] if chains else None
        page = client.get("chains", query={"limit": 100, "after": after})
        chains += page["data"]
        more = page["has_more"] and bool(page["data"])
    if options.json:
        put_json(screen, {"object": "list", "data": chains, "has_more": False})
        return 0
    rows: list[Sequence[object]] = [("MODEL", "HEAD", "LABELS", "CREATED")]
    for chain in chains:
        head = None if chain["head"] is None else f"stage {chain['head']}"
        head = f"{head}, unavailable" if chain["unavailable"] else head
        rows.append((chain["model"], head, _labels(chain), moment(chain["created_at"])))
    screen.write(table(rows))
    return 0


def _labels(chain: Json) -> str:
    return ", ".join(f"{label} = {number}" for label, number in sorted(chain["labels"].items()))


def _show(arguments: list[str], screen: Screen) -> int:
    parser = common("chain show", "A chain and all its stages.")
    parser.add_argument("chain", help="the chain's name")
    options = parser.parse_args(arguments)
    chain = AdminClient(options.url).get("chains", options.chain)
    if options.json:
        put_json(screen, chain)
        return 0
    _put_chain(screen, chain)
    screen.write(stage_table(chain["stages"]))
    return 0


def _put_chain(screen: Screen, chain: Json) -> None:
    head = "has no revision yet" if chain["head"] is None else f"is stage {chain['head']}"
    labels = _labels(chain)
    screen.line(f"{shown(chain['model'])} {head}" + (f"; {labels}" if labels else ""))
    if chain["unavailable"]:
        screen.line(f"its head cannot be served: {shown(chain['unavailable'], most=4000)}")


def _rollback(arguments: list[str], screen: Screen) -> int:
    parser = common("chain rollback", "Move a chain's head; requests in flight keep theirs.")
    parser.add_argument("chain", help="the chain's name")
    parser.add_argument("revision", help="stage number, revision id or label")
    options = parser.parse_args(arguments)
    body = {"revision": options.revision}
    chain = AdminClient(options.url).post("chains", options.chain, "rollback", body=body)
    return _moved(screen, chain, options.json)


def _fork(arguments: list[str], screen: Screen) -> int:
    parser = common("chain fork", "Start a new chain from a revision of another.")
    parser.add_argument("chain", help="the chain that has the revision")
    parser.add_argument("name", help="the new chain's name")
    parser.add_argument("--revision", help="stage number, revision id or label; default: the head")
    options = parser.parse_args(arguments)
    body = {"name": options.name}
    body |= {} if options.revision is None else {"revision": options.revision}
    chain = AdminClient(options.url).post("chains", options.chain, "fork", body=body)
    return _moved(screen, chain, options.json)


def _label(arguments: list[str], screen: Screen) -> int:
    parser = common("chain label", "Name a revision: BASE:CHAIN@LABEL then works as a model.")
    parser.add_argument("chain", help="the chain's name")
    parser.add_argument("label", help="the label")
    parser.add_argument("revision", nargs="?", help="stage number, revision id or another label")
    parser.add_argument("--remove", action="store_true", help="take the label away")
    options = parser.parse_args(arguments)
    if (options.revision is None) != options.remove:
        raise UsageError("give a revision or --remove, one of them")
    client, path = AdminClient(options.url), ("chains", options.chain, "labels", options.label)
    if options.remove:
        return _moved(screen, client.delete(*path), options.json)
    return _moved(screen, client.put(*path, body={"revision": options.revision}), options.json)


def _moved(screen: Screen, chain: Json, as_json: bool) -> int:
    put_json(screen, chain) if as_json else _put_chain(screen, chain)
    return 0


def _prune(arguments: list[str], screen: Screen) -> int:
    parser = common("chain prune", "Delete all but the newest revisions and protected ones.")
    parser.add_argument("chain", help="the chain's name")
    parser.add_argument(
        "--keep-last", type=int, required=True, metavar="N", help="the newest N revisions stay"
    )
    options = parser.parse_args(arguments)
    body = {"keep_last": options.keep_last}
    gone = AdminClient(options.url).post("chains", options.chain, "prune", body=body)
    if options.json:
        put_json(screen, gone)
        return 0
    for row in gone["data"]:
        screen.line(f"deleted {row['id']}")
    screen.line(f"{len(gone['data'])} deleted; the lineage keeps their records")
    return 0


def _delete(arguments: list[str], screen: Screen) -> int:
    parser = common("chain delete", "Delete a chain's revisions and its name, or one revision.")
    parser.add_argument("chain", help="the chain's name")
    parser.add_argument("revision", nargs="?", help="only this one; the chain stays")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    options = parser.parse_args(arguments)
    path = ["chains", options.chain]
    path += [] if options.revision is None else ["revisions", options.revision]
    what = f"chain {options.chain}"
    what = what if options.revision is None else f"revision {options.revision} of {what}"
    if not options.yes and not _confirmed(screen, what, as_json=options.json):
        screen.line("nothing is deleted")
        return 1
    row = AdminClient(options.url).delete(*path)
    put_json(screen, row) if options.json else screen.line(f"deleted {shown(row['id'])}")
    return 0


def _confirmed(screen: Screen, what: str, *, as_json: bool) -> bool:
    if as_json or not screen.is_terminal:
        raise UsageError(f"--yes deletes {what}; nobody is there to be asked")
    try:
        answer = screen.ask(f"Delete {what}? Its files cannot be brought back. [y/N] ")
    except EOFError:
        return False
    return answer.strip().lower() in ("y", "yes")
