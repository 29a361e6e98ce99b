"""What does a core on another machine cost in speed, by its distance, and in loss, by how many tokens it tells?

    python -m benchmarks remote --corpus til.train.jsonl til.heldout.jsonl --out FILE

The core runs behind `ssd serve` in this process, which also continues the beginnings of held-out documents: with the
core here, and there, alone and beside a memory of the training text. Seconds are the processor's, of both sides
together, and the delay is added to each call, so that other work on the machine does not count.

The loss is that of held-out documents' own text, exactly as it is predicted when a text is written, if the server tells
so many of the likeliest tokens in each place; and if all of what it does not tell is shared out, by Zipf's law or
evenly.
"""

from __future__ import annotations

import math
import socket
import threading
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import product

import torch
from torch import Tensor

from benchmarks.drafting import beginnings, writer_of
from benchmarks.lib.corpora import Corpus, corpora_of, encode, read_texts
from benchmarks.lib.experiment import Line, Workshop
from benchmarks.lib.tables import mean, table
from benchmarks.lib.timing import processor_seconds
from ssdcli.api import Options, Writer
from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.generation.loaded_model import LoadedModel, open_model, open_remote
from ssdcli.hub.remote import register_remote
from ssdcli.models.memory.memory_denoiser import MemoryDenoiser
from ssdcli.models.remote import remote_denoiser
from ssdcli.models.remote.address import Address
from ssdcli.models.remote.completions import Guess, read_completion
from ssdcli.models.remote.remote_denoiser import MOST, RemoteDenoiser, dense, spread
from ssdcli.registry.store import SMOLLM2
from ssdcli.serving.endpoint import Server
from ssdcli.serving.worker import Worker

QUICK = {"rows": 1, "before": 16, "length": 8, "temperatures": [0.7], "documents": 1, "told": [5, 20]}
DELAYS = (0, 20, 100, 300)  # milliseconds
PLACES = {"here": MOST, "there": MOST, "there, a token a call": 1}  # with the most tokens of a call
WAYS = {"as written": 0.03, "all by Zipf": 1.0, "all evenly": 1.0}  # with the most that is shared out
MEMORY = 0.2  # its weight in losses
_LONGEST = 128  # tokens of a document whose loss is measured
_MOST = 1000  # alternatives that are asked for


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--corpus", nargs=2, action="append", default=[], metavar=("TRAIN", "HELDOUT"))
    parser.add_argument("--core", default=SMOLLM2, help="of the user's registry, causal")
    parser.add_argument("--rows", type=int, default=4, help="documents that are continued")
    parser.add_argument("--before", type=int, default=48, help="tokens of a document that are continued")
    parser.add_argument("--length", type=int, default=48, help="tokens of a continuation")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.7])
    parser.add_argument("--documents", type=int, default=12, help="documents whose loss is measured")
    parser.add_argument("--told", type=int, nargs="+", default=[5, 20, 100, 1000], help="of the likeliest tokens")


def work(given: Namespace, workshop: Workshop) -> None:
    """Write every continuation and measure every loss."""
    entry, worker = workshop.model(given.core).entry, Worker(workshop.registry)
    with serving(worker) as url:
        asked = Address.parse(f"{url}#{given.core}", "SSD_CORE_TOKEN")
        far = open_remote(register_remote(asked, entry.folder, "far", workshop.registry, overwrite=True))
        near = open_model(entry)
        for corpus in corpora_of(given):
            prompts = beginnings(near, corpus, given.rows, given.before)
            for place, core in {"here": near, "there": far, "there, a token a call": far}.items():
                both = writer_of(core, corpus)
                alone = Writer([Member("core", core, Constant(1.0))], "core")
                writers = {"core": alone, "core and memory": both}
                for (members, writer), temperature in product(writers.items(), given.temperatures):
                    options = Options(given.length, temperature=temperature, plain=True)
                    piece = {"corpus": corpus.name, "members": members, "temperature": temperature, "core": place}
                    workshop.piece(piece, partial(continued, writer, worker, prompts, options, place))
            memory = both.members[1].model.denoiser
            assert isinstance(memory, MemoryDenoiser)
            workshop.piece({"corpus": corpus.name, "losses": "nats"}, partial(losses, far, memory, corpus, given))


@contextmanager
def serving(worker: Worker) -> Iterator[str]:
    """Serve in a thread; the address."""
    server = Server(worker)
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def continued(writer: Writer, worker: Worker, prompts: Sequence[str], options: Options, place: str) -> Line:
    """What continuing the prompts took, one after the other."""
    remote_denoiser.MOST = PLACES[place]
    writer.generate(prompts[0], options, max_tokens=4)  # so that nothing is counted that is done once
    calls, began = worker.counts["texts"], processor_seconds()
    results = [writer.generate(prompt, options, seed=seed) for seed, prompt in enumerate(prompts)]
    return {
        "tokens": sum(one.tokens for one in results),
        "calls": worker.counts["texts"] - calls,
        "seconds": round(processor_seconds() - began, 2),
        "texts": [one.text for one in results],
    }


@torch.no_grad()
def losses(core: LoadedModel, memory: MemoryDenoiser, corpus: Corpus, given: Namespace) -> Line:
    """Nats per token of held-out documents, by how many tokens are told and how the rest is shared out."""
    found: dict[str, list[float]] = {}
    size = core.denoiser.process.vocabulary
    by_zipf = spread(size, [size - 1])
    for ids in encode(read_texts(corpus.heldout, given.documents), core.codec.tokenizer):
        tokens = ids[:_LONGEST]
        places = told(core.denoiser, [core.format.opening, *tokens])
        beside = memory.conditionals(tokens, range(len(tokens)))
        for guess, token, log_p in zip(places, tokens, beside, strict=True):
            for count in given.told:
                few = replace(guess, ids=guess.ids[:count], log_p=guess.log_p[:count])
                for name, nats in nats_of(few, token, float(log_p[token]), by_zipf).items():
                    found.setdefault(f"{count} {name}", []).append(nats)
    return {name: round(mean(values), 4) for name, values in found.items()}


def told(core: Denoiser, ids: Sequence[int]) -> list[Guess]:
    """What the server tells of each token of a text but the first, the likeliest tokens first."""
    assert isinstance(core, RemoteDenoiser)
    client, size = core.client, core.process.vocabulary
    body = {"model": client.address.model, "prompt": [*ids], "max_tokens": 0, "echo": True, "logprobs": _MOST}
    answer = client.call("/completions", body | {"return_tokens_as_token_ids": True})
    return [in_order(guess) for guess in read_completion(answer, "the server", size, lambda _: None).guesses[1:]]


def in_order(guess: Guess) -> Guess:
    """A guess with the likeliest tokens first, and no more than were asked for."""
    pairs = sorted(zip(guess.log_p, guess.ids, strict=True), reverse=True)[:_MOST]
    return Guess(guess.token, tuple(id for _, id in pairs), tuple(log_p for log_p, _ in pairs))


def nats_of(guess: Guess, token: int, remembered: float, by_zipf: Tensor) -> Line:
    """Nats of a token, alone and beside a memory, by each way to share out what is not told; and how much that is."""
    even = by_zipf.masked_fill(by_zipf > -math.inf, 0.0)
    found = {"not told": 1 - sum(map(math.exp, guess.log_p))}
    for way, most in WAYS.items():
        own = float(dense(guess, even if way == "all evenly" else by_zipf, most)[token])
        both = (1 - MEMORY) * math.exp(own) + MEMORY * math.exp(remembered)
        found |= {f"alone, {way}": -own, f"beside memory, {way}": -math.log(both)}
    return found


def report(found: Sequence[Line]) -> str:
    """Tables of speed and of losses."""
    texts = [line for line in found if "core" in line]
    here = {_case(line): line for line in texts if line["core"] == "here"}
    speeds = [_row(line, here[_case(line)]) for line in texts]
    header = ["corpus", "members", "T", "core", "tokens a call", "same texts", *(f"{delay} ms" for delay in DELAYS)]
    rows = [row for line in found if "losses" in line for row in _losses(line)]
    columns = [f"{members}, {way}" for members in ("alone", "beside memory") for way in WAYS]
    return table(header, speeds) + "\n\n" + table(["corpus", "told", "not told", *columns], rows)


def _case(line: Line) -> tuple[object, ...]:
    return line["corpus"], line["members"], line["temperature"]


def _row(line: Line, here: Line) -> Sequence[object]:
    same = sum(one == other for one, other in zip(line["texts"], here["texts"], strict=True))
    each = line["tokens"] / line["calls"] if line["calls"] else ""
    speeds = [line["tokens"] / (line["seconds"] + line["calls"] * delay / 1000) for delay in DELAYS]
    return [*_case(line), line["core"], each, f"{same} of {len(line['texts'])}", *speeds]


def _losses(line: Line) -> Iterator[Sequence[object]]:
    counts = dict.fromkeys(int(name.split()[0]) for name in line if name.endswith("not told"))
    for count in counts:
        columns = [f"{members}, {way}" for members in ("alone", "beside memory") for way in WAYS]
        yield line["corpus"], count, line[f"{count} not told"], *(f"{line[f'{count} {name}']:.3f}" for name in columns)
