"""A prompt as the beginning of its row's text, as ``echo`` asks for it."""

from __future__ import annotations

from collections.abc import Sequence

from server.api.transcript import Piece, Report
from server.core.messages import PromptLogprobs, TokenLogprobs
from server.core.ports import Detokenizer


class Echo:
    """The prompt's text, and reports of its tokens where ``reported``.

    ``text`` is the prompt as it was sent, None where it was sent as tokens, which then say what
    they spell. ``detokenizer`` is left behind the prompt, so that the completion goes on from
    there.
    """

    def __init__(
        self, detokenizer: Detokenizer, prompt: Sequence[int], text: str | None, *, reported: bool
    ) -> None:
        parts: list[str] = []
        offsets: list[int] = []
        length = 0
        for token in prompt:
            offsets.append(length)
            parts.append(detokenizer.add(token))
            length += len(parts[-1])
        spelled = "".join(parts)
        self.text = spelled if text is None else text
        # A tokenizer may begin the text with a token of its own, which the client did not send.
        added = length - len(self.text) if spelled.endswith(self.text) else 0
        self._offsets = [min(max(0, each - added), len(self.text)) for each in offsets]
        self._prompt = prompt
        self._reported = reported
        self._logprobs: list[TokenLogprobs | None] = [None]

    def add(self, event: PromptLogprobs) -> None:
        """Take the next tokens' probabilities."""
        self._logprobs += event.logprobs

    def piece(self, index: int) -> Piece:
        """All of it, for row ``index``; the first token has no probability."""
        if not self._reported:
            return Piece(self.text, index=index)
        reports = zip(self._prompt, self._offsets, self._logprobs, strict=True)
        return Piece(self.text, tuple(Report(*each) for each in reports), index)
