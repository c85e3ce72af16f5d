"""Uploads go straight to disk, whole or not at all."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.live_server import LIMITS
from tests.server.api.admin.conftest import Site, serving
from tests.server.api.serving import error_of

JSONL = {"content-type": "application/jsonl"}
PATH = "/admin/datasets"


def form(*parts: bytes, boundary: str = "BOUND", end: bytes = b"--BOUND--\r\n") -> httpx.Request:
    """A form from raw parts, each with its headers."""
    body = b"".join(b"--BOUND\r\n" + part + b"\r\n" for part in parts) + end
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    return httpx.Request("POST", PATH, content=body, headers=headers)


def send(site: Site, request: httpx.Request) -> httpx.Response:
    """``request`` to the site."""
    return site.http.post(PATH, content=request.content, headers=request.headers)


FILE = b'Content-Disposition: form-data; name="file"; filename="r.jsonl"\r\n\r\n{}'
OTHER = b'Content-Disposition: form-data; name="purpose"\r\n\r\nfine-tune'


def test_a_form_s_file_becomes_a_data_set(site: Site) -> None:
    """Its bytes exactly, under the name that the client gave it."""
    data = b'{"a": 1}\r\n--BOUND-not\r\n{}\n'.replace(b"--BOUND-not", b'{"--": 2}')
    response = site.http.post(PATH, files={"file": ("rows.jsonl", data)})
    row = response.json()
    assert (response.status_code, row["object"], row["name"]) == (200, "dataset", "rows.jsonl")
    assert (row["bytes"], row["rows"], row["created_at"]) == (len(data), 3, 1_700_000_000)
    assert site.behind.state.contents[row["id"]] == data


def test_a_body_of_jsonl_is_a_data_set_too(site: Site) -> None:
    """For ``curl --data-binary``; the query may name it."""
    response = site.http.post(PATH, params={"name": "mine"}, content=b"{}\n", headers=JSONL)
    unnamed = site.http.post(PATH, content=b"{}\n{}\n", headers=JSONL)
    assert (response.json()["name"], response.json()["rows"]) == ("mine", 1)
    assert unnamed.json()["name"] is None


def test_the_same_bytes_are_one_data_set(site: Site) -> None:
    """By either way in."""
    form = site.http.post(PATH, files={"file": ("rows.jsonl", b"{}\n")}).json()
    raw = site.http.post(PATH, content=b"{}\n", headers=JSONL).json()
    assert form == raw
    assert len(site.http.get(PATH).json()["data"]) == 1


def test_an_upload_may_be_longer_than_other_bodies(site: Site) -> None:
    """It has its own limit; 64 KiB hold everywhere else, 2 MiB here, announced or not."""
    line = b'{"text": "%s"}\n' % (b"x" * 1000)

    def pieces(data: bytes) -> Iterator[bytes]:
        yield from (data[start : start + 50_000] for start in range(0, len(data), 50_000))

    data = line * 1000
    taken = site.http.post(PATH, content=pieces(data), headers=JSONL)
    announced = site.http.post(PATH, content=line * 3000, headers=JSONL)
    counted = site.http.post(PATH, content=pieces(line * 3000), headers=JSONL)
    elsewhere = site.http.post("/admin/stages", content=data, headers=JSONL)
    assert (taken.status_code, taken.json()["rows"]) == (200, 1000)
    assert {response.status_code for response in (announced, counted, elsewhere)} == {413}
    assert "max_upload_bytes" in error_of(announced)["message"]
    assert "max_upload_bytes" in error_of(counted)["message"]
    assert "max_body_bytes" in error_of(elsewhere)["message"]


def test_bad_lines_are_all_told(site: Site) -> None:
    """By number and reason, at upload."""
    response = site.http.post(PATH, content=b"{}\nx\n[]\n", headers=JSONL)
    assert response.status_code == 400
    assert [fault["line"] for fault in response.json()["error"]["lines"]] == [2, 3]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\data\\rows.jsonl", "rows.jsonl"),
        ("a\x07b\u202ec", "abc"),
        ("x" * 300, "x" * 255),
        ("\u00e4\u4e2d.jsonl", "\u00e4\u4e2d.jsonl"),
        ("", None),
    ],
)
def test_a_file_s_name_is_a_label_and_no_path(site: Site, given: str, shown: str | None) -> None:
    """What cannot be printed is left out."""
    part = b'Content-Disposition: form-data; name="file"; filename="%s"\r\n\r\n{}' % given.encode()
    assert send(site, form(part)).json()["name"] == shown


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (form(OTHER), "'purpose'"),
        (form(FILE, OTHER), "'purpose'"),
        (form(FILE, FILE), "two files"),
        (form(b"X-Y: z\r\n\r\n{}"), "part ''"),
        (form(), "no part 'file'"),
        (form(FILE, end=b""), "ends early"),
        (form(FILE, boundary="OTHER"), "multipart"),
        (form(FILE, boundary=""), "boundary"),
        (form(FILE, boundary="x" * 71), "boundary"),
        (form(b"bad header\r\n\r\n{}"), "multipart"),
        (form(b"X: " + b"y" * 100_000 + b"\r\n\r\n{}"), "multipart"),
        (form(b"\r\n".join(b"X: y" for _ in range(500)) + b"\r\n\r\n{}"), "multipart"),
    ],
    ids=range(12),
)
def test_another_form_is_refused(site: Site, request_: httpx.Request, said: str) -> None:
    """A field without effect, a second file or half a form: none becomes a data set."""
    response = send(site, request_)
    assert response.status_code == 400
    assert said in error_of(response)["message"]
    assert list(site.behind.state.folder.iterdir()) == []
    assert site.behind.state.datasets == {}


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", None])
def test_another_body_is_no_upload(site: Site, content_type: str | None) -> None:
    """415 says which two there are."""
    headers = {} if content_type is None else {"content-type": content_type}
    response = site.http.post(PATH, content=b"{}", headers=headers)
    assert response.status_code == 415
    assert list(site.behind.state.folder.iterdir()) == []


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.test"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "null"},
    ],
)
def test_a_foreign_page_s_form_is_refused(site: Site, headers: dict[str, str]) -> None:
    """A browser sends multipart anywhere without asking; it says where the page is from."""
    response = site.http.post(PATH, files={"file": b"{}"}, headers=headers)
    assert (response.status_code, error_of(response)["code"]) == (421, "forbidden_host")
    assert site.behind.state.datasets == {}


@pytest.mark.parametrize("site_of", ["same-origin", "none"])
def test_our_own_page_s_form_is_taken(site: Site, site_of: str) -> None:
    """The console uploads as well."""
    headers = {"sec-fetch-site": site_of, "origin": "http://localhost:8000"}
    assert site.http.post(PATH, files={"file": b"{}"}, headers=headers).status_code == 200


def test_a_client_that_leaves_leaves_no_file(site: Site) -> None:
    """Half an upload is removed."""
    port = httpx.URL(site.server.url).port
    given = site.behind.datasets.given
    while not given.empty():
        given.get()
    with socket.create_connection(("127.0.0.1", port or 0)) as client:
        client.sendall(
            b"POST /admin/datasets HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n"
            b"Content-Type: application/jsonl\r\n\r\n" + b"{}\n" * 100_000
        )
        file = given.get(timeout=20)
    assert file.removed.wait(20)
    assert not file.exists()
    assert site.http.get(PATH).json()["data"] == []


def test_an_upload_that_pauses_too_long_is_refused(tmp_path: Path) -> None:
    """It may take long as a whole, but not stand still."""
    with serving(tmp_path, limits=replace(LIMITS, body_timeout_s=0.1)) as site:
        port = httpx.URL(site.server.url).port
        with socket.create_connection(("127.0.0.1", port or 0), timeout=20) as client:
            client.sendall(
                b"POST /admin/datasets HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
                b"Content-Type: application/jsonl\r\n\r\n{}"
            )
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert b" 408 " in answer.partition(b"\r\n")[0]
        assert b"paused for 0.1 s" in answer
        assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a full disk to try")
def test_a_full_disk_is_told_and_cleaned_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """507, also where closing the file fails once more, and the file makes room again."""
    real = Path.open

    def full(path: Path, mode: str) -> object:
        path.touch()
        return real(Path("/dev/full"), mode)

    monkeypatch.setattr(Path, "open", full)
    response = site.http.post(PATH, content=b"{}\n", headers=JSONL)
    assert (response.status_code, error_of(response)["code"]) == (507, "storage_full")
    assert list(site.behind.state.folder.iterdir()) == []


def test_data_sets_are_listed_newest_first_and_deleted(site: Site) -> None:
    """Unless an unfinished stage needs one."""
    rows = [
        site.http.post(PATH, content=b"{}\n" * count, headers=JSONL).json() for count in (1, 2, 3)
    ]
    ids = [row["id"] for row in rows]
    page = site.http.get(PATH, params={"limit": 1}).json()
    rest = site.http.get(PATH, params={"after": ids[2]}).json()
    assert [row["id"] for row in page["data"] + rest["data"]] == ids[::-1]
    assert (page["has_more"], rest["has_more"]) == (True, False)
    assert site.http.get(f"{PATH}/{ids[0]}").json() == rows[0]
    gone = site.http.delete(f"{PATH}/{ids[0]}")
    assert gone.json() == {"id": ids[0], "object": "dataset", "deleted": True}
    assert error_of(site.http.get(f"{PATH}/{ids[0]}"))["code"] == "dataset_not_found"
    site.http.post("/admin/stages", json={"chain": "a", "dataset": ids[1]})
    assert error_of(site.http.delete(f"{PATH}/{ids[1]}"))["code"] == "dataset_protected"


@pytest.mark.parametrize("dataset", ["%00", "a%0A", "x" * 200, "%2e%2e", "nothing"])
def test_an_id_that_no_data_set_has_is_not_found(site: Site, dataset: str) -> None:
    """It is a row's key, never a file's name."""
    for response in (
        site.http.get(f"{PATH}/{dataset}"),
        site.http.delete(f"{PATH}/{dataset}"),
        site.http.get(f"{PATH}?after={dataset}"),
    ):
        assert (response.status_code, error_of(response)["code"]) == (404, "dataset_not_found")


def test_routes_without_their_part_are_not_there(tmp_path: Path) -> None:
    """A server that only serves has no half-working administration."""
    with serving(tmp_path, stages=None, chains=None, datasets=None) as site:
        for path in ("/admin/stages", "/admin/chains", PATH):
            assert error_of(site.http.get(path))["code"] == "route_not_found"
