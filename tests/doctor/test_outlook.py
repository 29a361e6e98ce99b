"""What is said of a core beforehand is what loading it will do."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from ssdcli.doctor.fit import need_of_entry, summary
from ssdcli.doctor.outlook import outlook
from ssdcli.machine import hardware
from ssdcli.machine.hardware import Accelerator, Hardware
from ssdcli.machine.placement import Need, Placement
from ssdcli.machine.units import GIB
from ssdcli.models.core_checkpoint import load_core
from ssdcli.registry.store import Registry
from tests.models.native_checkpoints import SIZES
from tests.pulled import add_causal, add_core

MACHINE = Hardware(cores=4, memory=32 * GIB, free=24 * GIB, bfloat16=True)
LLADA = Need(8_015_581_184, 6_979_321_856, 1_035_997_184, 218_112_000, "bfloat16", 126464 * 32)


def gpus(*free: float) -> tuple[Accelerator, ...]:
    return tuple(Accelerator(f"cuda:{i}", "a GPU", int(g * GIB), int(g * GIB), True) for i, g in enumerate(free))


def test_a_summary_names_dtype_device_and_bytes_or_why_there_are_none():
    assert summary(LLADA, MACHINE) == "bfloat16 on cpu: takes 15.7 GiB of the 24.0 GiB that are free."
    assert summary(LLADA, replace(MACHINE, accelerators=gpus(12, 12))).startswith("bfloat16 on cuda:0 and cuda:1: ")
    assert "8.7 GiB are free. Take a smaller core" in summary(LLADA, replace(MACHINE, free=int(8.7 * GIB)))
    shared = replace(MACHINE, accelerators=gpus(12), processes=2)
    assert summary(LLADA, shared).startswith("bfloat16 on cuda:0, a part in each of 2 processes: takes 7.9 GiB")
    tight = replace(MACHINE, free=4 * GIB)
    assert "with layers kept" in summary(LLADA, tight, Placement(offload=True))


def test_an_outlook_is_what_loading_does():
    add_core("big")
    entry = Registry().find("big")
    said = outlook(entry, hardware.look())
    loaded = load_core(entry.folder, Placement(), None)
    dtype = str(loaded.model.dtype).removeprefix("torch.")
    assert said[0].startswith(f"{dtype} on {loaded.device}: takes ")
    assert any("full attention" in sentence for sentence in said)
    speed = next(sentence for sentence in said if "estimate" in sentence)
    assert float(re.search(r"about (\S+) s", speed)[1]) > 0
    assert any(sentence.startswith("With --dtype float16: float16 on ") for sentence in said)
    assert any("pip install 'ssdcli[quantize]'" in sentence for sentence in said)


def test_keys_and_values_of_a_causal_core_take_their_room_up_to_a_length():
    numbers = 2 * SIZES["num_hidden_layers"] * SIZES["num_key_value_heads"] * SIZES["head_dim"]  # of a token
    for context, cached in ((100, 100), (100_000, 4096)):
        add_causal("causal", context=context)
        assert need_of_entry(Registry().find("causal")).cache == cached * numbers
    add_core("big")
    assert need_of_entry(Registry().find("big")).cache == 0


def test_what_does_not_fit_is_told_with_what_would():
    add_core("big")
    entry = Registry().find("big")
    need = need_of_entry(entry)
    said = outlook(entry, replace(MACHINE, free=need.resident("bfloat16")))
    assert said[0].startswith("the core takes")
    assert any(sentence.startswith("With --offload: bfloat16 on cpu, with layers kept") for sentence in said)


@pytest.mark.parametrize(("dtype", "sentence"), [("bfloat16", "this CPU is slow"), ("int8", "less exact in int8")])
def test_what_is_slow_or_less_exact_is_told(dtype, sentence):
    add_core("big")
    entry = Registry().find("big")
    need = need_of_entry(entry)
    room = {"bfloat16": need.weights("bfloat16"), "int8": need.weights("int8")}[dtype] + need.working
    said = outlook(entry, replace(MACHINE, free=room, bfloat16=False, quantizes=True))
    assert any(sentence in one for one in said)
