"""Ask a real server for everything at once, for minutes, and hold it to what must never break.

``python -m scripts.soak`` serves the tiny model with four chains under budgets so small that rows
are preempted and adapters and prefixes evicted. Clients ask by every route at random: streams and
not, several texts, log-probabilities, echo, constraints, tools, stop strings, penalties, seeds,
priorities, long prompts, wrong ones; some leave in mid-stream, some read slowly. Meanwhile stages
are added, paused and cancelled, heads moved and revisions deleted. Exits with 1 where

* a request gets a 5xx, or no end within a minute, or a stream ends without its last event;
* a greedy or seeded answer is not what it was alone, by the equality rule;
* counters of rows, KV, adapters or pins do not return to rest, or memory grows;
* the device fails, the log holds a traceback, or SIGTERM ends the server with another code than 0.
"""

from __future__ import annotations

import adapters  # noqa: F401  # opens the BLAS, which must precede every import of mlx

# isort: split
import argparse
import asyncio
import collections
import itertools
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from scripts.soak_asks import CHAINS, Ask, draw_ask, is_last, questions
from tests.acceptance.serving.process import BASE, started
from tests.equality import MOST_EXCEPTIONS, NEAR
from tests.models import _tiny

Json = dict[str, Any]

_PATIENCE_S = 60.0
_LATE_S = 0.5
_SPARE_BYTES = 1 << 20
"""Device memory that may be left over at rest: what the allocator rounds up."""
_SMALL = {
    "kv-budget-bytes": 1200 * 2048,
    "prefix-cache-bytes": 1 << 20,
    "adapter-budget-bytes": 900_000,
    "event-queue-limit": 64,
    "max-rows": 8,
    "queue-limit": 24,
    "queue-kv-factor": 8,
}
_ROWS = [
    {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
    for q, a in (("What is a sail?", "A cloth."), ("What is dough?", "Flour and water."))
]


@dataclass
class Findings:
    """What was asked for, how it ended, and what broke."""

    broken: list[str] = field(default_factory=list)
    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    positions: int = 0
    exceptions: int = 0

    def broke(self, what: str) -> None:
        """Note a broken invariant and say it at once."""
        self.broken.append(what)
        print(f"BROKEN: {what}", flush=True)

    def compare(self, name: str, alone: Sequence[Json], served: Sequence[Json]) -> None:
        """Hold the tokens of one answer to those that the same request got alone."""
        for place, (one, other) in enumerate(itertools.zip_longest(alone, served)):
            self.positions += 1
            if one is not None and other is not None and one["token"] == other["token"]:
                continue
            tops = [] if one is None else [top["logprob"] for top in one["top_logprobs"]]
            self.exceptions += 1
            if one is None or (len(tops) > 1 and tops[0] - tops[1] > NEAR):
                self.broke(f"{name}: position {place} is {other}, alone it was {one}")
            return


class Soak:
    """Clients of one server; ``seed`` decides what they ask."""

    def __init__(self, http: httpx.AsyncClient, seed: int) -> None:
        self.http = http
        self.draw = random.Random(seed)
        self.found = Findings()
        self._alone: dict[str, list[Json]] = {}

    async def learn(self) -> None:
        """What each request with a fixed answer says on a quiet server."""
        for ask in questions():
            response = await self.http.post(ask.path, json=ask.body)
            self._alone[str(ask.key)] = _tokens([response.json()])

    async def ask(self, ask: Ask) -> None:
        """One request; whatever it gets is noted, and what must not be is broken."""
        name = f"{ask.kind} {json.dumps(ask.body)[:300]}"
        try:
            async with asyncio.timeout(_PATIENCE_S):
                status, bodies = await self._exchange(ask)
        except TimeoutError:
            self.found.broke(f"{name}: no end within {_PATIENCE_S:g} s")
            return
        except httpx.TransportError as error:
            self.found.broke(f"{name}: {error!r}")
            return
        self.found.outcomes[f"{ask.kind} {status}"] += 1
        errors = [body["error"] for body in bodies if body.get("error")]
        if status >= 500 or any(error.get("type") == "server_error" for error in errors):
            self.found.broke(f"{name}: {status} {errors}")
        elif status not in ask.expected:
            self.found.broke(f"{name}: {status} {errors}, expected was {sorted(ask.expected)}")
        elif ask.key is not None and bodies and status == 200 and not errors:
            self.found.compare(name, self._alone[ask.key], _tokens(bodies))

    async def _exchange(self, ask: Ask) -> tuple[int, list[Json]]:
        """Status and JSON of a response, all of a stream's unless the client leaves early."""
        if not ask.body.get("stream"):
            response = await self.http.post(ask.path, json=ask.body)
            return response.status_code, [response.json()]
        bodies: list[Json] = []
        async with self.http.stream("POST", ask.path, json=ask.body) as response:
            if response.status_code != 200:
                return response.status_code, [json.loads(await response.aread())]
            last = ""
            async for line in response.aiter_lines():
                if not line.startswith("data: "):
                    continue
                last = line.removeprefix("data: ")
                if last.startswith("{"):
                    bodies.append(json.loads(last))
                if ask.leaves_after is not None and len(bodies) > ask.leaves_after:
                    return 200, []
                if ask.is_slow:
                    await asyncio.sleep(self.draw.uniform(0, 0.05))
            if not is_last(ask.path, last):
                self.found.broke(f"{ask.kind}: a stream ended with {last[:200]!r}")
        return 200, bodies

    async def client(self, until: float) -> None:
        """One request after the other, sometimes with a pause."""
        while time.monotonic() < until:
            await self.ask(draw_ask(self.draw))
            if self.draw.random() < 0.2:
                await asyncio.sleep(self.draw.uniform(0, 1))

    async def administrator(self, until: float) -> None:
        """Stages, heads and revisions of two chains of its own, in no order."""
        while time.monotonic() < until:
            method, path, body = await self._change()
            response = await self.http.request(method, path, json=body)
            self.found.outcomes[f"admin {response.status_code}"] += 1
            if response.status_code >= 500:
                self.found.broke(f"{method} {path}: {response.status_code} {response.text}")
            await asyncio.sleep(self.draw.uniform(0, 1.5))

    async def _change(self) -> tuple[str, str, Json | None]:
        chain = self.draw.choice(("grow", "more"))
        stages = (await self.http.get("/admin/stages")).json()["data"]
        stage = self.draw.choice(stages)["id"] if stages else "none"
        number = self.draw.randint(1, 8)
        new = {
            "chain": chain,
            "examples": _ROWS,
            "iters": self.draw.choice((1, 3, 40)),
            "lora": {"num_layers": 1},
        }
        at = f"/admin/chains/{chain}"
        return self.draw.choice(
            (
                ("POST", "/admin/stages", new),
                ("POST", "/admin/stages", new),
                ("POST", "/admin/stages", new),
                ("POST", f"/admin/stages/{stage}/{self.draw.choice(('pause', 'resume'))}", {}),
                ("POST", f"/admin/stages/{stage}/cancel", {}),
                ("POST", f"{at}/rollback", {"revision": number}),
                ("DELETE", f"{at}/revisions/{number}", None),
                ("POST", f"{at}/prune", {"keep_last": 2}),
                ("PUT", f"{at}/labels/stable", {"revision": number}),
                ("DELETE", f"{at}/labels/stable", None),
            )
        )

    async def rest(self, memory_before: int) -> None:
        """Wait until nothing runs, and hold the counters to what they were."""
        for stage in (await self.http.get("/admin/stages")).json()["data"]:
            if stage["status"] not in ("succeeded", "failed", "cancelled"):
                await self.http.post(f"/admin/stages/{stage['id']}/cancel", json={})
        stats: Json = {}
        for _ in range(int(_PATIENCE_S / _LATE_S)):
            stats = await self.stats()
            if not any(stats[each] for each in ("waiting", "prefilling", "decoding", "kv_bytes")):
                break
            await asyncio.sleep(_LATE_S)
        else:
            self.found.broke(f"rows are left over: {stats}")
        if stats["integrity"] != "ok":
            self.found.broke(f"integrity: {stats['integrity']}")
        left = _other_memory(stats) - memory_before
        print(f"memory beside prefixes and adapters: {left:+d} bytes; stats: {stats}")
        if left > _SPARE_BYTES:
            self.found.broke(f"{left} bytes more memory than before")
        for chain in ("grow", "more"):
            pruned = await self.http.post(f"/admin/chains/{chain}/prune", json={"keep_last": 0})
            if pruned.status_code not in (200, 404):
                self.found.broke(f"a pin or a stage is left on {chain}: {pruned.text}")

    async def stats(self) -> Json:
        """The engine's snapshot."""
        stats: Json = (await self.http.get("/admin/engine")).json()["stats"]
        return stats


def _other_memory(stats: Json) -> int:
    kept = ("prefix_cache_bytes", "resident_bytes", "mixture_bytes")
    return int(stats["memory_bytes"] - sum(stats[each] for each in kept))


def _tokens(bodies: Sequence[Json]) -> list[Json]:
    """The tokens' reports of a chat completion, whole or in chunks."""
    found: list[Json] = []
    for body in bodies:
        for choice in body.get("choices", ()):
            found += (choice.get("logprobs") or {}).get("content") or []
    return found


async def soak(url: str, *, seconds: float, clients: int, seed: int) -> Findings:
    """Ask the server at ``url`` for ``seconds`` seconds; what was found."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=_PATIENCE_S * 2, limits=limits) as http:
        soaking = Soak(http, seed)
        await soaking.learn()
        memory = _other_memory(await soaking.stats())
        until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(soaking.client(until))
            group.create_task(soaking.administrator(until))
        await soaking.rest(memory)
    found = soaking.found
    if found.exceptions > max(MOST_EXCEPTIONS * found.positions, 1):
        found.broke(f"{found.exceptions} of {found.positions} positions were exceptions")
    return found


def run(scratch: Path, *, seconds: float, clients: int, seed: int) -> Findings:
    """Serve the tiny model from ``scratch`` and soak it, to the server's end."""
    files = _tiny()
    chains = {name: files / "adapters" / name for name in CHAINS}
    options = [word for key, value in _SMALL.items() for word in (f"--{key}", str(value))]
    with started(scratch, files / "base", chains, "--port", "0", *options) as server:
        found = asyncio.run(soak(server.serving(), seconds=seconds, clients=clients, seed=seed))
        if code := server.stop():
            found.broke(f"the server ended with {code}")
        if "Traceback" in server.log or "the device thread failed" in server.log:
            found.broke(f"the log holds a failure:\n{server.log[-4000:]}")
    return found


def main() -> int:
    """Soak a server of its own; 1 where something broke."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0, help="of what is asked")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = run(Path(name), **vars(arguments))
    for outcome, count in sorted(found.outcomes.items()):
        print(f"{count:6d} {outcome}")
    print(f"{found.exceptions} exceptions in {found.positions} positions; {BASE} soaked, ", end="")
    print(f"{len(found.broken)} invariants broken")
    return bool(found.broken)


if __name__ == "__main__":
    sys.exit(main())
