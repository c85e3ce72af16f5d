"""vLLM's routes for adapters, as far as they are HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import httpx
import pytest

from adapters.errors import ChainNotFound
from adapters.lineage import Stage
from tests.live_server import BASE, live_server


@dataclass
class Loads:
    """Records what it is asked."""

    asked: list[tuple[Any, ...]] = field(default_factory=list)

    def load(self, chain: str, path: str, *, again: bool) -> Stage:
        """As the port."""
        self.asked.append((chain, path, again))
        return cast("Stage", None)

    def unload(self, chain: str) -> None:
        """As the port."""
        self.asked.append((chain,))
        raise ChainNotFound(f"There is no chain {chain!r}.", param="chain")


def post(url: str, route: str, body: dict[str, Any]) -> httpx.Response:
    """A request of its own."""
    return httpx.post(f"{url}/v1/{route}_lora_adapter", json=body)


def test_names_may_be_those_of_requests_and_words_are_vllms() -> None:
    """``base:chain`` and ``chain`` are the same; the answer repeats what was sent."""
    loads = Loads()
    with live_server(loads=loads) as server:
        body = {"lora_name": f"{BASE}:sql", "lora_path": "/lora/sql", "load_inplace": True}
        answer = post(server.url, "load", body)
        plain = post(server.url, "load", {"lora_name": "sql", "lora_path": "sql"})
        gone = post(server.url, "unload", {"lora_name": "sql"})
    assert answer.text == f"Success: LoRA adapter '{BASE}:sql' added successfully."
    assert plain.text == "Success: LoRA adapter 'sql' added successfully."
    assert loads.asked == [("sql", "/lora/sql", True), ("sql", "sql", False), ("sql",)]
    assert gone.status_code == 404
    assert gone.json()["error"]["code"] == "chain_not_found"


@pytest.mark.parametrize(
    ("body", "param", "status"),
    [
        ({"lora_path": "x"}, "lora_name", 400),
        ({"lora_name": "x"}, "lora_path", 400),
        ({"lora_name": "x", "lora_path": "x", "load_inplace": "yes"}, "load_inplace", 400),
        ({"lora_name": "x", "lora_path": "x", "is_mm_lora": True}, "is_mm_lora", 400),
        ({"lora_name": "x", "lora_path": "x", "base_model_name": "y"}, "base_model_name", 404),
        ({"lora_name": "other:x", "lora_path": "x"}, "lora_name", 400),
    ],
)
def test_what_cannot_be_loaded_is_told_by_its_field(
    body: dict[str, Any], param: str, status: int
) -> None:
    """Nothing is looked for."""
    loads = Loads()
    with live_server(loads=loads) as server:
        answer = post(server.url, "load", body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
    assert loads.asked == []
