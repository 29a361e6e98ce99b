"""The HTTP side: routes, the token, limits, streams. Nothing of prompts or texts is logged."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ssdcli.errors import SsdError
from ssdcli.registry.store import Entry
from ssdcli.serving.answers import Answer, error_json
from ssdcli.serving.asking import Ask, Refused, read_ask
from ssdcli.serving.ensembles import named, writes
from ssdcli.serving.worker import COUNTS, Job, Part, Worker

LONGEST_BODY = 16 << 20  # bytes
_PATIENCE = 60.0  # seconds for a body to arrive
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_OPEN = ("/health",)  # paths that need no token
_FAREWELL = 3  # seconds that connections have once the server is to end
_GONE = 499  # what is counted where a client did not wait

T = TypeVar("T")


class _ClientGone(Exception):
    """Nobody waits for the answer."""


def make_app(worker: Worker, token: str | None = None) -> Starlette:
    """The application, which starts and ends the worker; token: what calls must carry, None for calls from here."""
    endpoint = Endpoint(worker)
    routes = [
        Route("/health", endpoint.health),
        Route("/metrics", endpoint.metrics),
        Route("/v1/models", endpoint.models),
        Route("/v1/models/{name:path}", endpoint.model),
        Route("/v1/chat/completions", endpoint.call, methods=["POST"]),
        Route("/v1/completions", endpoint.call, methods=["POST"]),
    ]
    app = Starlette(routes=routes, lifespan=endpoint.lifespan)
    app.add_middleware(_Guard, token=token)
    for kind in (Refused, SsdError, HTTPException, Exception):
        app.add_exception_handler(kind, _refuse)
    return app


class Server(uvicorn.Server):
    """The application, with `run(sockets=[...])`. It logs nothing, not even errors, which may quote a text."""

    def __init__(self, worker: Worker, token: str | None = None) -> None:
        """Serve with `make_app`."""
        self._worker = worker
        app = make_app(worker, token)
        super().__init__(
            uvicorn.Config(app, log_level="critical", access_log=False, timeout_graceful_shutdown=_FAREWELL)
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what is being written, so that those who wait hear of it, and then the connections."""
        await run_in_threadpool(self._worker.close)
        await super().shutdown(sockets)


class Endpoint:
    """What the routes answer."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._calls: Counter[tuple[str, int]] = Counter()

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Run the worker for as long as the server runs."""
        self._worker.start()
        yield
        await run_in_threadpool(self._worker.close)

    async def health(self, _: HttpRequest) -> Response:
        """Whether the worker works."""
        return _json({"status": "ok"}) if self._worker.is_alive() else _json({"status": "stopped"}, 503)

    async def metrics(self, _: HttpRequest) -> Response:
        """Counts, in Prometheus' text form."""
        worker = self._worker
        lines = ["# HELP ssd_calls_total Calls by path and status.", "# TYPE ssd_calls_total counter"]
        for (path, status), count in sorted(self._calls.items()):
            lines.append(f'ssd_calls_total{{path="{path}",status="{status}"}} {count}')
        for name in COUNTS:
            lines += [f"# TYPE ssd_{name}_total counter", f"ssd_{name}_total {worker.counts[name]}"]
        for name, value in (("texts_writing", worker.writing), ("texts_queued", worker.queued)):
            lines += [f"# TYPE ssd_{name} gauge", f"ssd_{name} {value}"]
        return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")

    async def models(self, _: HttpRequest) -> Response:
        """The models that can be asked for."""
        entries = await run_in_threadpool(self._worker.registry.entries)
        return _json({"object": "list", "data": [_model(one) for one in entries if writes(one)]})

    async def model(self, request: HttpRequest) -> Response:
        """An ensemble, by its name."""
        name = request.path_params["name"]
        spec = await run_in_threadpool(named, name, self._worker.registry)
        return _json(_model(spec.members[-1].model.entry) | {"id": name})

    async def call(self, request: HttpRequest) -> Response:
        """A completion, or an answer in a conversation."""
        path = request.url.path
        try:
            ask = read_ask(await _body(request), chat=path.endswith("/chat/completions"))
            response = await _answer(request, self._worker, ask)
        except (Refused, SsdError) as error:
            self._calls[path, Refused.because(error).status] += 1
            raise
        except _ClientGone:
            response = Response(status_code=_GONE)
        self._calls[path, response.status_code] += 1
        return response


class _Guard:
    """Lets only those in who have the token or, where there is none, who speak to this machine by a name of its own.

    A page in a browser on this machine cannot reach the models by a name of its choice that leads here.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = (
            self._refused(Headers(scope=scope)) if scope["type"] == "http" and scope["path"] not in _OPEN else None
        )
        await (self._app if refused is None else _json(error_json(refused), refused.status))(scope, receive, send)

    def _refused(self, headers: Headers) -> Refused | None:
        if self._token is not None:
            given = headers.get("authorization", "").encode()
            if secrets.compare_digest(given, f"Bearer {self._token}".encode()):
                return None
            return Refused(401, "incorrect API key provided.", "invalid_api_key")
        with suppress(ValueError):
            if urlsplit(f"//{headers.get('host', '')}").hostname in LOOPBACK:
                return None
        return Refused(403, "without a token, only calls to localhost are answered.", "wrong_host")


async def _body(request: HttpRequest) -> Any:
    """The JSON value that was sent (Refused for anything else, and for too much of it)."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "the content type must be application/json.")
    data = bytearray()
    try:
        async with asyncio.timeout(_PATIENCE):
            async for chunk in request.stream():
                data += chunk
                if len(data) > LONGEST_BODY:
                    raise Refused(413, f"the body is longer than {LONGEST_BODY >> 20} MiB.")
        return json.loads(data)
    except TimeoutError:
        raise Refused(408, "the body did not arrive in time.") from None
    except (ValueError, RecursionError):
        raise Refused(400, "the body is not JSON.") from None


async def _answer(request: HttpRequest, worker: Worker, ask: Ask) -> Response:
    """Have a call answered (Refused); once its client has left, its texts are cut."""
    parts = _Parts()
    job = Job(ask, parts.put)
    worker.submit(job)
    answer = Answer(ask)  # now that they are not too many
    try:
        if ask.stream:
            first = await _unless_gone(request, parts.next())  # a refusal is still an answer of its own
            return _Stream(_events(answer, first, parts), job)

        async def whole() -> dict[str, Any]:
            while not answer.done:
                answer.add(await parts.next())
            return answer.whole()

        return _json(await _unless_gone(request, whole()))
    except BaseException:
        job.left = True
        raise


class _Parts:
    """What the worker's thread tells this one of a call."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Part | Refused] = asyncio.Queue()

    def put(self, part: Part | Refused) -> None:
        """Pass a part on, from any thread."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._queue.put_nowait, part)

    async def next(self) -> Part:
        """The next part, or raise the refusal."""
        part = await self._queue.get()
        if isinstance(part, Refused):
            raise part
        return part


async def _unless_gone(request: HttpRequest, waiting: Awaitable[T]) -> T:
    """The outcome, or raise _ClientGone once the client has closed the connection."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    watch, work = asyncio.ensure_future(gone()), asyncio.ensure_future(waiting)
    try:
        await asyncio.wait({watch, work}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise _ClientGone
        return work.result()
    finally:
        watch.cancel()
        work.cancel()


async def _events(answer: Answer, part: Part, parts: _Parts) -> AsyncIterator[str]:
    """Server-sent events: a chunk each, then `[DONE]`; a failure on the way is the last chunk."""
    try:
        while True:
            for chunk in answer.chunks(part):
                yield f"data: {json.dumps(chunk)}\n\n"
            if answer.done:
                break
            part = await parts.next()
        yield "data: [DONE]\n\n"
    except Refused as refused:
        yield f"data: {json.dumps(error_json(refused))}\n\n"


class _Stream(StreamingResponse):
    """Events for as long as the client listens."""

    def __init__(self, events: AsyncIterator[str], job: Job) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._job.left = True


def _json(value: object, status: int = 200) -> Response:
    headers = {"Retry-After": "1"} if status == 429 else None
    return Response(json.dumps(value), status, headers, media_type="application/json")


async def _refuse(_: HttpRequest, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        error = Refused(error.status_code, f"{error.detail}.")
    refused = Refused.because(error)
    return _json(error_json(refused), refused.status)


def _model(entry: Entry) -> dict[str, Any]:
    created = int(datetime.fromisoformat(entry.manifest.created).timestamp())
    return {"id": entry.name, "object": "model", "created": created, "owned_by": "ssd", "kind": entry.manifest.kind}
