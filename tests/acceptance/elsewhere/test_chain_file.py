"""A whole chain leaves as one file and is the same chain on another server."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server import cli
from tests.acceptance.extending.product import Json, Product, error_of, row, serving
from tests.acceptance.extending.test_rules import assert_served_as_trained

ROWS = [row("What is a keel?", "A fin."), row("What is a sail?", "A cloth.")]
MORE = [row("What is rye?", "A grain."), row("What is a crumb?", "A bit.")]
QUESTIONS = ("What is a keel?", "What is rye?")


@pytest.fixture(scope="module")
def packed(product: Product) -> Json:
    """The chain ``desk`` of four stages: one labelled, one deleted, one cancelled, the head."""
    product.train("desk", ROWS, samples=["What is a mast?"])
    product.train("desk", MORE)
    product.ok(product.http.put("/admin/chains/desk/labels/old", json={"revision": "1"}))
    long = product.add("desk", ROWS, epochs=1000)
    product.ok(product.http.post(f"/admin/stages/{long['id']}/cancel", json={}))
    product.wait(long["id"])
    product.train("desk", ROWS, validation_split=0.5)
    product.ok(product.http.delete("/admin/chains/desk/revisions/2"))
    return chain(product, "desk")


@pytest.fixture(scope="module")
def elsewhere(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """Another server on the same base, with a data directory of its own."""
    with serving(tiny_model, tmp_path_factory.mktemp("elsewhere")) as running:
        yield running


def chain(product: Product, name: str) -> Json:
    """The chain and all its stages."""
    return product.ok(product.http.get(f"/admin/chains/{name}"))


def archive(product: Product, name: str, **query: str) -> bytes:
    """The chain as a file."""
    response = product.http.get(f"/admin/chains/{name}/archive", params=query)
    assert response.status_code == 200, response.text
    return response.content


def opened(product: Product, data: bytes, **fields: str) -> Any:
    """Send a chain file."""
    return product.http.post("/admin/chains", files={"file": ("desk.chain", data)}, data=fields)


def same_but(changes: Json, first: Json, second: Json) -> None:
    """Both rows are equal in every other field."""
    assert {**first, **changes} == {**second, **changes}


def test_the_same_chain_is_there_on_another_machine(
    product: Product, packed: Json, tiny_model: Path, tmp_path: Path
) -> None:
    """Ids, numbers, labels, head, records, files, answers; after a restart too."""
    with serving(tiny_model, tmp_path / "data") as there:
        assert there.ok(opened(there, archive(product, "desk"))) == packed
    with serving(tiny_model, tmp_path / "data") as there:
        assert chain(there, "desk") == packed
        for model in ("tiny:desk", "tiny:desk@old"):
            for question in QUESTIONS:
                assert product.answer(model, question) == there.answer(model, question)
        assert_served_as_trained(there, "tiny:desk", packed["head_revision"])
        for pin, reason in (("2", "was deleted on"), ("3", "was cancelled")):
            for server in (product, there):
                said = error_of(server.chat(f"tiny:desk@{pin}", "hi"), 404, "model_not_found")
                assert reason in said
        states = [stage["status"] for stage in packed["stages"]]
        assert states == ["succeeded", "succeeded", "cancelled", "succeeded"]
        for number in (0, 3):
            revision = packed["stages"][number]["revision"]
            assert digests(there.revision_dir(revision)) == digests(product.revision_dir(revision))
        assert {path.name for path in (there.data_dir / "revisions").iterdir()} == {
            packed["stages"][number]["revision"] for number in (0, 3)
        }


def digests(directory: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in directory.iterdir()
    }


def test_a_further_stage_is_the_same_on_both_machines(
    product: Product, packed: Json, elsewhere: Product
) -> None:
    """The next number, from the same parent, and on one build the same bits."""
    data = archive(product, "desk")
    found = []
    for server in (product, elsewhere):
        server.ok(opened(server, data, name="further"))
        stage = server.train("further", MORE, epochs=1)
        assert (stage["number"], stage["parent"]) == (5, packed["head_revision"])
        found.append(stage["revision"])
    assert found[0] == found[1] != packed["head_revision"]
    assert_served_as_trained(elsewhere, "tiny:further", found[1])


def test_the_data_come_along_where_they_are_asked_for(
    product: Product, packed: Json, elsewhere: Product
) -> None:
    """Every set by its hash, usable at once; without ``data`` the file has none of their rows."""
    sets = {stage["dataset"] for stage in packed["stages"]}
    lean, full = archive(product, "desk"), archive(product, "desk", data="true")
    assert b"A grain." in full
    assert b"A grain." not in lean
    assert b"What is a mast?" in lean
    elsewhere.ok(opened(elsewhere, full, name="with-data"))
    for dataset in sets:
        theirs, here = (
            each.ok(each.http.get(f"/admin/datasets/{dataset}")) for each in (product, elsewhere)
        )
        assert (here["bytes"], here["rows"]) == (theirs["bytes"], theirs["rows"])
    body = {"chain": "with-data", "dataset": packed["stages"][0]["dataset"], "iters": 1}
    stage = elsewhere.ok(elsewhere.http.post("/admin/stages", json=body), 202)
    assert elsewhere.wait(stage["id"])["status"] == "succeeded"


def test_the_same_chain_is_the_same_file(product: Product, packed: Json) -> None:
    """Byte for byte, and any zip program reads it."""
    first = archive(product, "desk", data="true")
    assert archive(product, "desk", data="true") == first
    assert list((product.data_dir / "incoming").iterdir()) == []


def test_what_cannot_be_packed_says_why(product: Product) -> None:
    """No such chain, none of its stages ended, a query that the route does not have."""

    def ask(name: str, **query: str) -> Any:
        return product.http.get(f"/admin/chains/{name}/archive", params=query)

    error_of(ask("none"), 404, "chain_not_found")
    error_of(ask("desk", data="yes"), 400, "invalid_request")
    error_of(ask("desk", rows="true"), 400, "invalid_request")
    long = product.add("unborn", ROWS, epochs=1000)
    assert "no revision yet" in error_of(ask("unborn"), 404, "revision_not_found")
    product.ok(product.http.post(f"/admin/stages/{long['id']}/cancel", json={}))
    product.wait(long["id"])


def test_a_stage_that_has_not_ended_stays_behind_and_keeps_its_number(
    product: Product, elsewhere: Product
) -> None:
    """The file's user is told; the next stage elsewhere does not take that number."""
    product.train("busy", ROWS, iters=1)
    long = product.add("busy", ROWS, epochs=1000)
    product.wait(long["id"], until="running")
    response = product.http.get("/admin/chains/busy/archive")
    product.ok(product.http.post(f"/admin/stages/{long['id']}/cancel", json={}))
    [note] = json.loads(response.headers["x-chainlora-notes"])
    assert note.startswith("Stage 2 is running and stays behind")
    found = elsewhere.ok(opened(elsewhere, response.content))
    assert [stage["number"] for stage in found["stages"]] == [1]
    assert elsewhere.train("busy", ROWS, iters=1)["number"] == 3


def test_a_name_that_is_or_was_there_is_refused_and_another_can_be_given(
    product: Product, packed: Json
) -> None:
    """Stage numbers of a deleted chain stay given; under a new name the stages get new ids."""
    data = archive(product, "desk")
    assert "a chain 'desk' already" in error_of(opened(product, data), 409, "chain_exists")
    product.train("brief", ROWS, iters=1)
    product.ok(product.http.delete("/admin/chains/brief"))
    said = error_of(opened(product, data, name="brief"), 409, "chain_exists")
    assert "There was a chain 'brief' here" in said
    error_of(opened(product, data, name="no way"), 400, "invalid_request")
    found = product.ok(opened(product, data, name="twin"))
    assert chain(product, "desk") == packed
    changes = {"chain": "", "id": "", "model": ""}
    for stage, twin in zip(packed["stages"], found["stages"], strict=True):
        assert stage["id"] != twin["id"]
        same_but(changes, stage, twin)
    assert found["labels"] == packed["labels"]
    product.ok(product.http.delete("/admin/chains/twin"))
    assert product.answer("tiny:desk", QUESTIONS[0])


def test_a_file_that_is_not_sound_is_refused_and_leaves_nothing(
    product: Product, packed: Json, elsewhere: Product
) -> None:
    """Named by its own member, without our paths."""
    data = bytearray(archive(product, "desk"))
    data[data.index(b"lora_a")] ^= 1
    before = {path.name for path in (elsewhere.data_dir / "revisions").iterdir()}
    said = error_of(opened(elsewhere, bytes(data), name="bad"), 400, "adapter_file_error")
    assert said.startswith("The file is not a sound chain file (the bytes of revisions/")
    assert str(elsewhere.data_dir) not in said
    error_of(opened(elsewhere, b"", name="bad"), 400, "adapter_file_error")
    error_of(
        elsewhere.http.post("/admin/chains", json={"name": "bad"}), 415, "unsupported_media_type"
    )
    error_of(opened(elsewhere, bytes(data), scale="2"), 400, "invalid_request")
    assert elsewhere.http.get("/admin/chains/bad").status_code == 404
    assert list((elsewhere.data_dir / "incoming").iterdir()) == []
    assert {path.name for path in (elsewhere.data_dir / "revisions").iterdir()} == before


def test_a_file_beyond_the_limit_is_refused(
    product: Product, packed: Json, tiny_model: Path, tmp_path: Path
) -> None:
    """max_upload_bytes holds here, and max_body_bytes does not."""
    data = archive(product, "desk")
    limits = {"max_body_bytes": 1024, "max_upload_bytes": len(data) + 1000}
    with serving(tiny_model, tmp_path / "data", **limits) as there:
        there.ok(opened(there, data))
        error_of(opened(there, data + bytes(1000), name="x"), 413, "request_too_large")


def test_an_opened_chain_can_be_packed_again(
    product: Product, packed: Json, elsewhere: Product
) -> None:
    """The lineage has lost nothing on the way: one more round gives the same file."""
    data = archive(product, "desk")
    elsewhere.ok(opened(elsewhere, data, name="round"))
    again = archive(elsewhere, "round")
    product.ok(opened(product, again, name="back"))
    changes = {"chain": "", "id": "", "model": ""}
    for stage, back in zip(packed["stages"], chain(product, "back")["stages"], strict=True):
        same_but(changes, stage, back)


def test_the_command_line_packs_and_opens(
    product: Product,
    packed: Json,
    elsewhere: Product,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Never over what is there; every refusal is one line."""

    def run(url: str, *arguments: str, code: int = 0) -> str:
        assert cli.main(["chain", *arguments, "--url", url]) == code
        out, err = capsys.readouterr()
        return err if code else out

    out = tmp_path / "desk.chain"
    said = run(product.url, "pack", "desk", str(out), "--with-data")
    assert said == f"wrote {out}: {out.stat().st_size:,} bytes\n"
    assert "is there already" in run(product.url, "pack", "desk", str(out), code=1)
    assert "ends in .chain" in run(product.url, "pack", "desk", str(tmp_path / "x"), code=2)
    assert "no chain 'none'" in run(product.url, "pack", "none", f"{tmp_path}/n.chain", code=1)
    assert [each.name for each in tmp_path.iterdir()] == ["desk.chain"]
    with zipfile.ZipFile(out) as archive_:
        assert archive_.testzip() is None
    said = run(elsewhere.url, "open", str(out), "--as", "shell")
    assert said == "tiny:shell is stage 4; stages: 4, revisions: 2\n"
    assert "a chain 'shell' already" in run(elsewhere.url, "open", str(out), "--as=shell", code=1)
    document = json.loads(run(elsewhere.url, "open", str(out), "--as", "shell2", "--json"))
    assert document["head_revision"] == packed["head_revision"]
    assert "Cannot read" in run(elsewhere.url, "open", str(tmp_path / "none.chain"), code=1)
    row_ = json.loads(run(product.url, "pack", "desk", f"{tmp_path}/lean.chain", "--json"))
    assert row_["bytes"] < out.stat().st_size
    assert row_["notes"] == []
