"""Beside a causal core on a GPU the host does not wait within a block, and texts are those of a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from ssdcli.api import Options, Request
from ssdcli.engine import sampler
from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.ensemble.gate import AverageGate, Expert
from ssdcli.engine.ensemble.rules import GatedAverage, average, mix
from ssdcli.engine.ensemble.switching import Switching
from ssdcli.engine.process import make_process
from ssdcli.engine.steps import Step
from ssdcli.generation.types import Result
from ssdcli.generation.writer import Writer
from ssdcli.models.backbones.native_class import native_class_of
from ssdcli.models.backbones.side_network import SideConfig, SideNetwork
from ssdcli.models.core_spec import CoreSpec
from ssdcli.models.loading import make_denoiser
from ssdcli.models.memory.memory_denoiser import MemoryDenoiser, memory_of_context
from ssdcli.text.codec import Codec
from tests import device
from tests.models.native_checkpoints import LLAMA
from tests.tiny import BLOCK, CONSTANTS, CONTEXT, TEXT, VOCABULARY, member, tiny_backbone, tiny_tokenizer

TOKENS = BLOCK + 3
REQUESTS = [Request(prompt) for prompt in ("Dear landlord, the boiler", "the stairs are dark and cold. " * 3)]
GATE = AverageGate(("core", "small"), (0.6, 0.4), ((-1.0, 0.4, -0.3, 0.5, -2.0),))
ENSEMBLES = {
    "alone": (("core",), average),
    "average": (("core", "small", "side"), average),
    "mix": (("core", "small"), mix),
    "gated": (("core", "small"), GatedAverage(GATE)),
    "switching": (
        ("core", "small", "side"),
        Switching((Expert("one", (0, 1), (0.6, 0.4), GATE), Expert("other", (0, 2), (0.5, 0.5)))),
    ),
    "memory": (("core", "memory"), average),
}
PROCESS = make_process("masked", VOCABULARY, CONSTANTS["masked"])
ROLES = {"core": "core", "memory": "memory"}
HOW: dict[str, Any] = {"attention": "autoregressive", "shift": True, "block_size": BLOCK, "context": CONTEXT}
SPEC = CoreSpec(process="masked", constants=CONSTANTS["masked"], begin=0, ends=(0,), suppressed=(1, 2), **HOW)
GPU: Any = SimpleNamespace(device=torch.device("cuda"))


def writer(ensemble: str, *, far: bool, **changes: Any) -> Writer:
    """One of ENSEMBLES: of a causal core, a small diffusion model, one that reads the core, and a memory.

    far: whether all but the memory are on the device. changes: to the format of texts.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        native = {**LLAMA, "vocab_size": VOCABULARY, "is_causal": True}
        model: Any = native_class_of(native).model(AutoConfig.for_model(**native)).eval().requires_grad_(False)
        model.get_output_embeddings().weight.data.mul_(20)  # predictions far from flat
        core: Any = native_class_of(native).backbone_for(SPEC)(placed(model, far), SPEC)
        torch.manual_seed(1)
        side = SideNetwork(SideConfig(VOCABULARY, LLAMA["hidden_size"], (0,), 24, BLOCK, CONTEXT), core).eval()
        torch.nn.init.normal_(side.body[-1].weight, std=0.3)
    causal = type(make_denoiser(GPU if far else core, "autoregressive", PROCESS))
    models = {
        "core": causal(core, PROCESS),
        "small": Denoiser(placed(tiny_backbone(2), far), PROCESS),
        "side": causal(placed(side, far), PROCESS),
        "memory": MemoryDenoiser(memory_of_context(Codec(tiny_tokenizer()).encode(TEXT * 3)), PROCESS, BLOCK),
    }
    names, rule = ENSEMBLES[ensemble]
    members = [member(name, models[name], role=ROLES.get(name, "small"), **changes) for name in names]
    return Writer(members, "core", rule)


def placed(model: Any, far: bool) -> Any:
    """A module where it runs."""
    if far:
        device.put(model)
    return model


class Watch:
    """Keeps the steps of a text, and what made the host wait within its blocks, from their second step on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[Step] = []
        self.waits: list[str] = []
        self._device = device.Device()
        self._sample = sampler.sample
        device.as_on_cuda(monkeypatch)
        monkeypatch.setattr(sampler, "sample", self._watched)

    def write(self, ensemble: str, options: Options, **changes: Any) -> list[Result]:
        """Write on the device."""
        with self._device:
            return writer(ensemble, far=True, **changes).generate_batch(REQUESTS, options)

    def _watched(self, *given: Any) -> Iterator[Step]:
        for step in self._sample(*given):
            if step.index:
                self.waits += self._device.waits
            self.steps.append(step)
            self._device.waits.clear()
            yield step


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


@pytest.mark.parametrize(
    ("ensemble", "changes"),
    [
        ("alone", {"temperature": 0.0, "no_repeat": 2}),
        ("average", {"temperature": 0.8, "top_p": 0.9, "explain": True}),
        ("mix", {"temperature": 1.0, "min_p": 0.02, "repetition_penalty": 1.2}),
        ("gated", {"temperature": 0.0}),
        ("switching", {"temperature": 0.8, "explain": True}),
    ],
)
def test_without_drafts_nothing_makes_the_host_wait_within_a_block(
    ensemble: str, changes: dict[str, Any], watch: Watch
) -> None:
    options = Options(max_tokens=TOKENS, seed=3, draft=0, **changes)
    far = watch.write(ensemble, options)
    assert len(watch.steps) == TOKENS
    assert watch.waits == []
    near = writer(ensemble, far=False).generate_batch(REQUESTS, options)
    assert [one.text for one in far] == [one.text for one in near]


def test_with_drafts_the_host_waits_once_a_step(watch: Watch) -> None:
    options = Options(max_tokens=4 * BLOCK, seed=3, temperature=0.0, no_repeat=0)
    far = watch.write("alone", options)
    assert sum(one.accepted or 0 for one in far) > 0
    assert len(watch.waits) == sum(step.index > 0 for step in watch.steps)
    near = writer("alone", far=False).generate_batch(REQUESTS, options)
    assert [one.text for one in far] == [one.text for one in near]


def test_that_all_texts_have_ended_is_learned_in_the_background(watch: Watch) -> None:
    every = tuple(range(VOCABULARY))
    far = watch.write("alone", Options(max_tokens=TOKENS, draft=0), ends=every)
    assert [one.text for one in far] == [""] * len(REQUESTS)
    assert 1 < len(watch.steps) < BLOCK
    assert watch.waits == []


@pytest.mark.parametrize("most", [0, BLOCK])
def test_a_memory_which_is_on_the_cpu_joins_a_core_on_a_gpu_with_drafts_and_without(most: int, watch: Watch) -> None:
    options = Options(max_tokens=TOKENS, seed=3, draft=most)
    far = watch.write("memory", options)
    assert (sum(one.accepted or 0 for one in far) > 0) == (most > 0)
    near = writer("memory", far=False).generate_batch(REQUESTS, options)
    assert [one.text for one in far] == [one.text for one in near]


@pytest.mark.parametrize(
    "reads",
    [
        lambda x: bool(x.any()),
        lambda x: x.tolist(),
        lambda x: x[: x[0]],
        lambda x: x.cpu(),
        lambda x: x[x > 1],
        lambda x: x.nonzero(),
        lambda x: x[torch.tensor([0])],
        lambda x: x[[0]],
        lambda x: x.copy_(torch.tensor([1, 2])),
        lambda x: x.new_tensor([1]),
        lambda x: torch.tensor([1]).to(x.device),
        lambda x: torch.tensor([1], device=x.device),
    ],
)
def test_what_would_make_the_host_wait_for_a_gpu_is_noticed(reads: Any) -> None:
    with device.Device() as far:
        x = torch.arange(2, device=device.NAME)
        free = torch.where(x > 0, 3, x)[x].masked_fill(x == 1, 5) + torch.tensor([1]).to(x.device, non_blocking=True)
        assert far.waits == []
        reads(x)
        assert len(far.waits) == 1
        assert free.tolist() == [1, 6]
        with pytest.raises(RuntimeError, match="same device"):
            x + torch.tensor([1, 2])
