"""Calls to a server of OpenAI's API: patient with one that is busy, slow or away, and clear about one that refuses."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit
from weakref import finalize

from ssdcli.errors import RemoteFailed
from ssdcli.models.remote.address import Address
from ssdcli.models.remote.completions import Completion, Named, read_completion

WAITS = (0.5, 1, 2, 4, 8)  # seconds between two tries
_LONGEST_WAIT = 60.0  # seconds, for a server that asks to wait
_PATIENCE = 60.0  # seconds for an answer
_LONGEST_ANSWER = 64 << 20  # bytes
_AT_ONCE = 8  # calls
_BUSY = (408, 429, 500, 502, 503, 504)
_SHOWN = 200  # characters of what a server says


class RemoteRefused(RemoteFailed):
    """A call that a server does not take as it is (status 400 or 422)."""


class _Failed(Exception):
    """A try that another may follow: why, as a clause, and the seconds that the server asks to wait."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


class Client:
    """Asks one server; connections stay open between calls, of which several may be made at once."""

    def __init__(self, address: Address, vocabulary: int, named: Named) -> None:
        """Ask nothing yet; vocabulary, named: as for `read_completion`."""
        self.address = address
        self._vocabulary = vocabulary
        self._named = named
        self._idle: list[HTTPConnection] = []
        self._pool: ThreadPoolExecutor | None = None
        finalize(self, _close, self._idle)

    def models(self) -> dict[str, int | None]:
        """The server's models: the longest text of each by its name, None where that is not told."""
        answer = self.call("/models")
        with suppress(LookupError, TypeError, AttributeError):
            return {str(model["id"]): _longest(model) for model in answer["data"]}
        raise RemoteFailed(f"{self.address.host} lists no models.", _OTHER_ADDRESS)

    def complete(self, prompt: str | Sequence[int], count: int) -> Completion:
        """The likeliest next tokens after a prompt, `count` of them, with the likeliest in the place of each.

        A token that is a part of a character is not told by all servers: then the first place alone is asked for, and
        RemoteFailed is raised if that is such a one.
        """
        body = {
            "model": self.address.model,
            "prompt": prompt if isinstance(prompt, str) else list(prompt),
            "max_tokens": count,
            "temperature": 0,
            "logprobs": self.address.top,
            "ignore_eos": True,
            "return_tokens_as_token_ids": True,
        }
        answer = read_completion(self.call("/completions", body), self.address.host, self._vocabulary, self._named)
        if len(answer.guesses) >= max(1, answer.written or 0):
            return answer
        if count > 1:
            return self.complete(prompt, 1)
        problem = f"{self.address.host} gave no log-probabilities for a token that it wrote."
        raise RemoteFailed(problem, "Serve the model with vLLM or 'ssd serve'; see docs/remote.md.")

    def complete_all(self, prompts: Sequence[tuple[Sequence[int], int]]) -> Iterator[Completion]:
        """The same for several prompts, each with its count, at once."""
        if len(prompts) == 1:
            return iter([self.complete(*prompts[0])])
        self._pool = self._pool or ThreadPoolExecutor(_AT_ONCE, "ssd-remote")
        return self._pool.map(lambda one: self.complete(*one), prompts)

    def call(self, path: str, body: object = None) -> Any:
        """What the server answers (RemoteFailed); tried again while it is busy or away."""
        data = None if body is None else json.dumps(body).encode()
        for wait in WAITS:
            try:
                return self._try(path, data)
            except _Failed as failed:
                time.sleep(max(wait, min(_LONGEST_WAIT, failed.wait or 0)))
        try:
            return self._try(path, data)
        except _Failed as failed:
            problem = f"{self.address.host} {failed}, {len(WAITS) + 1} times in a row."
            raise RemoteFailed(problem, "Check the server and the network, and try again.") from None

    def _try(self, path: str, data: bytes | None) -> Any:
        """One try (_Failed, RemoteFailed)."""
        url, headers, kept = urlsplit(self.address.url), _headers(self.address), self._kept()
        ended = False
        connection = kept or self._connect()
        try:
            connection.request("GET" if data is None else "POST", url.path + path, data, headers)
            response = connection.getresponse()
            text = response.read(_LONGEST_ANSWER)
            ended = response.isclosed()
        except (OSError, HTTPException) as error:
            if kept is not None and isinstance(error, ConnectionError):  # the server closed it meanwhile
                return self._try(path, data)
            raise _Failed(_why(error)) from error
        finally:
            if not ended:  # the rest must not be taken for the next answer
                connection.close()
        self._idle += [connection] * ended
        return self._read(response.status, text, response.headers.get("Retry-After"))

    def _kept(self) -> HTTPConnection | None:
        """A connection that is open and idle."""
        with suppress(IndexError):
            return self._idle.pop()
        return None

    def _connect(self) -> HTTPConnection:
        parts = urlsplit(self.address.url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        return kind(parts.hostname or "", parts.port, timeout=_PATIENCE)

    def _read(self, status: int, text: bytes, retry_after: str | None) -> Any:
        """The JSON of an answer (_Failed, RemoteFailed)."""
        host, said = self.address.host, _said(text, _token(self.address))
        if status in _BUSY:
            raise _Failed(f"answered with status {status}{said}", _seconds(retry_after))
        if status in (401, 403):
            problem = f"{host} does not take the token in {self.address.variable}{said}."
            lacks = f"{host} needs a token, and the variable {self.address.variable} is not set{said}."
            raise RemoteFailed(problem if _token(self.address) else lacks, f"Set {self.address.variable} to it.")
        if status in (400, 422):
            raise RemoteRefused(f"{host} refused the call{said}.", "See docs/remote.md for what a server must know.")
        if status != 200:
            raise RemoteFailed(f"{host} answered with status {status}{said}.", _OTHER_ADDRESS)
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise RemoteFailed(f"{host} answered with something else than JSON.", _OTHER_ADDRESS) from None


_OTHER_ADDRESS = "Check the address: it must be that of an API like OpenAI's, such as http://HOST:8000/v1."


def _close(connections: Sequence[HTTPConnection]) -> None:
    for connection in connections:
        connection.close()


def _token(address: Address) -> str:
    """The bearer token; empty without one (RemoteFailed for one that no header can hold)."""
    token = os.environ.get(address.variable, "").strip()
    if token.isascii() and (token.isprintable() or not token):
        return token
    raise RemoteFailed(f"what {address.variable} holds is no token.", "Set it to the server's bearer token.")


def _headers(address: Address) -> dict[str, str]:
    token = _token(address)
    bearer = {"Authorization": f"Bearer {token}"} if token else {}
    return {"Content-Type": "application/json", "User-Agent": "ssd", **bearer}


def _why(error: Exception) -> str:
    """What happened, as a clause about the server."""
    if isinstance(error, TimeoutError):
        return f"gave no answer within {_PATIENCE:g} seconds"
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"cannot be reached ({reason})"


def _longest(model: Mapping[str, Any]) -> int | None:
    """The longest text of a listed model, as vLLM and SGLang or as llama.cpp tell it."""
    told = model.get("max_model_len", (model.get("meta") or {}).get("n_ctx"))
    return told if isinstance(told, int) else None


def _seconds(retry_after: str | None) -> float | None:
    with suppress(TypeError, ValueError):
        return float(retry_after or "")
    return None


def _said(text: bytes, token: str) -> str:
    """The message of an error in OpenAI's form, without the token, as a clause; empty if there is none."""
    with suppress(ValueError, LookupError, TypeError, RecursionError):
        value = json.loads(text)
        message = value["error"]["message"] if "error" in value else value["message"]
        shown = str(message).replace(token, "***") if token else str(message)
        return ": " + "".join(filter(str.isprintable, shown))[:_SHOWN].rstrip(".")
    return ""
