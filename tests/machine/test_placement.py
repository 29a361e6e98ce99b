"""Laws of the allocation: what is chosen fits, with no fewer bits than needed, and flags are obeyed or refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssdcli.errors import OutOfMemory, UsageError
from ssdcli.machine.hardware import Accelerator, Hardware
from ssdcli.machine.placement import BITS, DTYPES, QUANTIZED, Need, Placement
from ssdcli.machine.units import GIB

LLADA = Need(8_015_581_184, 6_979_321_856, 1_035_997_184, 218_112_000, "bfloat16", 126464 * 32)
SLOW_CPU = Hardware(cores=8, memory=64 * GIB, free=48 * GIB, bfloat16=False)
FAST_CPU = replace(SLOW_CPU, bfloat16=True)


def gpu(free: float, device: str = "cuda:0", bfloat16: bool = True) -> Accelerator:
    return Accelerator(device, "a GPU", int(free * GIB), int(free * GIB), bfloat16)


def with_gpus(*free: float, quantizes: bool = False, bfloat16: bool = True) -> Hardware:
    gpus = tuple(gpu(size, f"cuda:{number}", bfloat16) for number, size in enumerate(free))
    return replace(FAST_CPU, accelerators=gpus, quantizes=quantizes)


NEEDS = st.builds(
    lambda size, stored: replace(
        LLADA,
        parameters=int(LLADA.parameters * size),
        linear=int(LLADA.linear * size),
        pinned=int(LLADA.pinned * size),
        layer=int(LLADA.layer * size),
        stored=stored,
    ),
    st.floats(0.01, 4),
    st.sampled_from(["float32", "bfloat16", "float16"]),
)
MACHINES = st.builds(
    lambda free, gpus, modern, fast, quantizes, processes: Hardware(
        cores=8,
        memory=128 * GIB,
        free=int(free * GIB),
        bfloat16=fast,
        accelerators=tuple(gpu(size, f"cuda:{i}", modern) for i, size in enumerate(gpus[: 1 if processes > 1 else 4])),
        quantizes=quantizes,
        processes=processes,
    ),
    st.floats(0.1, 120),
    st.lists(st.floats(1, 80), max_size=4),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1, 2, 4]),
)


def test_what_is_stored_in_16_bits_runs_so_where_the_processor_is_fast_at_it():
    assert Placement().allocate(LLADA, with_gpus(24)).dtype == "bfloat16"
    assert Placement().allocate(LLADA, with_gpus(24, bfloat16=False)).dtype == "float16"
    assert Placement().allocate(LLADA, FAST_CPU).dtype == "bfloat16"
    assert Placement().allocate(LLADA, SLOW_CPU).dtype == "float32"
    assert Placement().allocate(replace(LLADA, packs=True), SLOW_CPU).dtype == "bfloat16"
    assert Placement().allocate(LLADA, replace(SLOW_CPU, free=20 * GIB)).dtype == "bfloat16"


def test_what_does_not_fit_in_16_bits_is_quantised_where_that_is_installed():
    assert Placement().allocate(LLADA, with_gpus(12, quantizes=True)).dtype == "int8"
    assert Placement().allocate(LLADA, with_gpus(8, quantizes=True)).dtype == "int4"
    with pytest.raises(OutOfMemory, match=r"15.7 GiB in bfloat16, and 12.0 GiB are free.*pip install"):
        Placement().allocate(LLADA, with_gpus(12))


def test_weights_stored_in_32_bits_take_16_before_they_are_quantised():
    long = replace(LLADA, stored="float32")
    assert Placement().allocate(long, with_gpus(40, quantizes=True)).dtype == "float32"
    assert Placement().allocate(long, with_gpus(24, quantizes=True)).dtype == "bfloat16"
    assert Placement().allocate(long, with_gpus(24, bfloat16=False)).dtype == "float16"


def test_a_core_goes_onto_one_gpu_that_has_room_and_else_onto_all():
    assert Placement().allocate(LLADA, with_gpus(8, 24)).devices == ("cuda:1",)
    assert Placement().allocate(LLADA, with_gpus(12, 12)).devices == ("cuda:0", "cuda:1")
    assert Placement(device="cuda").allocate(LLADA, with_gpus(12, 12)).devices == ("cuda:0", "cuda:1")


def test_an_apple_gpu_is_used_and_never_quantised_for():
    mac = replace(FAST_CPU, accelerators=(gpu(12, "mps"),), quantizes=True)
    assert Placement().allocate(replace(LLADA, parameters=10**9, linear=0), mac).devices == ("mps",)
    with pytest.raises(OutOfMemory):
        Placement().allocate(LLADA, mac)
    with pytest.raises(UsageError, match="Apple"):
        Placement("int4").allocate(LLADA, mac)
    assert Placement("int4", "cpu").allocate(LLADA, mac).devices == ("cpu",)


def test_processes_share_a_core_that_can_be_divided():
    two = replace(with_gpus(12), processes=2)
    assert Placement().allocate(LLADA, two).processes == 2
    with pytest.raises(OutOfMemory):
        Placement().allocate(replace(LLADA, divisible=False), two)
    roomy = replace(with_gpus(24), processes=2)
    assert Placement().allocate(replace(LLADA, divisible=False), roomy).processes == 1  # each has all of it


def test_offloading_is_for_what_does_not_fit():
    assert not Placement(offload=True).allocate(LLADA, with_gpus(24)).offloads
    allocation = Placement(offload=True).allocate(LLADA, with_gpus(4))
    assert (allocation.offloads, allocation.dtype, allocation.devices) == (True, "bfloat16", ("cuda:0",))
    assert Placement(offload=True).allocate(LLADA, replace(FAST_CPU, free=4 * GIB)).devices == ("cpu",)
    with pytest.raises(OutOfMemory):
        Placement(offload=True).allocate(LLADA, with_gpus(2))  # not even what stays on the GPU


def test_quantised_weights_count_the_embeddings_and_the_head_in_16_bits():
    assert LLADA.weights("int8") == pytest.approx(1.05 * (LLADA.linear + 2 * (LLADA.parameters - LLADA.linear)))


def test_small_models_run_in_float32_unless_a_floating_dtype_is_given():
    assert [Placement(dtype).small for dtype in ("auto", "int8", "int4")] == ["float32"] * 3
    assert [Placement(dtype).small for dtype in ("bfloat16", "float16")] == ["bfloat16", "float16"]


@pytest.mark.parametrize(
    ("placement", "hardware", "sentence"),
    [
        (Placement("int4"), SLOW_CPU, r"needs the package bitsandbytes.*pip install 'ssdcli\[quantize\]'"),
        (Placement(device="cuda"), FAST_CPU, r"no device 'cuda'.*ssd doctor"),
        (Placement(device="cuda:2"), with_gpus(24, 24), r"no device 'cuda:2'"),
        (Placement("int8"), replace(with_gpus(24, quantizes=True), processes=2), "several processes"),
        (Placement(device="cuda:1"), replace(with_gpus(24), processes=2), "Omit --device"),
        (Placement(device="cpu"), replace(with_gpus(24), processes=2), "Omit --device"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_sentence(placement, hardware, sentence):
    with pytest.raises(UsageError, match=sentence):
        placement.allocate(LLADA, hardware)


@pytest.mark.parametrize("given", [{"dtype": "int5"}, {"device": "gpu"}, {"device": "cuda:x"}])
def test_what_no_machine_has_is_refused_at_once(given):
    with pytest.raises(
        UsageError, match=r"^(dtype|device)=.* must be .*\. Write (dtype|device)='auto', for example\.$"
    ):
        Placement(**given)


@given(NEEDS, MACHINES, st.booleans())
def test_what_is_chosen_fits(need, hardware, offload):
    try:
        allocation = Placement(offload=offload).allocate(need, hardware)
    except OutOfMemory:
        return
    assert allocation.bytes <= allocation.free
    assert set(allocation.devices) <= {"cpu", *(gpu.device for gpu in hardware.accelerators)}
    assert allocation.offloads <= offload
    if len(allocation.devices) > 1 and not allocation.offloads:  # however layers fall, at most one is left over on each
        working = len(allocation.devices) * need.working
        assert need.weights(allocation.dtype) + working <= sum(gpu.free for gpu in hardware.accelerators)


@given(NEEDS, MACHINES)
def test_no_fewer_bits_are_chosen_than_are_needed(need, hardware):
    try:
        chosen = Placement().allocate(need, hardware)
    except OutOfMemory:
        return
    longer = [dtype for dtype in BITS if BITS[chosen.dtype] < BITS[dtype] <= BITS[need.stored]]
    for dtype in longer:
        with pytest.raises((OutOfMemory, UsageError)):
            Placement(dtype).allocate(need, hardware)


@given(NEEDS, MACHINES, st.sampled_from(DTYPES[1:]), st.sampled_from(["auto", "cpu", "cuda", "cuda:1"]), st.booleans())
def test_flags_are_obeyed_or_refused(need, hardware, dtype, device, offload):
    try:
        allocation = Placement(dtype, device, offload).allocate(need, hardware)
    except (OutOfMemory, UsageError):
        return
    assert allocation.dtype == dtype
    assert device == "auto" or all(name.startswith(device) for name in allocation.devices)
    assert allocation.computes == dtype or dtype in QUANTIZED


@given(NEEDS, MACHINES)
def test_more_memory_is_never_worse(need, hardware):
    roomy = tuple(replace(g, free=2 * g.free) for g in hardware.accelerators)
    try:
        before = Placement().allocate(need, hardware)
    except OutOfMemory:
        return
    after = Placement().allocate(need, replace(hardware, free=2 * hardware.free, accelerators=roomy))
    assert BITS[after.dtype] >= BITS[before.dtype]
