"""What is written: texts, the ids of their tokens, and what each member had to do for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tests.pins.workshop import Workshop, without

PROCESSES = ("simplex", "masked", "uniform")
SAMPLERS: dict[str, tuple[str | None, ...]] = {
    "simplex": (None, "multi-hot"),
    "masked": ("top-k", "top-k=2", "threshold=0.4", "entropy-bound=0.5", "ancestral"),
    "uniform": (None, "entropy-bound=0.5"),
}
BLENDS: tuple[tuple[str, str | None], ...] = (
    ("mix", None),
    ("mix", "constant"),
    ("mix", "leaning"),
    ("mix", "leaning:-3"),
    ("mix", "sandwich:0.5"),
    ("mix", "file"),
    ("average", "constant"),
    ("average", "leaning"),
    ("average", "sandwich"),
    ("contrast", None),
    ("contrast", "leaning"),
    ("contrast", "file"),
    ("gated", None),
)
PROMPT = "The garden is cold beside the"
CONTEXT = "The vurdel belongs to the ferry."
SHORT = {"max_tokens": 12, "steps": 5}
_TIMES = ("seconds", "tokens_per_second")
# The pinned version let every model read as it was trained to; beside a model of documents, all now continue text.
_AS_TRAINED = "--no-plain"


def told(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what depends on the machine."""
    return without(result, *_TIMES)


def blends(shop: Workshop) -> dict[str, Any]:
    """Every process, sampler, rule and schedule that go together."""
    with shop.entered():
        return dict(case for process in PROCESSES for case in _blended(process, shop.brief))


def _blended(process: str, brief: bool) -> Iterator[tuple[str, Any]]:
    from ssdcli import Blend, Options, Request, load

    for rule, schedule in BLENDS:
        named = f"text/{process}.toml" if schedule == "file" else schedule
        blend = Blend(rule, named)
        weight = None if rule == "gated" else 0.4
        writer = load(f"core-{process}", {f"notes-{process}": weight}, blend=blend)
        request = Request(PROMPT, CONTEXT if rule == "contrast" else "")
        for sampler in SAMPLERS[process][: 1 if brief and schedule is not None else None]:
            explain = sampler == SAMPLERS[process][0]  # which tells the ids
            options = Options(**SHORT, seed=7, sampler=sampler, explain=explain)
            (result,) = writer.generate_batch([request], options)
            yield f"{process}, {rule}, {schedule}, {sampler}", told(result.to_json())


def lineups(shop: Workshop) -> dict[str, Any]:
    """Other members, by the command line."""
    asked = ("--max-tokens", "12", "--steps", "5", "--seed", "11")
    found = {}
    for name, arguments in _LINEUPS.items():
        found[name] = [told(result) for result in shop.json("generate", PROMPT, *asked, *arguments)]
    return found


_LINEUPS: dict[str, tuple[str, ...]] = {
    "the default": (),
    "core alone, simplex": ("--core", "core-simplex", "--explain"),
    "core alone, uniform": ("--core", "core-uniform", "--explain"),
    "small alone": ("--core", "none", "--with", "notes-masked", "--explain"),
    "tuned weight": ("--with", "notes-simplex"),
    "two small models": ("--with", "notes-masked=0.2", "--with", "begun=0.3"),
    "two without a core": ("--core", "none", "--with", "notes-masked=0.2", "--with", "answers", _AS_TRAINED),
    "all weight": ("--with", "notes-uniform=1", "--explain"),
    "a base": ("--with", "begun=0.7", "--rule", "contrast", "--schedule", "leaning:1"),
    "an adapter": ("--with", "adapter=0.6", "--explain"),
    "an adapter alone": ("--core", "none", "--with", "adapter"),
    "an adapter, its base": ("--with", "adapter=0.9", "--rule", "contrast", "--context", "text/context.txt"),
    "answers": ("--with", "answers=0.8", "--system", "Answer in short."),
    "gated by training": ("--with", "begun", "--rule", "gated", "--explain"),
    "the starter": ("--core", "starter", "--explain"),
}


def options(shop: Workshop) -> dict[str, Any]:
    """Every option of the command line, for each process where it has a meaning."""
    found: dict[str, Any] = {}
    for process in PROCESSES:
        pair = ("--with", f"notes-{process}=0.4", "--max-tokens", "14", "--seed", "2")
        for name, arguments in {**_OPTIONS, **_OWN_OPTIONS.get(process, {})}.items():
            if shop.brief and process != "masked" and name not in _IN_BRIEF:
                continue
            prompt = () if "--batch" in arguments else (_GAPS if "--infill" in arguments else PROMPT,)
            results = shop.json("generate", *prompt, *pair, "--steps", "5", *arguments)
            found[f"{process}, {name}"] = [told(result) for result in results]
        found[f"{process}, usual steps"] = [told(result) for result in shop.json("generate", PROMPT, *pair)]
        found[f"{process}, plain"] = shop.text("generate", PROMPT, *pair, "--n", "2", "--steps", "5")
        found[f"{process}, streamed"] = shop.text("generate", *pair, "--steps", "5", stdin="The old\n")
    return found


_GAPS = "The ____ is cold beside the ____. The letter"
_OPTIONS: dict[str, tuple[str, ...]] = {
    "infill": ("--infill", "--gap", "6"),
    "infill, explained": ("--infill", "--explain", "--n", "2"),
    "several": ("--n", "3"),
    "batch": ("--batch", "text/batch.jsonl", "--n", "2"),
    "batch, context": ("--batch", "text/batch.jsonl", "--context", "text/context.txt", "--system", "Be kind."),
    "context": ("--context", "text/context.txt", "--context", "text/context.txt"),
    "stop": ("--stop", "e", "--stop", " the", "--n", "3"),
    "cold": ("--temperature", "0", "--explain"),
    "cool": ("--temperature", "0.5", "--top-p", "0.6"),
    "wide": ("--temperature", "1.3", "--top-p", "1"),
    "early stop": ("--early-stop", "1.5"),
    "never early": ("--early-stop", "0"),
    "one step": ("--steps", "1"),
    "many steps": ("--steps", "24"),
    "nothing": ("--max-tokens", "0"),
    "system": ("--system", "Write plainly."),
}
_IN_BRIEF = ("infill", "several", "batch", "stop", "cold")  # for the other processes
_OWN_OPTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "masked": {
        "remask": ("--remask", "0.3"),
        "remask, threshold": ("--remask", "0.2", "--sampler", "threshold=0.3", "--n", "2"),
        "remask, ancestral": ("--remask", "0.2", "--sampler", "ancestral"),
        "batch, gated": ("--batch", "text/batch.jsonl", "--sampler", "entropy-bound"),
    },
    "simplex": {"multi-hot, infill": ("--infill", "--sampler", "multi-hot")},
}


def pulled(shop: Workshop) -> dict[str, Any]:
    """Cores that were pulled, with what was trained for them."""
    found = {}
    for name, arguments in _PULLED.items():
        results = shop.json("generate", *arguments, "--seed", "4", "--steps", "4")
        found[name] = [told(result) for result in results]
    return found


_ASKED = ("Dear landlord, the boiler", "--max-tokens", "20")
_PULLED: dict[str, tuple[str, ...]] = {
    "llada": (*_ASKED, "--core", "llada", "--explain"),
    "llada, float32": (*_ASKED, "--core", "llada", "--dtype", "float32", "--system", "Be kind."),
    "llada, cache": (*_ASKED, "--core", "llada", "--cache"),
    "llada, cache, small": (*_ASKED, "--with", "letters=0.5", "--cache", "--n", "2"),
    "llada, infill": ("Dear ____, the ____ is cold.", "--core", "llada", "--infill", "--gap", "5"),
    "llada, letters": (*_ASKED, "--with", "letters=0.6", "--context", "text/context.txt", "--explain"),
    "llada, gated": (*_ASKED, "--with", "letters", "--rule", "gated"),
    "llada, talk": ("--batch", "text/batch.jsonl", "--with", "letters=0.5", "--max-tokens", "16"),
    "llada, adapter": (*_ASKED, "--with", "llada-adapter=0.5", "--explain", _AS_TRAINED),
    "llada, adapter, untuned": (*_ASKED, "--with", "llada-adapter", "--n", "2", _AS_TRAINED),
    "dream": (*_ASKED, "--core", "dream", "--explain"),
    "dream, cache": (*_ASKED, "--core", "dream", "--cache", "--sampler", "entropy-bound=1"),
    "sdar": (*_ASKED, "--core", "sdar", "--explain", "--n", "2"),
    "tess2": (*_ASKED, "--core", "tess2", "--explain"),
    "tess2, cache": (*_ASKED, "--core", "tess2", "--cache"),
    "tess2, small": (*_ASKED, "--with", "tess2-notes=0.3", "--sampler", "multi-hot", "--n", "2", _AS_TRAINED),
    "gemma": (*_ASKED, "--core", "diffusion-gemma", "--explain"),
    "gemma, small": (*_ASKED, "--with", "gemma-notes=0.4", "--n", "2", "--temperature", "0.7", _AS_TRAINED),
}


def interface(shop: Workshop) -> dict[str, Any]:
    """The Python interface: streams, scores, and what stands in a result."""
    from ssdcli import Placement, load

    found: dict[str, Any] = {}
    with shop.entered():
        for process in PROCESSES:
            writer = load(f"core-{process}", {f"notes-{process}": 0.3}, placement=Placement(device="cpu"))
            pieces = [piece.text for piece in writer.stream(PROMPT, max_tokens=20, steps=4, seed=8, temperature=0.9)]
            found[f"{process}, stream"] = pieces
            found[f"{process}, score"] = writer.score("The vurdel belongs to the", [" ferry.", " garden is dark"])
            result = writer.generate(PROMPT, context=CONTEXT, max_tokens=6, steps=3, seed=1)
            found[f"{process}, generate"] = told(result.to_json())
    return found


GROUPS: dict[str, Callable[[Workshop], dict[str, Any]]] = {
    "blends": blends,
    "lineups": lineups,
    "options": options,
    "pulled": pulled,
    "interface": interface,
}
