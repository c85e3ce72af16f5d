"""From a checked request to the text of its rows: name, prompts, queue, events, and the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import anyio
import anyio.to_thread

from server.api.echo import Echo
from server.api.encoded import Encode, Encoded
from server.api.parts import Parts
from server.api.rows import Deadline, Reply, Row, merged
from server.api.sampling import choice_seed
from server.api.transcript import Transcript
from server.core.errors import InvalidRequest, PromptTooLong
from server.core.messages import Constraint, Generate, Sampling
from server.core.ports import Detokenizer, Target, Tokenizer
from server.core.reader import Reader

FIRST_ROWS = 8
"""Rows of a request that start as early as any; further ones let less greedy requests go first."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a checked request asks for. ``max_tokens`` None means whatever the context has left;
    with ``cut_to_context`` a larger number means no more than that.

    ``row_id`` names the first row in the engine and the answer to the client; ``prompt_field`` and
    ``choices_field`` are the request's fields that errors about them name. Each of ``prompts`` is
    continued ``choices`` times by rows with the index ``prompt * choices + choice``; a choice has
    a seed of its own, the first one that of ``sampling``. ``echo`` has, for each prompt, the text
    as it was sent, None for tokens; it is empty where the prompt is not part of the answer.
    ``prompt_logprobs`` needs it. Of a lower ``priority`` rows start earlier.
    """

    row_id: str
    model: str
    prompts: tuple[Encode, ...]
    prompt_field: str
    max_tokens: int | None
    sampling: Sampling
    stops: tuple[str, ...] = ()
    constraint: Constraint | None = None
    choices: int = 1
    choices_field: str = "n"
    echo: tuple[str | None, ...] = ()
    prompt_logprobs: int | None = None
    cut_to_context: bool = False
    priority: int = 0


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A prompt, and for each choice where its text begins."""

    encoded: Encoded
    constraint: Constraint | None
    detokenizers: tuple[Detokenizer, ...]
    echoes: tuple[Echo | None, ...]

    def reader(self) -> Reader | None:
        """A fresh one for one choice, where the text is read."""
        rules = self.encoded.reading
        return None if rules is None else Reader(rules)


@asynccontextmanager
async def admitted(parts: Parts, ask: Ask) -> AsyncIterator[Reply]:
    """The reply to ``ask``, whose rows are queued; its revision stays pinned until the exit.

    Raises on entry whatever keeps a row from being queued: UnknownModel, TwoAdapters,
    InvalidRequest, PromptTooLong, QueueFull, ShuttingDown, EngineFailed, DeadlineExceeded. The
    reply raises what a row failed with. Leaving the context ends the rows, read or not.
    """
    _check_rows(ask, parts.limits.most_rows)
    deadline = Deadline(parts.limits.request_timeout_s)
    with parts.catalog.pin(ask.model) as target:
        async with deadline.watch():
            prompts = await anyio.to_thread.run_sync(
                _read_prompts, ask, parts.tokenizer, abandon_on_cancel=True
            )
            wanted = [prompt.constraint for prompt in prompts]
            for constraint in {one for one in wanted if one is not None}:
                await anyio.to_thread.run_sync(
                    parts.engine.check, constraint, limiter=parts.compiling
                )
        requests = _requests(ask, prompts, parts, target)
        rows: list[Row] = []
        replies: list[Reply] = []
        try:
            for index, request in enumerate(requests):
                number, choice = divmod(index, ask.choices)
                prompt = prompts[number]
                echo = prompt.echoes[choice]
                transcript = Transcript(
                    prompt.detokenizers[choice],
                    ask.stops,
                    index=index,
                    start=0 if echo is None else len(echo.text),
                    reader=prompt.reader(),
                )
                rows.append(Row(parts, request, deadline, transcript, echo))
                replies.append(rows[-1].reply(index, choice))
            async with merged(replies) as reply:
                yield reply
        finally:
            with anyio.CancelScope(shield=True):
                for reply in replies:
                    await reply.aclose()
                for row in rows:
                    await row.close()


def _check_rows(ask: Ask, most: int) -> None:
    count = len(ask.prompts) * ask.choices
    if count > most:
        raise InvalidRequest(
            f"The request asks for {count} texts, and the queue holds {most}: send several "
            "requests, or raise queue_limit.",
            param=ask.prompt_field if ask.choices == 1 else ask.choices_field,
        )


def _read_prompts(ask: Ask, tokenizer: Tokenizer) -> list[_Prompt]:
    prompts = []
    for number, encode in enumerate(ask.prompts):
        encoded = encode(tokenizer)
        tokens = encoded.tokens
        check_vocabulary(tokens, _field(ask, number), tokenizer.vocab_size)
        detokenizers = tuple(tokenizer.detokenizer() for _ in range(ask.choices))
        echoes: tuple[Echo | None, ...] = (None,) * ask.choices
        if ask.echo:
            reported = ask.prompt_logprobs is not None
            text = ask.echo[number]
            echoes = tuple(Echo(each, tokens, text, reported=reported) for each in detokenizers)
        prompts.append(_Prompt(encoded, encoded.constraint or ask.constraint, detokenizers, echoes))
    return prompts


def _requests(ask: Ask, prompts: Sequence[_Prompt], parts: Parts, target: Target) -> list[Generate]:
    """One for each row, by index."""
    biased = [token for token, _ in ask.sampling.logit_bias]
    check_vocabulary(biased, "logit_bias", parts.tokenizer.vocab_size)
    requests = []
    for number, prompt in enumerate(prompts):
        field = _field(ask, number)
        tokens = tuple(prompt.encoded.tokens)
        limit = _completion_limit(ask, field, len(tokens), parts.tokenizer.max_context)
        for choice in range(ask.choices):
            index = number * ask.choices + choice
            seed = choice_seed(ask.sampling.seed, choice)
            requests.append(
                Generate(
                    request_id=f"{ask.row_id}-{index}" if index else ask.row_id,
                    prompt=tokens,
                    max_tokens=limit,
                    sampling=replace(ask.sampling, seed=seed),
                    end_tokens=parts.tokenizer.end_tokens,
                    revision=target.revision,
                    flow=target.flow,
                    priority=ask.priority + (index >= FIRST_ROWS),
                    constraint=prompt.constraint,
                    prompt_logprobs=ask.prompt_logprobs,
                )
            )
    return requests


def _field(ask: Ask, number: int) -> str:
    return f"{ask.prompt_field}[{number}]" if len(ask.prompts) > 1 else ask.prompt_field


def _completion_limit(ask: Ask, field: str, prompt_tokens: int, context: int) -> int:
    if not prompt_tokens:
        raise InvalidRequest("The prompt has no tokens; say something.", param=field)
    room = context - prompt_tokens
    wanted = max(room, 1) if ask.max_tokens is None else ask.max_tokens
    if ask.cut_to_context and room > 0:
        return min(wanted, room)
    if wanted > room:
        raise PromptTooLong(
            f"The model's context holds {context} tokens, but {prompt_tokens + wanted} are asked "
            f"for: {prompt_tokens} in the prompt and {wanted} for the completion. Shorten the "
            "prompt or lower max_tokens.",
            param=field,
        )
    return wanted


def check_vocabulary(tokens: Sequence[int], field: str, vocabulary: int) -> None:
    """Raise InvalidRequest where one of ``tokens``, in the request's ``field``, is none."""
    wrong = next((token for token in tokens if not 0 <= token < vocabulary), None)
    if wrong is not None:
        raise InvalidRequest(
            f"{field}: there is no token {wrong}; the model has the ids 0 to {vocabulary - 1}.",
            param=field,
        )
