"""How `ssd generate` would run a core on this machine, predicted without loading it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from ssdcli.doctor.fit import SEEN, held, is_told_by_products, need_of_entry, rate, summary
from ssdcli.engine.causal import CausalDenoiser
from ssdcli.engine.process import make_process
from ssdcli.engine.sampling.reverse import reverse_process
from ssdcli.errors import SsdError
from ssdcli.machine.hardware import Hardware
from ssdcli.machine.placement import CPU, DTYPES, FREE, QUANTIZED, Allocation, Need
from ssdcli.models.backbones.native_class import native_class_of
from ssdcli.models.core_config import native_part, read_config
from ssdcli.models.core_spec import KEY, CoreSpec
from ssdcli.models.loading import make_denoiser
from ssdcli.models.remote.address import Address
from ssdcli.models.remote.client import Client
from ssdcli.models.remote.remote_denoiser import MOST
from ssdcli.models.weights.blueprint import blueprint

if TYPE_CHECKING:
    from ssdcli.registry.store import Entry

_ESTIMATE = "an estimate from the speed of matrix products measured just now."


def outlook(entry: Entry, hardware: Hardware) -> list[str]:
    """How a registered core would run here, in sentences, and which flags would change that.

    The server of one on another machine is asked for its models.
    """
    if entry.manifest.is_remote:
        return _reached(Address.of(entry.folder))
    need = need_of_entry(entry)
    try:
        allocation = FREE.allocate(need, hardware)
    except SsdError as error:
        return [str(error), *_alternatives(need, hardware, None)]
    return [
        held(allocation),
        *_slow(entry, need, allocation, hardware),
        *_speed(entry, allocation),
        *_alternatives(need, hardware, allocation),
    ]


def _reached(address: Address) -> list[str]:
    """Whether a server answers, and what it means for the speed (RemoteFailed if it does not)."""
    client = Client(address, 0, lambda _: None)
    client.models()  # which connects
    started = time.perf_counter()
    lacks = [] if address.model in client.models() else [f"It has no model {address.model!r} any more."]
    milliseconds = 1000 * (time.perf_counter() - started)
    return [
        f"{address.host} answers within {milliseconds:.0f} ms, which each call takes beside the time of its tokens.",
        *lacks,
        f"It is asked for the {address.top} likeliest tokens of each place, and for up to {MOST} places a call.",
    ]


def _slow(entry: Entry, need: Need, allocation: Allocation, hardware: Hardware) -> list[str]:
    """What would make it slow or less exact, in sentences."""
    found = []
    packed = need.packs and allocation.packs
    if allocation.computes == "bfloat16" and allocation.devices == (CPU,) and not (hardware.bfloat16 or packed):
        found.append("It computes in bfloat16, at which this CPU is slow; in float32 the core does not fit.")
    if allocation.dtype in QUANTIZED:
        found.append(f"It does not fit in {need.stored}, and is less exact in {allocation.dtype}.")
    if len(allocation.devices) > 1:
        found.append("The devices work one after another.")
    if entry.manifest.attention == "full":
        found.append("It has full attention: every denoising step reads all of the text, unless --cache is given.")
    return found


def _speed(entry: Entry, allocation: Allocation) -> list[str]:
    """The speed, estimated from how fast this machine multiplies matrices now; nothing where other things decide."""
    if not is_told_by_products(allocation):
        return []
    manifest, config = entry.manifest, read_config(entry.folder)
    if KEY not in config:
        return []
    process = make_process(manifest.process, manifest.vocabulary, manifest.constants)
    spec = CoreSpec.of(manifest, config[KEY])
    twin = native_class_of(config).backbone_for(spec)(blueprint(native_part(config)), spec)
    denoiser = make_denoiser(twin, manifest.attention, process)
    flops = denoiser.flops(manifest.block_size, SEEN)
    how = allocation.computes, allocation.devices[0]
    if isinstance(denoiser, CausalDenoiser):
        seconds = flops / rate(1, *how)
        return [f"A token after {SEEN} others takes about {seconds:.2g} s: {_ESTIMATE}"]
    seconds = flops / rate(manifest.block_size + (SEEN if manifest.attention == "full" else 0), *how)
    steps = reverse_process(process).steps_of(manifest.block_size)
    pace = manifest.block_size / (seconds * steps)
    return [
        f"A denoising step of {manifest.block_size} tokens after {SEEN} others takes about {seconds:.2g} s, which is "
        f"{pace:.2g} tokens a second in {steps} steps a block: {_ESTIMATE}"
    ]


def _alternatives(need: Need, hardware: Hardware, allocation: Allocation | None) -> list[str]:
    """What other flags would do, in sentences."""
    dtypes = [dtype for dtype in DTYPES[1:] if allocation is None or dtype != allocation.dtype]
    possible = [dtype for dtype in dtypes if dtype not in QUANTIZED or (need.linear and hardware.quantizes)]
    placements = {f"--dtype {dtype}": replace(FREE, dtype=dtype) for dtype in possible}
    if allocation is None:
        placements["--offload"] = replace(FREE, offload=True)
    if hardware.accelerators and (allocation is None or allocation.devices != (CPU,)):
        placements["--device cpu"] = replace(FREE, device=CPU)
    said = [f"With {flags}: {summary(need, hardware, placement)}" for flags, placement in placements.items()]
    if need.linear and not hardware.quantizes:
        said.append("For --dtype int8 and int4: pip install 'ssdcli[quantize]'")
    return said
