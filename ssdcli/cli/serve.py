"""`ssd serve`: the models behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import secrets
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import typer

from ssdcli.cli.flags import resolve, with_flags
from ssdcli.errors import UsageError
from ssdcli.machine.environment import import_torch
from ssdcli.machine.placement import FREE, Placement
from ssdcli.options.checks import at_least, between
from ssdcli.options.declare import check_options, group, option
from ssdcli.registry.store import Registry


@dataclass(frozen=True)
class ServeSettings:
    """The settings of `ssd serve`.

    host, port: where it listens.
    token: what calls must carry; None for one that is drawn where others can reach the server.
    parallel: texts that are written at once.
    queue: texts that may wait.
    placement: where the models run.
    """

    host: str = option("127.0.0.1", "The address to listen at; 0.0.0.0 for all of the machine's.", common=True)
    port: int = option(8080, "The port; 0 for a free one.", between(0, 65535), metavar="N", common=True)
    token: str | None = option(
        None,
        "Answer only calls with 'Authorization: Bearer TOKEN'. SSD_TOKEN keeps it out of the list of processes.",
        metavar="TOKEN",
        default="none on this machine's own address, else one that is drawn and shown",
        common=True,
    )
    parallel: int = option(8, "Texts to write at once.", at_least(1), metavar="N", common=True)
    queue: int = option(64, "Texts that may wait; further calls get status 429.", at_least(1), metavar="N", common=True)
    placement: Placement = group(FREE)

    def __post_init__(self) -> None:
        check_options(self)


def register(app: typer.Typer) -> None:
    """Add `ssd serve` to the app."""
    app.command("serve")(with_flags(ServeSettings, serve))


def serve(flags: Mapping[str, object]) -> None:
    """Answer calls of OpenAI's API, with all registered models, until interrupted.

    Models are loaded when they are first asked for. Nothing of prompts and texts is logged.
    """
    settings: ServeSettings = resolve(ServeSettings, flags, None)
    try:
        from ssdcli.serving.endpoint import LOOPBACK, Server
    except ImportError:
        raise UsageError("'ssd serve' needs starlette and uvicorn.", "Run pip install 'ssdcli[serve]'.") from None
    import_torch()
    from ssdcli.serving.worker import Worker

    with _listening(settings.host, settings.port) as opened:
        token = settings.token or (None if settings.host in LOOPBACK else secrets.token_urlsafe(24))
        worker = Worker(Registry(), settings.placement, settings.parallel, settings.queue)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        sys.stderr.write(f"http://{host}:{opened.getsockname()[1]}/v1 answers; ^C ends it\n")
        if token is not None and settings.token is None:
            sys.stderr.write(f"token: {token}\n")
        Server(worker, token).run(sockets=[opened])


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens (UsageError if it cannot)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        problem = f"cannot listen at {host}, port {port} ({error.strerror})."
        raise UsageError(problem, "Name another --host or --port; --port 0 takes a free one.") from None
