"""Answers of a stage that still trains: as ordinary rows, beside the requests being served."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, wait
from contextlib import aclosing, contextmanager

from adapters.errors import DeviceGone, StageError
from adapters.formats.mlx_lm import AdapterFiles
from server.core.errors import EngineFailed, ServeError, ShuttingDown
from server.core.messages import Failed, Generate, Sampling, Token
from server.core.ports import Engine, Tokenizer
from server.engine.device import AdapterSource

Forget = Callable[[str], None]

_LOOK_S = 0.1
"""Between two looks at whether the stage was asked to stop."""


class Candidates:
    """An AdapterSource in front of another one, with adapters that nobody has published yet."""

    def __init__(self, published: AdapterSource) -> None:
        self._published = published
        self._held: dict[str, AdapterFiles] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def read(self, revision: str) -> AdapterFiles:
        """A held candidate, else whatever the source behind it has."""
        with self._lock:
            held = self._held.get(revision)
        return self._published.read(revision) if held is None else held

    def registered(self) -> int:
        """How many adapters the source behind it has; a candidate is none of them."""
        return self._published.registered()

    @contextmanager
    def hold(self, files: AdapterFiles, forget: Forget) -> Iterator[str]:
        """A name for ``files`` while the context is open, never used again and then forgotten."""
        with self._lock:
            name = f"candidate-{next(self._numbers)}"
            self._held[name] = files
        try:
            yield name
        finally:
            with self._lock:
                del self._held[name]
            forget(name)


class EngineSampler:
    """Implements ``adapters.ports.Sampler``: called on any thread but the event loop's own."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        candidates: Candidates,
        forget: Forget,
        loop: Callable[[], asyncio.AbstractEventLoop],
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._candidates = candidates
        self._forget = forget
        self._loop = loop
        self._numbers = itertools.count(1)

    def answer(
        self,
        prompt: str,
        adapter: AdapterFiles | None,
        *,
        max_tokens: int,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> str:
        """The greedy answer to ``prompt`` as a user's turn; see the port for what it raises."""
        messages = [{"role": "user", "content": prompt}]
        tokens = self._tokenizer.encode_chat(messages, template_kwargs={})
        room = self._tokenizer.max_context - len(tokens)
        if room < 1:
            raise StageError(
                f"The sample prompt has {len(tokens)} tokens, the base's context "
                f"{self._tokenizer.max_context}; shorten it."
            )
        most = min(room, max_tokens)
        if adapter is None:
            return self._generate(tokens, None, most, should_stop)
        with self._candidates.hold(adapter, self._forget) as revision:
            return self._generate(tokens, revision, most, should_stop)

    def _generate(
        self,
        tokens: list[int],
        revision: str | None,
        max_tokens: int,
        should_stop: Callable[[], bool],
    ) -> str:
        request = Generate(
            request_id=f"sample-{next(self._numbers)}",
            prompt=tuple(tokens),
            max_tokens=max_tokens,
            sampling=Sampling(seed=0, temperature=0.0),
            end_tokens=self._tokenizer.end_tokens,
            revision=revision,
            flow="sample",
        )
        answer = asyncio.run_coroutine_threadsafe(self._read(request), self._loop())
        try:
            while not wait([answer], timeout=_LOOK_S).done:
                if should_stop():
                    answer.cancel()
                    raise StageError("The stage was asked to stop before the sample was answered.")
            return answer.result()
        except CancelledError:
            raise DeviceGone("The server ended before the sample was answered.") from None
        except (EngineFailed, ShuttingDown) as error:
            raise DeviceGone(str(error)) from error
        except ServeError as error:
            raise StageError(f"The sample could not be answered: {error}") from error

    async def _read(self, request: Generate) -> str:
        text = self._tokenizer.detokenizer()
        answer = ""
        async with aclosing(self._engine.submit(request)) as events:
            async for event in events:
                if isinstance(event, Token):
                    answer += text.add(event.token)
                elif isinstance(event, Failed):
                    raise event.error
        return answer + text.finish()
