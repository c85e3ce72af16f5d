"""The OpenAPI document: complete, and as good as its word on a live server."""

from __future__ import annotations

import http
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import jsonschema
import pytest

from adapters.lineage import Stage
from server.api.openapi.answers import SCHEMAS
from server.api.openapi.document import OPERATIONS, paths_of
from tests.live_server import BASE
from tests.server.api.admin.conftest import Site, serving

ROWS = b'{"prompt": "hi", "completion": "ho"}\n'
Json = dict[str, Any]


class Loads:
    """Adapters that can always be loaded."""

    def load(self, chain: str, path: str, *, again: bool) -> Stage:
        """As the port."""
        del chain, path, again
        return cast("Stage", None)

    def unload(self, chain: str) -> None:
        """As the port."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server with a chain and a data set."""
    with serving(tmp_path_factory.mktemp("incoming"), loads=Loads()) as running:
        yield running


def document(url: str) -> Json:
    """What the server says."""
    answer = httpx.get(f"{url}/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    body: Json = answer.json()
    return body


def operations(described: Json) -> list[tuple[str, str, Json]]:
    """Method, path and description of each."""
    return [
        (method, path, operation)
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_route_of_the_server_is_described_and_no_other(site: Site) -> None:
    """A new route without a row in the table fails here."""
    described = {(method, path) for method, path, _ in operations(document(site.server.url))}
    assert described == set(paths_of([site.server.api.router]))


def test_no_operation_is_described_twice_and_each_schema_has_one_meaning(site: Site) -> None:
    """Ids are what generated clients call their functions."""
    described = document(site.server.url)
    ids = [operation["operationId"] for _, _, operation in operations(described)]
    assert len(set(ids)) == len(ids)
    assert len({(each.method, each.route) for each in OPERATIONS}) == len(OPERATIONS)
    schemas = described["components"]["schemas"]
    assert {name: schemas[name] for name in SCHEMAS} == SCHEMAS
    assert not [name for name in schemas if "__" in name]


def test_every_reference_leads_somewhere_and_every_schema_is_one(site: Site) -> None:
    """By the standard's own rules for schemas of version 3.1."""
    described = document(site.server.url)
    for schema in described["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)

    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for child in value.values():
                yield from references(child)
        elif isinstance(value, list):
            for child in value:
                yield from references(child)

    names = {f"#/components/schemas/{name}" for name in described["components"]["schemas"]}
    assert set(references(described)) <= names


def check(described: Json, operation: Json, answer: httpx.Response) -> None:
    """The status is documented, and so is what came with it."""
    documented = operation["responses"].get(str(answer.status_code))
    assert documented is not None, f"{answer.status_code}: {answer.text}"
    kind = answer.headers["content-type"].partition(";")[0]
    assert kind in documented["content"], kind
    if kind == "application/json":
        schema = {**documented["content"][kind]["schema"], "components": described["components"]}
        jsonschema.validate(answer.json(), schema, cls=jsonschema.Draft202012Validator)


def test_each_example_gets_what_is_documented(site: Site, tmp_path: Path) -> None:
    """Sent as it stands, on a server with the chain that the examples speak of."""
    site.behind.state.clear(tmp_path)
    described = document(site.server.url)
    sent = 0
    for method, path, operation in operations(described):
        example = (
            operation.get("requestBody", {})
            .get("content", {})
            .get("application/json", {})
            .get("example")
        )
        if example is None:
            continue
        site.behind.state.clear(tmp_path)
        site.published("support")
        for parameter in operation.get("parameters", []):
            path = path.replace(f"{{{parameter['name']}}}", str(parameter.get("example")))
        answer = site.http.request(method, path, json=example)
        assert answer.is_success, f"{method} {path}: {answer.text}"
        check(described, operation, answer)
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        jsonschema.validate(
            example,
            {**schema, "components": described["components"]},
            cls=jsonschema.Draft202012Validator,
        )
        sent += 1
    assert sent >= 15


def test_what_needs_no_body_gets_what_is_documented(site: Site, tmp_path: Path) -> None:
    """Every GET and DELETE, of something that is there."""
    described = document(site.server.url)
    for method, path, operation in operations(described):
        if method not in ("get", "delete"):
            continue
        site.behind.state.clear(tmp_path)
        (stage,) = site.published("support")
        dataset = site.http.post(
            "/admin/datasets", content=ROWS, headers={"content-type": "application/jsonl"}
        ).json()["id"]
        site.http.put("/admin/chains/support/labels/stable", json={"revision": 1})
        response = site.http.post("/v1/responses", json={"model": BASE, "input": "hi"}).json()["id"]
        values = {"stage": stage, "dataset": dataset, "response_id": response, "revision": "1"}
        query = {}
        for parameter in operation.get("parameters", []):
            name = parameter["name"]
            value = str(values.get(name, parameter.get("example")))
            if parameter["in"] == "path":
                path = path.replace(f"{{{name}}}", value)
            elif "example" in parameter:
                query[name] = value
        answer = site.http.request(method, path, params=query)
        # The one revision that there is, is a head.
        protected = "/revisions/" in path or (method, path) == ("delete", f"/v1/models/{BASE}")
        wanted = 409 if protected else 200
        assert answer.status_code == wanted, f"{method} {path}: {answer.text}"
        check(described, operation, answer)


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "POST", "OPTIONS", "HEAD"])
def test_a_wrong_method_or_path_is_an_error_in_the_documented_shape(
    site: Site, method: str
) -> None:
    """405 with the methods that there are, 404 where there are none, wherever it is asked."""
    described = document(site.server.url)
    taken: dict[str, set[str]] = {}
    for verb, path, _ in operations(described):
        taken.setdefault(path.replace("{", "").replace("}", ""), set()).add(verb.upper())
    for path, methods in taken.items():
        if method in methods:
            continue
        answer = site.http.request(method, path, json={} if method[0] == "P" else None)
        if answer.status_code == http.HTTPStatus.NOT_FOUND:
            continue  # another route takes the path, with a name in it
        assert answer.status_code == 405, f"{method} {path}: {answer.text}"
        assert set(answer.headers["allow"].split(", ")) <= methods
        if method != "HEAD":
            error = answer.json()["error"]
            assert error["message"]
    missing = site.http.request(method, "/v2/nothing", json={} if method[0] == "P" else None)
    assert missing.status_code == 404
    if method != "HEAD":
        assert missing.json()["error"]["code"] == "route_not_found"
