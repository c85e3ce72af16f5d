"""Where a server is, for clients that have the standard library alone."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit


class NoAnswer(Exception):
    """The server is away, breaks off or stays silent; ``str()`` says which, and what to try."""


@dataclass(frozen=True, slots=True)
class Address:
    """A server's root, with or without ``/v1``.

    Raises ValueError for anything but an http(s) URL.
    """

    url: str

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        try:
            _ = parts.port
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"{self.url!r} is no server address; write it like http://127.0.0.1:8000."
            )

    @property
    def root(self) -> str:
        """What stands before every path of the server."""
        return urlsplit(self.url).path.rstrip("/").removesuffix("/v1")

    @contextmanager
    def connected(self, timeout_s: float) -> Iterator[http.client.HTTPConnection]:
        """A connection, closed at the end; ``timeout_s`` bounds a silence.

        What goes wrong with it inside the context is raised as NoAnswer.
        """
        parts = urlsplit(self.url)
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        connection = kind(str(parts.hostname), parts.port, timeout=timeout_s)
        try:
            yield connection
        except TimeoutError:
            raise NoAnswer(
                f"{self.url} was silent for {timeout_s:g} s. Is the server still busy?"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(
                f"No answer from {self.url} ({error}). Is the server up? "
                "'chainlora serve' starts one; --url names another."
            ) from None
        finally:
            connection.close()
