"""OpenAI's own client of Node, unchanged, on a real socket: the fake engine, then a real model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.extending.product import Product
from tests.live_server import BASE, live_server
from tests.owners.environment import run_openai_node

pytestmark = pytest.mark.slow


def found(task: str, folder: Path, model: str = BASE) -> Any:
    """What the task found at a server whose model says hello."""
    with live_server() as server:
        return run_openai_node(task, f"{server.url}/v1", model, folder)


@pytest.mark.parametrize("model", [BASE, f"{BASE}:pirate"])
def test_chats_and_names_work(model: str, tmp_path: Path) -> None:
    """The base and a chain; the list goes through the client's pager."""
    answer = found("chat", tmp_path, model)
    assert (answer["text"], answer["reason"]) == ("hello", "stop")
    assert answer["usage"]["completion_tokens"] == 5
    assert answer["listed"] == [BASE, f"{BASE}:pirate"]


def test_the_stream_helper_puts_a_chat_together(tmp_path: Path) -> None:
    """Its deltas are its whole, and usage comes last."""
    answer = found("stream", tmp_path)
    assert (answer["text"], answer["whole"]) == ("hello", "hello")
    assert answer["usage"]["completion_tokens"] == 5


def test_responses_go_on_and_are_kept(tmp_path: Path) -> None:
    """The stream helper takes every event; what was deleted is the client's NotFoundError."""
    answer = found("responses", tmp_path)
    assert [answer[name] for name in ("first", "last", "kept")] == ["hello"] * 3
    assert answer["gone"] == "NotFoundError"
    assert answer["events"][0] == "response.created"
    assert answer["events"][-1] == "response.completed"


def test_errors_are_the_client_s_own_classes(tmp_path: Path) -> None:
    """With the status, and what was wrong, before a stream as well."""
    answer = found("errors", tmp_path)
    assert answer["model"]["kind"] == answer["stream"]["kind"] == "NotFoundError"
    assert answer["model"]["param"] == answer["stream"]["param"] == "model"
    assert answer["field"]["kind"] == "BadRequestError"
    assert (answer["field"]["status"], answer["field"]["param"]) == (400, "temperature")


def test_a_round_of_a_tool_on_a_real_model(product: Product, tmp_path: Path) -> None:
    """One call that follows its schema; the client's message and a result go back in."""
    answer = run_openai_node("tools", f"{product.url}/v1", "tiny", tmp_path)
    assert (answer["calls"], answer["name"]) == (1, "weather")
    assert set(answer["given"]) == {"city"}
    assert answer["given"]["city"] in {"Oslo", "Bergen"}
    assert isinstance(answer["text"], str)


def test_structured_output_of_a_real_model(product: Product, tmp_path: Path) -> None:
    """``parse`` gets an object of the schema."""
    answer = run_openai_node("parsed", f"{product.url}/v1", "tiny", tmp_path)
    assert set(answer) == {"city"}
    assert answer["city"] in {"Oslo", "Bergen"}


def test_embeddings_of_a_real_model(product: Product, tmp_path: Path) -> None:
    """The client asks for base64 and decodes it: one vector of the hidden width a text."""
    rows = run_openai_node("embeddings", f"{product.url}/v1", "tiny", tmp_path)
    assert [row["index"] for row in rows] == [0, 1]
    assert len({row["width"] for row in rows}) == 1
    assert rows[0]["width"] > 1


def test_a_chain_is_taught_asked_and_taught_on(product: Product, tmp_path: Path) -> None:
    """Files, jobs, events, checkpoints, results and the deletion of a model, by it alone."""
    answer = run_openai_node("tuning", f"{product.url}/v1", "tiny", tmp_path)
    first, second = answer["first"], answer["second"]
    assert (first["file"]["status"], first["job"]["status"]) == ("processed", "succeeded")
    assert first["file"]["expires_at"] == first["file"]["created_at"] + 3600
    assert [each["model"] for each in (first, second)] == ["tiny:noded@1", "tiny:noded@2"]
    assert first["followed"][0] == "The job is queued."
    assert first["followed"][-1] == "The job has succeeded."
    waiting, cancelled = answer["cancelled"]
    assert answer["found"] == [waiting] == [cancelled]
    assert answer["checkpoints"] == [[4, "tiny:noded@1"], [2, "tiny:noded-1-step-2@1"]]
    assert answer["results"].splitlines()[0] == "step,train_loss,valid_loss,tokens"
    assert len(answer["results"].splitlines()) == 1 + 4
    assert answer["gone"] == {"id": "tiny:noded@1", "object": "model", "deleted": True}
