"""What there is to tell of a training that never was."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ssdcli.data.token_store import SideInfo
from ssdcli.registry.manifest import CODE_LENGTH, Manifest
from ssdcli.reports.description import Description, Quality, Sample

WEIGHTS = [i / 10 for i in range(11)]
BITS = [1.5 + (weight - 0.3) ** 2 for weight in WEIGHTS]


def history(points: int, heldout_every: int = 5) -> list[dict[str, float]]:
    """A loss that falls towards 4, and a held-out loss 0.2 above it now and then."""
    curve = [{"step": 17 * i, "loss": 4 + 5 * math.exp(-i / 12), "seconds": 2.0 * i} for i in range(1, points + 1)]
    for point in curve[heldout_every - 1 :: heldout_every]:
        point["heldout"] = point["loss"] + 0.2
    return curve


MANIFEST = Manifest(
    name="notes",
    kind="small",
    architecture="block-diffusion",
    parameters=5_012_480,
    process="simplex",
    constants={"K": 5.0, "s": 1e-4},
    block_size=32,
    context=512,
    attention="block-causal",
    vocabulary=8192,
    tokenizer="fed321",
    core="starter",
    weight=0.3,
    data="ab12cd",
    created="2026-01-02T03:04:05+00:00",
)
DESCRIPTION = Description(
    manifest=MANIFEST,
    size="mini",
    body_parameters=1_769_472,
    train=SideInfo(tokens=412_000, documents=1_600, conversations=0, bytes=1_700_000, characters=1_650_000),
    heldout=SideInfo(tokens=22_000, documents=84, conversations=0, bytes=91_000, characters=90_000),
    lengths=[0, 0, 3, 40, 300, 900, 441],
    data_lines=[
        "read 1,684 documents (1.8 M characters) from 12 files",
        "skipped 2 files: empty (first: letters/draft.txt)",
    ],
    trained_tokens=4_120_000,
    steps=1700,
    seconds=3754.4,
    device="cpu",
    history=history(40),
    quality=Quality(
        nats_per_token={"core": 4.6, "small": 4.1512, "ensemble": 3.8},
        bits_per_byte={"core": BITS[0], "small": BITS[-1], "ensemble": BITS[3]},
        margins={"core": 0.11, "small": 0.12, "ensemble": 0.09},
        gain=0.09,
        gain_margin=0.02,
        by_level={
            who: [low + 0.3 * i for i in range(10)] for who, low in (("core", 3.2), ("small", 2.8), ("ensemble", 2.4))
        },
        weights=WEIGHTS,
        sweep=BITS,
        documents=30,
        tokens=16_000,
    ),
    samples=[
        Sample(
            "Dear landlord, the", " boiler is cold again.", {"small": " stairs are dark.", "ensemble": " cat is well."}
        ),
        Sample("Dear aunt,", " thank you.", {"small": " nothing new here."}),
    ],
    command="ssd train-small DATA --for starter --name notes",
    settings={"data": "notes/", "for": "starter", "name": "notes", "minutes": "10"},
)

UNMEASURED = Quality(nats_per_token={}, bits_per_byte={}, margins={}, by_level={}, documents=0, tokens=0)
ALONE = Quality(
    nats_per_token={"small": 4.1512},
    bits_per_byte={"small": 1.99},
    margins={"small": 0.12},
    by_level={"small": [3.0] * 10},
    documents=30,
    tokens=16_000,
)
RELIABILITY = {"probability": [(0.05, 0.02, 40), (0.72, 0.5, 10)], "confidence": [(0.04, 0.02, 40), (0.51, 0.5, 10)]}
EXACT = replace(
    DESCRIPTION,
    manifest=replace(MANIFEST, measure=CODE_LENGTH),
    quality=replace(DESCRIPTION.quality, by_level={}, reliability=RELIABILITY),
)
UNWEIGHED = replace(DESCRIPTION, manifest=replace(MANIFEST, weight=None), quality=ALONE, samples=[])
CORE = replace(
    DESCRIPTION,
    manifest=replace(MANIFEST, name="tiny", kind="core", core=None, weight=None),
    size=None,
    quality=replace(
        ALONE,
        nats_per_token={"core": 4.1},
        bits_per_byte={"core": 1.9},
        margins={"core": 0.1},
        by_level={"core": [3.0] * 10},
    ),
    samples=[Sample("Once", " upon a time.", {"core": " there was."})],
)


def modelled(description: Description = DESCRIPTION, **changes: Any) -> Description:
    """A description with changes in its manifest."""
    return replace(description, manifest=replace(description.manifest, **changes))


ADAPTED = modelled(
    EXACT,
    kind="adapter",
    base="starter",
    attention="autoregressive",
    memory={"texts": 3, "tokens": 40},
    gates=({"members": ["core", "memory"], "weights": [0.8, 0.2], "coefficients": [[0.0] * 5], "is_default": True},),
)
