"""What is trained: weights, losses and manifests of short trainings, and of those that were interrupted."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from typing import Any

from tests.pins.comparing import weights
from tests.pins.workshop import Workshop, without

_SHAPE = ("--hidden", "32", "--layers", "1", "--context", "64")
_SCRATCH = ("text/core.jsonl", "--for", "none", *_SHAPE, "--block-size", "8", "--vocabulary", "300")
_NOTES = ("text/notes.jsonl", "--for", "core-masked")
_GONE = ("anneal", "distill-samples")  # settings that later versions have no longer

_TRAININGS: dict[str, tuple[str, ...]] = {
    "core, simplex": (*_SCRATCH, "--process", "simplex"),
    "core, masked": (*_SCRATCH, "--process", "masked"),
    "core, uniform": (*_SCRATCH, "--process", "uniform"),
    "small, simplex": ("text/notes.jsonl", "--for", "core-simplex", *_SHAPE),
    "small, masked": (*_NOTES, *_SHAPE),
    "small, uniform": ("text/notes.jsonl", "--for", "core-uniform", *_SHAPE),
    "adapter": (*_NOTES, "--init", "core-masked", "--lora", "4"),
    "distilled": (*_NOTES, *_SHAPE, "--distill", "core-masked", "--distill-weight", "0.6"),
}
_MORE: dict[str, tuple[str, ...]] = {
    "taught in context": ("text/notes.jsonl", "--for", "core-simplex", *_SHAPE, "--distill", "core-simplex",
                          "--distill-context"),
    "base": (*_NOTES, *_SHAPE, "--base", "notes-masked", "--optimizer", "adamw", "--gap-share", "0.6"),
    "begun": (*_NOTES, "--init", "notes-masked", "--learning-rate", "0.001", "--weight-decay", "0"),
    "begun of a pulled one": ("text/notes.jsonl", "--for", "llada", "--init", "llada", "--block-size", "8",
                              "--context", "64"),
    "adapter of a pulled one": ("text/notes.jsonl", "--for", "llada", "--init", "llada", "--block-size", "8",
                                "--context", "64", "--lora", "2"),
    "talks": ("text/talks.jsonl", "--for", "core-masked", *_SHAPE, "--gap-share", "0", "--decay", "0.5"),
    # Later versions measure beside pulled cores at several places of a document: no loss, weight or gate is pinned.
    "talks by a template": ("text/talks.jsonl", "--for", "llada", *_SHAPE, "--block-size", "8",
                            "--heldout", "0.2"),
    "a pulled simplex core": ("text/notes.jsonl", "--for", "tess2", *_SHAPE, "--block-size", "8"),
    "a causal checkpoint": (*_NOTES, "--init", "checkpoints/qwen3", "--context", "64"),
    "a causal checkpoint, unshifted": (*_NOTES, "--init", "checkpoints/qwen3", "--context", "64", "--no-shift"),
    "a masked checkpoint": (*_NOTES, "--init", "checkpoints/roberta", "--context", "64"),
}  # fmt: skip
_LEFT_OUT = ("begun", "adapter of a pulled one", "talks", "a pulled simplex core", "a masked checkpoint")  # in brief
# Attention is open from the first step, as it always is in later versions; they do not know the variable.
_OPEN = {"SSD_ANNEAL": "0"}


def _trained(shop: Workshop, name: str, *arguments: str) -> dict[str, Any]:
    """What a training prints and registers, less what depends on the machine and the moment."""
    (told,) = shop.json("train-small", *arguments, "--name", name, env=_OPEN)
    return {"told": without(told, "seconds"), **_registered(shop, name)}


def _registered(shop: Workshop, name: str) -> dict[str, Any]:
    folder = shop.home / "models" / name
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    recipe = tomllib.loads((folder / "recipe.toml").read_text(encoding="utf-8"))
    found = {
        "manifest": without(shop.manifest(name), "created", "versions", "files"),
        "metrics": [without(row, "seconds") for row in rows],
        "recipe": without(recipe, *_GONE),
    }
    (file,) = folder.glob("*.safetensors")
    return found | {"weights": weights(file)}


def _all(shop: Workshop, trainings: dict[str, tuple[str, ...]], steps: int) -> dict[str, Any]:
    how = ("--steps", str(steps), "--batch-tokens", "128", "--seed", "6", "--checkpoint-seconds", "1000")
    found = {}
    for n, (name, arguments) in enumerate(trainings.items()):
        if not shop.brief or name not in _LEFT_OUT:
            found[name] = _trained(shop, f"made-{n}", *arguments, *how)
    return found


def trainings(shop: Workshop) -> dict[str, Any]:
    """A core and a small model of each process, an adapter, and a pupil."""
    return _all(shop, _TRAININGS, 6)


def beginnings(shop: Workshop) -> dict[str, Any]:
    """Trainings that begin from something, learn answers, or are made for pulled cores."""
    return _all(shop, _MORE, 4)


def resumed(shop: Workshop) -> dict[str, Any]:
    """Trainings that the present version left unfinished reach their ends; a recipe makes the same model again."""
    found = {}
    for name in ("unfinished", "unfinished-adapter"):
        (told,) = shop.json("train-small", "--resume", "--name", name, "--checkpoint-seconds", "1000")
        found[name] = {"told": without(told, "seconds"), **_registered(shop, name)}
    recipe = ("--recipe", "home/models/begun/recipe.toml", "--steps", "8")
    found["by a recipe"] = _trained(shop, "again", "text/notes.jsonl", *recipe)
    return found


GROUPS: dict[str, Callable[[Workshop], dict[str, Any]]] = {
    "trainings": trainings,
    "beginnings": beginnings,
    "resumed": resumed,
}
