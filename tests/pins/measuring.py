"""What is measured: held-out losses of members and ensembles, and what an audit finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.pins.workshop import Workshop, without

_HELDOUT = ("eval", "text/heldout.jsonl", "--documents", "8")
_EVALUATIONS: dict[str, tuple[str, ...]] = {
    "simplex": (*_HELDOUT, "--with", "notes-simplex", "--schedule", "leaning"),
    "masked": (*_HELDOUT, "--with", "notes-masked", "--schedule", "constant"),
    "uniform": (*_HELDOUT, "--with", "notes-uniform", "--schedule", "sandwich", "--rule", "mix", "--rule", "average"),
    "a file": (*_HELDOUT, "--with", "notes-masked", "--schedule", "text/masked.toml", "--rule", "mix"),
    "a core": (*_HELDOUT, "--core", "core-masked", "--seed", "5"),
    "two": (*_HELDOUT, "--with", "notes-masked", "--with", "begun=0.1", "--rule", "mix", "--schedule", "constant"),
    "a base": (*_HELDOUT, "--with", "begun", "--rule", "contrast", "--schedule", "constant"),
    "an adapter": (*_HELDOUT, "--with", "adapter", "--rule", "mix", "--schedule", "leaning:1"),
    "a context": (*_HELDOUT, "--with", "notes-masked", "--context", "text/context.txt", "--rule", "mix",
                  "--schedule", "constant"),
    "talks": ("eval", "text/asked.jsonl", "--documents", "8", "--with", "answers", "--rule", "mix"),
    "pulled, talks": ("eval", "text/asked.jsonl", "--documents", "8", "--with", "letters", "--rule", "mix",
                      "--schedule", "constant"),
    "pulled, simplex": (*_HELDOUT, "--with", "tess2-notes", "--rule", "mix", "--schedule", "leaning"),
    # Later versions measure this core on several canvases of each prefix: what is pinned is which text it is, no loss.
    "pulled, uniform": (*_HELDOUT, "--with", "gemma-notes", "--rule", "average", "--schedule", "constant"),
    "texts": (*_HELDOUT, "--with", "notes-masked", "--rule", "mix", "--schedule", "constant", "--generate", "2"),
}  # fmt: skip
_IN_BRIEF = ("simplex", "masked", "uniform", "a file", "a context", "pulled, talks")


def evaluations(shop: Workshop) -> dict[str, Any]:
    """Figures of `ssd eval`."""
    chosen = {name: one for name, one in _EVALUATIONS.items() if not shop.brief or name in _IN_BRIEF}
    return {name: _measured(shop, arguments) for name, arguments in chosen.items()}


def _measured(shop: Workshop, arguments: tuple[str, ...]) -> dict[str, Any]:
    """Every point's bits, and all that is told of the best ones and of members."""
    (found,) = shop.json(*arguments)
    for swept in found["ensembles"]:
        swept["sweep"] = [[point["weight"], point["bits_per_byte"]["value"]] for point in swept["sweep"]]
    return without(found, "seconds", "remarks")


def saved(shop: Workshop) -> dict[str, Any]:
    """The weight and the gate that `ssd eval --save` stores, and the same figures in Python."""
    from ssdcli import EvalSettings, evaluate

    found: dict[str, Any] = {}
    for process in ("masked",) if shop.brief else ("simplex", "masked", "uniform"):
        name = f"notes-{process}"
        shop.run(*_HELDOUT, "--with", name, "--rule", "mix", "--save", "-q")
        manifest = shop.manifest(name)
        found[name] = {"weight": manifest["weight"], "gate": manifest["gate"]}
    with shop.entered():
        settings = EvalSettings(rules=("gated",), documents=8, seed=2)
        measured = evaluate("text/heldout.jsonl", "core-masked", ["begun"], settings).to_json()
    found["in Python"] = without(measured, "seconds", "remarks")
    return found


def audits(shop: Workshop) -> dict[str, Any]:
    """One round of each measure of an audit, and what of it is noted."""
    (found,) = shop.json("audit", "leaky", "text/notes.jsonl", "--minutes", "0.000001", "--seed", "3")
    metrics = shop.manifest("leaky")["metrics"]
    (alone,) = shop.json("audit", "leaky", "--minutes", "0.000001")
    return {
        "with its text": without(found, "seconds", "meaning", "remarks"),
        "canaries alone": without(alone, "seconds", "meaning", "remarks"),
        "noted": {key: value for key, value in metrics.items() if key.startswith("audit")},
    }


GROUPS: dict[str, Callable[[Workshop], dict[str, Any]]] = {
    "evaluations": evaluations,
    "saved": saved,
    "audits": audits,
}
