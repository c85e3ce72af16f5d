"""The whole product on the tiny model, in a thread: real engine, real store, real HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from server.app import Application, HttpServer, build
from server.loading import load_parts
from server.settings import Settings

Json = dict[str, Any]

FINAL = {"succeeded", "failed", "cancelled"}


@dataclass(frozen=True, slots=True)
class Product:
    """A running server: a client for it, and what lies behind it."""

    http: httpx.Client
    application: Application
    data_dir: Path
    model_dir: Path
    url: str

    def add(self, chain: str, rows: Sequence[Json], **fields: Any) -> Json:
        """Queue a stage; it must be accepted."""
        return self.ok(self.ask(chain, rows, **fields), 202)

    def ask(self, chain: str, rows: Sequence[Json], **fields: Any) -> httpx.Response:
        """Ask for a small stage; fields replace or extend it."""
        body: Json = {"chain": chain, "examples": list(rows), "learning_rate": 2e-3, **fields}
        if "iters" not in body:
            body.setdefault("epochs", 2)
        return self.http.post("/admin/stages", json=body)

    def train(self, chain: str, rows: Sequence[Json], **fields: Any) -> Json:
        """Run a stage to its end, which must be a good one."""
        stage = self.wait(self.add(chain, rows, **fields)["id"])
        assert stage["status"] == "succeeded", stage["error"]
        return stage

    def wait(self, stage_id: str, *, until: str | None = None) -> Json:
        """Follow the stage's events until it has ended, or until it is ``until``."""
        states = FINAL | ({until} if until else set())
        for event in self.follow(stage_id):
            if event["kind"] == "state" and event["data"]["state"] in states:
                break
        return self.ok(self.http.get(f"/admin/stages/{stage_id}"))

    def follow(self, stage_id: str) -> Iterator[Json]:
        """The stage's events as they come, over SSE."""
        return follow(self.http, stage_id)

    def events(self, stage_id: str, kind: str) -> list[Json]:
        """The data of all events of one kind, so far."""
        found = self.ok(
            self.http.get(
                f"/admin/stages/{stage_id}/events", params={"stream": "false", "limit": 1000}
            )
        )
        return [event["data"] for event in found["data"] if event["kind"] == kind]

    def answer(self, model: str, prompt: str, **fields: Any) -> str:
        """The greedy answer of at most 16 tokens."""
        return said(self.ok(self.chat(model, prompt, **fields)))

    def chat(self, model: str, prompt: str, **fields: Any) -> httpx.Response:
        """A greedy chat completion."""
        body: Json = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": 16,
            **fields,
        }
        return self.http.post("/v1/chat/completions", json=body)

    def revision_dir(self, revision: str) -> Path:
        """Where the store keeps it."""
        return self.data_dir / "revisions" / revision

    @staticmethod
    def ok(response: httpx.Response, status: int = 200) -> Json:
        """The body of a response that must have gone well."""
        assert response.status_code == status, response.text
        body: Json = response.json()
        return body


def follow(http: httpx.Client, stage_id: str) -> Iterator[Json]:
    """A stage's events as they come, over SSE, from the first one until it has ended."""
    with http.stream("GET", f"/admin/stages/{stage_id}/events") as stream:
        for line in stream.iter_lines():
            if line.startswith("data: {"):
                yield json.loads(line.removeprefix("data: "))


def said(body: Json) -> str:
    """The text of a chat completion."""
    text: str = body["choices"][0]["message"]["content"]
    return text


def error_of(response: httpx.Response, status: int, code: str) -> str:
    """The message of an error that must have this status and code."""
    assert response.status_code == status, response.text
    error: Json = response.json()["error"]
    assert error["code"] == code, error
    message: str = error["message"]
    return message


def row(prompt: str, answer: str) -> Json:
    """A chat row of one turn."""
    return {
        "messages": [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": answer},
        ]
    }


@contextmanager
def serving(model_dir: Path, data_dir: Path, **changes: Any) -> Iterator[Product]:
    """Serve ``model_dir`` as ``tiny`` from ``data_dir`` until the context ends."""
    settings = Settings(
        model=str(model_dir), served_name="tiny", data_dir=data_dir, shutdown_grace_s=0.0, **changes
    )
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    started: Future[tuple[Application, HttpServer]] = Future()

    async def run() -> None:
        try:
            application = build(settings, load_parts)
            await application.start()
        except Exception as error:  # noqa: BLE001  # the test gets it, whatever it is
            started.set_exception(error)
            return
        server = HttpServer(application)
        started.set_result((application, server))
        # Signals belong to the test run.
        server.capture_signals = _no_signals  # type: ignore[method-assign]
        await server.serve(sockets=[listener])

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        application, server = started.result(60)
        with httpx.Client(base_url=url, timeout=60) as http:
            yield Product(http, application, data_dir, model_dir, url)
        server.should_exit = True
    finally:
        thread.join(60)
        listener.close()
        assert not thread.is_alive()


@contextmanager
def _no_signals() -> Iterator[None]:
    yield
