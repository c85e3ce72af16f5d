"""The commands ``chain import`` and ``chain export``: adapters from and for elsewhere."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

from server.admin_client import AdminClient, AdminError, Unreachable
from server.arguments import UsageError
from server.screen import Screen, shown
from server.stage_cli import common, finite, put_json

FORMATS = ("mlx-lm", "npz", "peft")
NOTES = "x-chainlora-notes"

_CONFIG = "adapter_config.json"
_WEIGHTS = ("adapters.safetensors", "adapter_model.safetensors")
_PICKLE = "adapter_model.bin"
_PIECE = 1 << 18


def bring_in(arguments: list[str], screen: Screen) -> int:
    """Send an adapter to the server, which checks it and begins a chain with it."""
    parser = common(
        "chain import",
        "Start a chain from an adapter: an .npz of mlx-examples' lora.py, or a directory of mlx-lm "
        "or PEFT. Everything is checked against the base before anything is stored.",
    )
    parser.add_argument("chain", help="the new chain's name")
    parser.add_argument("path", type=Path, help="the .npz file or the directory")
    parser.add_argument(
        "--scale",
        type=finite,
        help="npz only, which does not hold it: what lora.py multiplied by; 20 since 2024-01-09, "
        "2.0 before; default: 20",
    )
    parser.add_argument(
        "--num-layers",
        type=int,
        metavar="N",
        help="npz and PEFT: blocks that the chain adapts, from the last one up (lora.py's "
        "--lora-layers, 16 there), -1 for all; default: from the first that the file has",
    )
    options = parser.parse_args(arguments)
    fields = {"scale": options.scale, "num_layers": options.num_layers}
    stage = AdminClient(options.url, timeout_s=600).send_form(
        "chains",
        options.chain,
        "import",
        files=_files(options.path),
        fields={name: value for name, value in fields.items() if value is not None},
    )
    if options.json:
        put_json(screen, stage)
        return 0
    lora = stage["lora"]
    screen.line(
        f"{shown(stage['model'])} is imported: rank {lora['rank']}, scale {lora['scale']:g}"
    )
    for warning in stage["record"].get("warnings", ()):
        screen.line(f"note: {shown(warning)}")
    return 0


def export(arguments: list[str], screen: Screen) -> int:
    """Write a revision as the new file or directory OUT, whole or not at all."""
    parser = common(
        "chain export",
        "Write a revision as an .npz of mlx-examples, or as a directory of mlx-lm or PEFT.",
    )
    parser.add_argument("chain", help="the chain's name")
    parser.add_argument("out", type=Path, help="the file or directory to make; never written over")
    parser.add_argument("--format", required=True, choices=FORMATS, help="what to write")
    parser.add_argument("--revision", help="stage number, revision id or label; default: the head")
    parser.add_argument(
        "--fold-scale",
        type=finite,
        metavar="S",
        help="npz only, which holds no scale: multiply B so that the file works with the scale S",
    )
    parser.add_argument(
        "--base-model", metavar="NAME", help="PEFT only: its base_model_name_or_path"
    )
    options = parser.parse_args(arguments)
    out: Path = options.out
    if options.format == "npz" and out.suffix != ".npz":
        raise UsageError(f"{out}: MLX loads only names that end in .npz; give one")
    if os.path.lexists(out):
        raise AdminError(f"{out} is there already; give another name.")
    query = {
        "format": options.format,
        "revision": options.revision,
        "fold_scale": options.fold_scale,
        "base_model": options.base_model,
    }
    client = AdminClient(options.url, timeout_s=600)
    try:
        notes = _fetch(client, options.chain, query, out)
    except OSError as error:
        raise AdminError(f"Cannot write {out}: {error.strerror or error}.") from None
    if options.json:
        put_json(screen, {"object": "export", "path": str(out), "notes": notes})
        return 0
    screen.line(f"wrote {shown(str(out))}")
    for note in notes:
        screen.line(f"note: {shown(note)}")
    return 0


def _files(path: Path) -> dict[str, Path]:
    """The parts of the form: the weights, and the configuration that belongs to them."""
    if not path.is_dir():
        return {"file": path}
    found = [path / name for name in _WEIGHTS if (path / name).exists()]
    if len(found) > 1:
        raise AdminError(f"{path} has {' and '.join(_WEIGHTS)}; leave the one that you mean.")
    if not found and (path / _PICKLE).exists():
        raise AdminError(
            f"{path / _PICKLE} is a Python pickle, which can run code and is never opened. Save "
            "the adapter with safe_serialization=True."
        )
    if not found:
        raise AdminError(f"{path} has neither {' nor '.join(_WEIGHTS)}; give an adapter.")
    return {"file": found[0], "config": path / _CONFIG}


def _fetch(client: AdminClient, chain: str, query: dict[str, object], out: Path) -> list[str]:
    """Receive beside ``out``, and put it there in one step that fails where something is."""
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
        received = Path(folder) / "received"
        with client.download("chains", chain, "export", query=query) as response:
            notes = notes_of(response.headers.get(NOTES, "[]"))
            save(response, received)
        if query["format"] == "npz":
            os.link(received, out)
            return notes
        unpacked = Path(folder) / "unpacked"
        unpacked.mkdir()
        _unpack(received, unpacked)
        # An empty directory that appeared meanwhile is no loss; a full one is an error.
        unpacked.rename(out)
    return notes


def save(response: http.client.HTTPResponse, file: Path) -> None:
    """Write the answer's bytes to ``file``, durably; raises Unreachable where it breaks off."""
    expected = response.length
    with file.open("wb") as sink:
        while piece := response.read(_PIECE):
            sink.write(piece)
        sink.flush()
        os.fsync(sink.fileno())
    if expected is not None and file.stat().st_size != expected:
        raise Unreachable("The answer broke off; nothing is written. Try again.")


def _unpack(received: Path, folder: Path) -> None:
    """The two files of an adapter and no others, whatever the archive says."""
    try:
        with zipfile.ZipFile(received) as archive:
            for name in archive.namelist():
                if name not in (_CONFIG, *_WEIGHTS):
                    raise AdminError(f"The server's archive holds {name!r}; nothing is written.")
                with archive.open(name) as source, (folder / name).open("wb") as sink:
                    shutil.copyfileobj(source, sink, _PIECE)
    except zipfile.BadZipFile as error:
        raise AdminError(f"The server's answer is no archive ({error}).") from None


def notes_of(header: str) -> list[str]:
    """What the header ``x-chainlora-notes`` says; nothing where it is no such list."""
    try:
        notes = json.loads(header)
    except ValueError:
        return []
    return [str(note) for note in notes] if isinstance(notes, list) else []
