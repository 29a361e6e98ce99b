"""How fast does a causal core run on this CPU: in transformers, here, with members beside it, and in llama.cpp?

    python -m benchmarks core_speed --core smollm2 [--members mem] [--gguf FILE.gguf] [--threads 1 2]
    python -m benchmarks core_speed --core smollm2 --busy --threads 1
    python -m benchmarks core_speed --core smollm2 --tables losses --heldout FILE.jsonl
    python -m benchmarks core_speed --core smollm2 --members mem --gguf FILE.gguf --tables starts batches

Alternatives take turns, and the least of their times counts. With --busy, times are seconds of the processor, not of
the clock: on a busy machine ratios mean something even then, milliseconds do not. llama.cpp runs if the package
llama-cpp-python can be imported and --gguf names the file that the core was pulled from; it reads weights in that
file's own bits, and picks the most probable token itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.lib.corpora import read_texts
from benchmarks.lib.tables import heading, mean, signed, table
from benchmarks.lib.timing import Run, least, processor_seconds
from ssdcli.api import Options, Request, load
from ssdcli.engine.causal import CausalBackbone
from ssdcli.generation.writer import Writer
from ssdcli.machine.placement import Placement

DTYPES = ("float32", "bfloat16", "int8", "int4")
LENGTHS = (1, 4, 8, 16)  # tokens of a pass
MEASURED = 256  # tokens of a document that are scored
PREFIX = 128  # tokens before a pass
PROMPT = "The first thing to know about the history of bread is that"
TRANSFORMERS, LLAMA = "transformers", "llama.cpp"
ROWS = (1, 4, 16, 32)  # of a batch
QUICK = {"rounds": 2, "tokens": 8, "documents": 2}


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--core", default="smollm2", help="a causal core of the registry")
    parser.add_argument("--members", nargs="*", default=[], help="small models or memories to write beside it")
    parser.add_argument("--gguf", type=Path, help="the file that the core was pulled from, for llama.cpp")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES)[:2])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    parser.add_argument("--tokens", type=int, default=64, help="of a text")
    parser.add_argument("--rounds", type=int, default=9, help="how often each alternative has its turn")
    parser.add_argument("--heldout", type=Path, help="documents, for the losses")
    parser.add_argument("--documents", type=int, default=40)
    parser.add_argument("--busy", action="store_true", help="measure seconds of the processor")


@torch.no_grad()
def main(given: Namespace) -> None:
    """Print the tables, for each number of threads."""
    for threads in given.threads:
        torch.set_num_threads(threads)
        print(f"{heading()}\n")
        for measured in (TABLES[name] for name in given.tables):
            print(f"{measured.__doc__}\n\n{measured(given)}\n", flush=True)


def passes(given: Namespace) -> str:
    """Milliseconds of a pass over so many tokens after 128 others, head included, and transformers' time over each."""
    runs: dict[str, Run] = {}
    native = _transformers(given.core)
    for length in LENGTHS:
        runs[f"{TRANSFORMERS} {length}"] = _native_pass(native, length)
    for dtype in given.dtypes:
        backbone = _backbone(_writer(given, dtype))
        runs |= {f"{dtype} {length}": _pass(backbone, length) for length in LENGTHS}
    lacking = _lacking(given)
    if not lacking:
        llama = _llama(given)
        runs |= {f"{LLAMA} {length}": _llama_pass(llama, length) for length in LENGTHS}
    times = least(runs, given.rounds, _clock(given))
    rows: list[list[object]] = []
    for name in (TRANSFORMERS, *given.dtypes, *(() if lacking else (LLAMA,))):
        cells = []
        for length in LENGTHS:
            ms = times[f"{name} {length}"]
            cells.append(f"{ms:.1f} ({times[f'{TRANSFORMERS} {length}'] / ms:.2f})")
        rows.append([f"{name}, bfloat16" if name == TRANSFORMERS else name, *cells])
    return table(["way", *(f"{length} tokens" for length in LENGTHS)], rows) + lacking


def texts(given: Namespace) -> str:
    """Tokens a second of greedy texts after a short prompt, and their ratio to transformers' and llama.cpp's."""
    writes: dict[str, Callable[[], int]] = {f"{TRANSFORMERS}, bfloat16": _native_text(given)}
    for dtype in given.dtypes:
        writes[f"the core alone, {dtype}"] = _text(_writer(given, dtype), given.tokens)
    if given.members:
        for dtype in given.dtypes:
            beside = _writer(given, dtype, members=True)
            writes[f"the core, {', '.join(given.members)}, {dtype}"] = _text(beside, given.tokens)
    lacking = _lacking(given)
    if not lacking:
        writes[LLAMA] = _llama_text(_llama(given), given.tokens)
    counts = {name: write() for name, write in writes.items()}
    times = least(writes, given.rounds, _clock(given))
    pace = {name: 1000 * counts[name] / ms for name, ms in times.items()}
    first, last = next(iter(pace)), pace.get(LLAMA)
    rows = [[name, one, f"{one / pace[first]:.2f}", f"{one / last:.2f}" if last else ""] for name, one in pace.items()]
    made = table(["way", "tokens a second", f"over {TRANSFORMERS}", f"over {LLAMA}"], rows)
    return made + lacking


def losses(given: Namespace) -> str:
    """Exact code lengths of held-out documents, their first 256 tokens, by the dtype of the weights, in long passes."""
    found: dict[str, Tensor] = {}
    for dtype in given.dtypes:
        model: Any = _writer(given, dtype).members[0].model
        before = [model.format.opening]
        ids = [model.codec.encode(text)[:MEASURED] for text in read_texts(given.heldout, given.documents)]
        scores = [model.denoiser.score(torch.tensor([before + row]))[0] for row in ids if row]
        found[dtype] = -torch.cat(scores).double()
    reference = next(iter(found.values()))
    rows: list[list[object]] = []
    for dtype, nats in found.items():
        away = nats - reference
        error = float(away.std()) / len(away) ** 0.5
        rows.append([dtype, f"{mean(nats.tolist()):.4f}", signed(float(away.mean()), error), float(away.std())])
    return table(["weights", "nats a token", "more than the first", "deviation of a token"], rows)


def starts(given: Namespace) -> str:
    """Seconds from a command to its end, and those over the import of torch alone; the text is one token long."""
    writes = [f"--core={given.core}", *(f"--with={name}" for name in given.members), "--plain", "--max-tokens=1"]
    ways = {"python, torch imported": ["-c", "import torch"], "ssd --help": ["-m", "ssdcli", "--help"]}
    ways["ssd doctor"] = ["-m", "ssdcli", "doctor"]
    for name, prompt in (("a word", "The"), ("a sentence", PROMPT)):
        ways[f"ssd generate, after {name}"] = ["-m", "ssdcli", "generate", *writes, prompt]
    if given.gguf:
        ways["ssd pull FILE.gguf --dry-run"] = ["-m", "ssdcli", "pull", str(given.gguf), "--dry-run"]
    runs = {name: partial(_started, words) for name, words in ways.items()}
    times = least(runs, given.rounds, _children_seconds if given.busy else time.perf_counter)
    first = next(iter(times.values()))
    rows = [[name, f"{ms / 1000:.2f}", f"{ms / first:.2f}"] for name, ms in times.items()]
    return table(["command", "seconds", "over torch"], rows)


def batches(given: Namespace) -> str:
    """Texts a second, of batches and of the same texts one after the other, and whether each is what it is alone."""
    writer = _writer(given, given.dtypes[0], members=True)
    options = Options(max_tokens=given.tokens, temperature=0.0, seed=0)
    requests = [Request(f"{PROMPT}{' and' * number}", plain=True) for number in range(max(ROWS))]
    alone = [writer.generate_batch([request], options)[0].text for request in requests]
    runs: dict[str, Run] = {}
    for count in ROWS:
        runs[f"alone {count}"] = partial(_one_by_one, writer, requests[:count], options)
        runs[f"together {count}"] = partial(writer.generate_batch, requests[:count], options)
        runs[f"undrafted {count}"] = partial(writer.generate_batch, requests[:count], replace(options, draft=0))
    times = least(runs, given.rounds, _clock(given))
    rows: list[list[object]] = []
    for count in ROWS:
        ways = ("together", "undrafted", "alone")
        pace, plain, before = (1000 * count / times[f"{how} {count}"] for how in ways)
        same = [result.text for result in writer.generate_batch(requests[:count], options)] == alone[:count]
        rows.append([count, *(f"{one:.2f}" for one in (before, plain, pace, pace / before)), "yes" if same else "no"])
    return table(["rows", "one after the other", "together, no drafts", "together", "gain", "the same texts"], rows)


TABLES = {"passes": passes, "texts": texts, "losses": losses, "starts": starts, "batches": batches}


def _clock(given: Namespace) -> Callable[[], float]:
    return processor_seconds if given.busy else time.perf_counter


def _writer(given: Namespace, dtype: str, *, members: bool = False) -> Writer:
    """The core in this dtype, alone or with the members that were asked for."""
    return load(given.core, given.members if members else [], placement=Placement(dtype))


def _backbone(writer: Writer) -> CausalBackbone:
    model: Any = writer.members[0].model
    backbone: CausalBackbone = model.denoiser.backbone
    return backbone


def _pass(backbone: CausalBackbone, length: int) -> Run:
    """A pass that writes into a cache after PREFIX tokens, and predicts the token after each."""
    tokens = torch.arange(1000, 1000 + PREFIX + length)[None]
    positions = torch.arange(PREFIX + length)[None]
    before = backbone.embed(tokens[:, :PREFIX])
    cache = backbone.extend(before, positions[:, :PREFIX], None, backbone.new_cache()).spaced(length)

    def run() -> object:
        embedded = backbone.embed(tokens[:, PREFIX:])
        return backbone.logits(backbone.write(embedded, positions[:, PREFIX:], cache, PREFIX))

    return run


def _transformers(core: str) -> Any:
    """The core as transformers runs it, in bfloat16."""
    backbone: Any = _backbone(load(core, [], placement=Placement("float32")))
    return backbone.model.bfloat16()


def _native_pass(model: Any, length: int) -> Run:
    tokens = torch.arange(1000, 1000 + PREFIX + length)[None]
    cache = model(tokens[:, :PREFIX], use_cache=True).past_key_values

    def run() -> object:
        found = model(tokens[:, PREFIX:], past_key_values=cache, use_cache=True).logits
        cache.crop(-length)
        return found

    return run


def _native_text(given: Namespace) -> Callable[[], int]:
    writer = load(given.core, [], placement=Placement("float32"))
    model: Any = writer.members[0].model
    native, ids = model.denoiser.backbone.model.bfloat16(), torch.tensor([model.codec.encode(PROMPT)])
    count = given.tokens
    how = {"do_sample": False, "max_new_tokens": count, "min_new_tokens": count, "pad_token_id": 0}
    return lambda: native.generate(ids, attention_mask=torch.ones_like(ids), **how).shape[1] - ids.shape[1]


def _text(writer: Writer, tokens: int) -> Callable[[], int]:
    write = partial(writer.generate, PROMPT, max_tokens=tokens, temperature=0.0, seed=0, plain=True)
    return lambda: write().tokens


def _children_seconds() -> float:
    """Seconds that processes which have ended had of the processor."""
    return sum(os.times()[2:4])


def _one_by_one(writer: Writer, requests: Sequence[Request], options: Options) -> None:
    for request in requests:
        writer.generate_batch([request], options)


def _started(words: list[str]) -> None:
    """Run Python with these words; compiled modules may be kept, as those of an installed package are."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, *words], capture_output=True, check=True, env=kept)


def _lacking(given: Namespace) -> str:
    """Why llama.cpp does not run, as a line below a table; empty if it does."""
    if given.gguf is None:
        return f"\n\n{LLAMA} did not run: --gguf was not given."
    return "" if find_spec("llama_cpp") else f"\n\n{LLAMA} did not run: llama-cpp-python is not installed."


def _llama(given: Namespace) -> Any:
    from llama_cpp import Llama

    threads = torch.get_num_threads()
    return Llama(str(given.gguf), n_ctx=1024, n_threads=threads, n_threads_batch=threads, verbose=False)


def _llama_pass(model: Any, length: int) -> Run:
    tokens = list(range(1000, 1000 + PREFIX + length))

    def run() -> object:
        if model.n_tokens < PREFIX:  # else they are read already
            model.reset()
            model.eval(tokens[:PREFIX])
        model.n_tokens = PREFIX  # what comes after it is dropped from the cache
        model.eval(tokens[PREFIX:])
        return model.n_tokens

    return run


def _llama_text(model: Any, tokens: int) -> Callable[[], int]:
    ids = model.tokenize(PROMPT.encode(), add_bos=False)
    return lambda: len(list(islice(model.generate(ids, temp=0.0, repeat_penalty=1.0), tokens)))
