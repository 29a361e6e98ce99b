from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.flops import Sizes
from ssdcli.engine.full_attention import FullDenoiser
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.process.simplex import Simplex
from ssdcli.engine.process.sparse_simplex import SparseSimplex
from ssdcli.engine.process.uniform import Uniform
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampler import sample
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.reverse import reverse_process
from ssdcli.engine.steps import SamplerConfig
from ssdcli.models.block_diffusion_checkpoint import load_backbone

KINDS = pytest.mark.parametrize("kind", [Denoiser, FullDenoiser], ids=["cached", "full"])
V = 50  # of small models
PROCESSES = pytest.mark.parametrize(
    "process",
    [Masked(V, V - 1), Simplex(V), SparseSimplex(V, top=8, scattered=16), Uniform(V)],
    ids=["masked", "dense", "sparse", "uniform"],
)


@contextmanager
def counted() -> Iterator[FlopCounterMode]:
    """Count what is really computed; only this way of attention is seen by the counter on every machine."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


@pytest.fixture(scope="module")
def starter() -> Denoiser:
    """The bundled core."""
    return Denoiser(load_backbone(Path(str(files("ssdcli") / "bundled" / "models" / "starter"))), Simplex(8192))


@pytest.fixture
def tiny(make_denoiser: Callable[..., Denoiser]) -> Callable[..., Denoiser]:
    """Makes a real small model, wrapped for a process and a kind of attention."""
    return lambda kind, process: kind(make_denoiser("simplex" if process.timed else "masked").backbone, process)


def agrees(denoiser: Denoiser, length: int, seen: int) -> None:
    """Compare the estimates for one row with what torch counts, when `seen` columns need no padding."""
    process = denoiser.process
    with counted() as reading:
        prefix = denoiser.start([Prompt([3] * seen)])
    assert denoiser.flops_of_reading(seen, 0) == pytest.approx(reading.get_total_flops(), rel=0.05)
    canvas = process.prior(length, CounterNoise([1]))
    with counted() as stepping:
        log_p = denoiser.denoise(canvas, 0.5, torch.zeros(1, length, process.vocabulary), prefix)
    assert denoiser.flops(length, seen) == pytest.approx(stepping.get_total_flops(), rel=0.05)
    with counted() as committing:
        denoiser.commit(log_p.argmax(-1), prefix)
    assert denoiser.flops_of_reading(length, seen) == pytest.approx(committing.get_total_flops(), rel=0.05)


@KINDS
@PROCESSES
@pytest.mark.parametrize(("length", "seen"), [(4, 32), (8, 32), (1, 32)])
def test_a_small_model_takes_what_is_counted(tiny, kind, process, length, seen):
    agrees(tiny(kind, process), length, seen)


@KINDS
@pytest.mark.parametrize(("length", "seen"), [(16, 32), (16, 224), (4, 96), (32, 64)])
def test_the_starter_takes_what_is_counted(starter, kind, length, seen):
    agrees(kind(starter.backbone, starter.process), length, seen)


@KINDS
@pytest.mark.parametrize("prompt", [Prompt([3] * 9), Prompt([3] * 60, [5, None, 7], 12), Prompt([3] * 60, [5], 32)])
def test_a_whole_text_takes_what_is_counted_though_the_window_fills_up(tiny, kind, prompt):
    """Nine blocks, of which the eighth is one too many for the window; or as many as fill a gap."""
    denoiser, steps = tiny(kind, Simplex(V)), 2
    blocks = prompt.gap // 4 if prompt.gap else 9
    config = SamplerConfig(4, 4 * blocks, ends=(-1,), picker=Picker())
    reverse = replace(reverse_process(denoiser.process), steps=steps)
    group = Ensemble((Member("one", denoiser, Constant(1.0)),))
    with counted() as counter:
        taken = len(list(sample(group, reverse, [[prompt]], [1], config)))
    assert taken == steps * blocks
    expected = sum(reading + steps * step for reading, step in islice(denoiser.costs(prompt), blocks))
    assert expected >= counter.get_total_flops()  # a block's first step has no previous prediction
    unconditioned = 2 * 4 * blocks * (V * 16 + 16 * 32 + 32 * 32)
    assert expected - unconditioned == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_the_matrices_of_a_model_are_measured(make_denoiser):
    """Two layers of width 32 with one head, a SwiGLU of 96, a table of 50 x 16."""
    layer = 4 * 32 * 32 + 3 * 32 * 96
    parts: dict[str, Any] = {"body": 2 * layer, "attention": 2 * 32, "table": 50 * 16, "lift": 16 * 32}
    assert make_denoiser("simplex").backbone.sizes == Sizes(**parts, time=64 * 32 + 32 * 32, self_conditioning=32 * 32)
    assert make_denoiser("masked").backbone.sizes == Sizes(**parts)
    assert make_denoiser("masked", rank=32).backbone.sizes == Sizes(**parts | {"table": 50 * 32, "lift": 0})


def test_by_hand():
    sizes = Sizes(body=1000, attention=10, table=500, lift=50, time=7, self_conditioning=30)
    assert sizes.reading(3, 5) == 2 * 3 * (50 + 1000 + 2 * 10 * 8)
    assert sizes.denoising(3, Masked(9, mask_id=8)) == 2 * 3 * (500 + 50)
    assert sizes.denoising(3, Simplex(9)) == 2 * 3 * (500 + 7 + (500 + 50 + 30) + 50 + 500)
    assert sizes.denoising(3, SparseSimplex(V, top=8, scattered=16)) == 2 * 3 * (7 + (500 + 50 + 30) + 50 + 500)
    assert sizes.denoising(3, Uniform(9)) == 2 * 3 * (7 + (500 + 50 + 30) + 50 + 500)


@KINDS
def test_a_prefix_with_full_attention_is_computed_at_every_step(tiny, kind):
    denoiser = tiny(kind, Masked(V, V - 1))
    first, second = list(islice(denoiser.costs(Prompt([3] * 20)), 2))
    assert (first[0] == second[0] == 0) == (kind is FullDenoiser)
    assert second[1] - first[1] == denoiser.flops(4, 36) - denoiser.flops(4, 32)
