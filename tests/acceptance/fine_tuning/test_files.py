"""Files: uploaded, checked, listed, read, and gone when they are to go."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types import FileObject

from tests.acceptance.extending.product import Product, serving
from tests.acceptance.fine_tuning.asking import BOATS, BREAD, added, jsonl, upload, waited
from tests.server.api.strict import strictly

TOOL = {
    "type": "function",
    "function": {"name": "tide", "parameters": {"type": "object", "properties": {}}},
}
CALL = {"id": "1", "type": "function", "function": {"name": "tide", "arguments": "{}"}}
FORMS: dict[str, dict[str, Any]] = {
    "chat": BOATS[0],
    "tools": {
        "messages": [
            {"role": "user", "content": "When is low tide?"},
            {"role": "assistant", "tool_calls": [CALL]},
        ],
        "tools": [TOOL],
    },
    "prompt": {"prompt": "What is a rudder?", "completion": "A blade."},
    "text": {"text": "The harbour lies at the end of the road."},
}


def refused(response: httpx.Response, status: int = 400) -> tuple[str, str | None, str]:
    """Code, param and message of an error."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    return error["code"], error["param"], error["message"]


@pytest.mark.parametrize("form", FORMS)
def test_a_file_of_each_form_is_processed_and_comes_back_byte_for_byte(
    sdk: OpenAI, product: Product, form: str
) -> None:
    """The object is the reference's, field by field."""
    data = jsonl([FORMS[form]])
    file = sdk.files.create(file=("rows.jsonl", io.BytesIO(data)), purpose="fine-tune")
    assert sdk.files.wait_for_processing(file.id, poll_interval=0.01).status == "processed"
    assert (file.bytes, file.filename, file.purpose) == (len(data), "rows.jsonl", "fine-tune")
    assert sdk.files.content(file.id).content == data
    row = product.ok(product.http.get(f"/v1/files/{file.id}"))
    strictly(FileObject, row)
    assert row["expires_at"] is None


def test_a_file_says_when_it_will_be_gone(sdk: OpenAI) -> None:
    """As long after its creation as was asked for."""
    file = sdk.files.create(
        file=("rows.jsonl", jsonl(BOATS)),
        purpose="fine-tune",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert file.expires_at == file.created_at + 3600
    assert sdk.files.retrieve(file.id).expires_at == file.expires_at


def test_every_bad_line_is_told_at_once_and_nothing_is_kept(sdk: OpenAI) -> None:
    """Preference rows are refused by name until there are stages that learn from them."""
    before = {file.id for file in sdk.files.list()}
    rows: list[Any] = [
        BOATS[0],
        {"messages": []},
        {"prompt": "no completion"},
        {"input": {"messages": []}, "preferred_completion": [], "non_preferred_completion": []},
    ]
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.files.create(file=("x.jsonl", jsonl(rows)), purpose="fine-tune")
    error: Any = caught.value.body
    assert (caught.value.code, caught.value.param) == ("data_error", "file")
    assert [fault["line"] for fault in error["lines"]] == [2, 3, 4]
    assert "preference" in error["lines"][2]["reason"]
    assert {file.id for file in sdk.files.list()} == before


def test_pages_follow_each_other_in_either_order(sdk: OpenAI) -> None:
    """Also while files are added: a page begins after the file that the last one ended with."""
    mine = [upload(sdk, [row], f"{number}.jsonl").id for number, row in enumerate([*BOATS, *BREAD])]
    page = sdk.files.list(limit=3, purpose="fine-tune")
    assert [file.id for file in page.data] == mine[:-4:-1]
    upload(sdk, BOATS)
    following = page.get_next_page()
    assert [file.id for file in following.data] == mine[-4:-7:-1]
    oldest_first = [file.id for file in sdk.files.list(order="asc", limit=2)]
    assert [each for each in oldest_first if each in mine] == mine


def test_a_list_has_the_purpose_that_was_asked_for(sdk: OpenAI, product: Product) -> None:
    """A purpose that the reference does not know is refused."""
    upload(sdk, BOATS)
    assert {file.purpose for file in sdk.files.list(purpose="fine-tune")} == {"fine-tune"}
    assert list(sdk.files.list(purpose="batch")) == []
    answer = product.http.get("/v1/files", params={"purpose": "none"})
    assert refused(answer)[:2] == ("invalid_request", "purpose")


def test_the_bytes_go_with_the_last_file_that_has_them(sdk: OpenAI, product: Product) -> None:
    """Two uploads of the same bytes are two files, and one copy on disk."""
    rows = [{"text": "twice"}]
    one, two = upload(sdk, rows), upload(sdk, rows)
    folder = product.data_dir / "datasets"
    before = set(folder.iterdir())
    assert sdk.files.delete(one.id).deleted
    assert sdk.files.content(two.id).content == jsonl(rows)
    sdk.files.delete(two.id)
    assert len(before - set(folder.iterdir())) == 1
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.files.retrieve(two.id)
    assert (caught.value.code, caught.value.param) == ("file_not_found", "file_id")


def test_a_file_that_an_unfinished_job_needs_stays(sdk: OpenAI, product: Product) -> None:
    """Until the job has ended."""
    file = upload(sdk, [{"text": f"needed {row}"} for row in range(20)])
    job = added(sdk, "needs", epochs=50, training_file=file.id)
    sdk.fine_tuning.jobs.pause(job.id)
    waited(product, sdk, job.id, until="paused")
    with pytest.raises(openai.ConflictError, match="unfinished stage"):
        sdk.files.delete(file.id)
    sdk.fine_tuning.jobs.cancel(job.id)
    waited(product, sdk, job.id)
    assert sdk.files.delete(file.id).deleted


def test_a_data_set_is_a_file_and_a_file_s_bytes_are_a_data_set(
    sdk: OpenAI, product: Product
) -> None:
    """Both views tell of the same bytes; the data set stays as long as a file has it."""
    data = jsonl([{"text": "either way"}])
    dataset = product.ok(product.http.post("/admin/datasets", files={"file": ("e.jsonl", data)}))
    seen = sdk.files.retrieve(f"file-{dataset['id']}")
    assert (seen.filename, seen.bytes, seen.status) == ("e.jsonl", len(data), "processed")
    assert seen.id in [file.id for file in sdk.files.list()]
    file = sdk.files.create(file=("f.jsonl", data), purpose="fine-tune")
    answer = product.http.delete(f"/admin/datasets/{dataset['id']}")
    assert file.id in refused(answer, 409)[2]
    sdk.files.delete(seen.id)
    assert product.ok(product.http.get(f"/admin/datasets/{dataset['id']}"))["rows"] == 1
    sdk.files.delete(file.id)
    assert product.http.get(f"/admin/datasets/{dataset['id']}").status_code == 404


@pytest.mark.parametrize(
    ("parts", "code", "param"),
    [
        ({"purpose": "batch"}, "unsupported_parameter", "purpose"),
        ({"purpose": "nonsense"}, "invalid_request", "purpose"),
        ({}, "invalid_request", "purpose"),
        (
            {"expires_after[anchor]": "now", "expires_after[seconds]": "3600"},
            "invalid_request",
            "expires_after[anchor]",
        ),
        (
            {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3599"},
            "invalid_request",
            "expires_after[seconds]",
        ),
        (
            {"expires_after[anchor]": "created_at", "expires_after[seconds]": "2592001"},
            "invalid_request",
            "expires_after[seconds]",
        ),
        ({"expires_after[anchor]": "created_at"}, "invalid_request", "expires_after[seconds]"),
    ],
)
def test_what_an_upload_asks_for_is_checked(
    product: Product, parts: dict[str, str], code: str, param: str
) -> None:
    """Each limit by the name of its part."""
    if param != "purpose":
        parts = {"purpose": "fine-tune", **parts}
    answer = product.http.post("/v1/files", data=parts, files={"file": ("x.jsonl", b"{}")})
    assert refused(answer)[:2] == (code, param)


@pytest.mark.parametrize(
    ("query", "param"),
    [({"limit": "0"}, "limit"), ({"limit": "10001"}, "limit"), ({"order": "up"}, "order"),
     ({"colour": "red"}, "colour"), ({"after": "file-nowhere"}, "after")],
)  # fmt: skip
def test_what_a_list_asks_for_is_checked(
    product: Product, query: dict[str, str], param: str
) -> None:
    """From 1 to 10,000 files, oldest or newest first."""
    answer = product.http.get("/v1/files", params=query)
    assert refused(answer, 404 if param == "after" else 400)[1] == param


def test_files_are_there_after_a_restart(tiny_model: Path, tmp_path: Path) -> None:
    """With their ids, names and order; the bytes of one that were lost are told as an error."""
    with serving(tiny_model, tmp_path) as running, _client(running) as sdk:
        ids = [upload(sdk, [row]).id for row in BOATS[:3]]
        lost = sdk.files.create(file=("lost.jsonl", jsonl(BREAD)), purpose="fine-tune")
    for file in (tmp_path / "datasets").iterdir():
        if file.read_bytes() == jsonl(BREAD):
            file.unlink()
    with serving(tiny_model, tmp_path) as running, _client(running) as sdk:
        assert [file.id for file in sdk.files.list(order="asc")] == [*ids, lost.id]
        row = sdk.files.wait_for_processing(lost.id, poll_interval=0.01)
        assert row.status == "error"
        assert "put it back from a backup" in str(row.status_details)
        with pytest.raises(openai.NotFoundError, match="is missing"):
            sdk.files.content(lost.id)


def _client(running: Product) -> OpenAI:
    return OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
