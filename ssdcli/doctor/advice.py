"""What to do next on this machine: which cores to pull, what to train, and how long that takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ssdcli.doctor.fit import need_of_entry, tokens_per_second, tokens_read_per_second
from ssdcli.engine import catalogue
from ssdcli.errors import SsdError
from ssdcli.machine.hardware import Hardware
from ssdcli.machine.placement import FREE, Allocation, Need
from ssdcli.models.core_config import read_config
from ssdcli.models.core_spec import KEY, CoreSpec
from ssdcli.models.weights.stored import announced_need
from ssdcli.registry.manifest import MEMBERS
from ssdcli.registry.store import STARTER, Entry
from ssdcli.training.settings import DEFAULT_MINUTES, READING

_FLUENT = 5.0  # tokens a second, about as fast as one reads
_ANY = catalogue.PROCESSES[0].name  # a causal core is as large and as fast whatever the noise process
_SPEC = CoreSpec(process=_ANY, block_size=16, context=4096, attention="autoregressive", shift=True)


def _native(kind: str, hidden: int, layers: int, heads: tuple[int, int], **others: Any) -> Mapping[str, Any]:
    """The part of a published configuration that says how large a model is; heads: of queries, and of keys."""
    shape = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads[0]}
    return {
        "architectures": [f"{kind}ForCausalLM"],
        **shape,
        "num_key_value_heads": heads[1],
        "tie_word_embeddings": True,
    } | others


_SMOL, _QWEN = {"vocab_size": 49152}, {"vocab_size": 151936, "head_dim": 128}
KNOWN = {  # causal cores for laptops and more, by their published configurations
    "HuggingFaceTB/SmolLM2-135M-Instruct": _native("Llama", 576, 30, (9, 3), intermediate_size=1536, **_SMOL),
    "HuggingFaceTB/SmolLM2-360M-Instruct": _native("Llama", 960, 32, (15, 5), intermediate_size=2560, **_SMOL),
    "Qwen/Qwen3-0.6B": _native("Qwen3", 1024, 28, (16, 8), intermediate_size=3072, **_QWEN),
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": _native("Llama", 2048, 24, (32, 32), intermediate_size=8192, **_SMOL),
    "Qwen/Qwen3-4B": _native("Qwen3", 2560, 36, (32, 8), intermediate_size=9728, **_QWEN),
    "Qwen/Qwen3-8B": _native("Qwen3", 4096, 36, (32, 8), intermediate_size=12288, **_QWEN, tie_word_embeddings=False),
}


@dataclass(frozen=True)
class HeldCore:
    """A core that fits this machine.

    need: what it takes.
    allocation: how it would be held.
    pace: tokens a second that it would write; None where that cannot be told.
    """

    need: Need
    allocation: Allocation
    pace: float | None

    @property
    def spoken_pace(self) -> str:
        """The end of a sentence about it."""
        return "." if self.pace is None else f", about {float(f'{self.pace:.2g}'):,g} tokens a second."


def fit_of_entry(entry: Entry, hardware: Hardware) -> HeldCore:
    """How a registered core would run here; SsdError if it does not fit or cannot be read."""
    need, manifest, config = need_of_entry(entry), entry.manifest, read_config(entry.folder)
    allocation = FREE.allocate(need, hardware)
    told = KEY in config and not any("expert" in name for name in config)  # of experts, some take part in a pass
    pace = tokens_per_second(need, manifest, manifest.vocabulary, allocation) if told else None
    return HeldCore(need, allocation, pace)


def to_pull(entries: Sequence[Entry], hardware: Hardware) -> dict[str, HeldCore]:
    """The known cores that fit and of whose size none is registered, by repository, the smallest first."""
    here = {entry.manifest.parameters for entry in entries}
    found = {}
    for repo, native in KNOWN.items():
        need = announced_need(native, "bfloat16", _SPEC)
        if need.parameters not in here:
            with suppress(SsdError):
                allocation = FREE.allocate(need, hardware)
                pace = tokens_per_second(need, _SPEC, native["vocab_size"], allocation)
                found[repo] = HeldCore(need, allocation, pace)
    return found


def next_steps(entries: Sequence[Entry], core: str, pullable: Mapping[str, HeldCore]) -> Iterator[str]:
    """What a person does first, or next, in sentences; core: the one that is used when none is named."""
    cores = [entry.name for entry in entries if entry.manifest.kind == "core" and not entry.bundled]
    if core == STARTER and cores:
        yield f"Let what writes better be used when no core is named: 'ssd models default {cores[0]}'."
    elif core == STARTER and pullable:
        fluent = [repo for repo, fit in pullable.items() if fit.pace is not None and fit.pace >= _FLUENT]
        repo = fluent[-1] if fluent else next(iter(pullable))
        name = repo.partition("/")[2].lower()
        yield f"Get a core that can write: 'ssd pull {repo} --as {name}', then 'ssd models default {name}'."
    personal = [entry.name for entry in entries if entry.manifest.kind in MEMBERS]
    if personal:
        yield f"Write with your text: 'ssd chat --with {personal[0]}' or 'ssd generate PROMPT --with {personal[0]}'."
    else:
        yield "Let it know your text, in seconds: 'ssd train-small FOLDER --memory-only --name mine'."


def how_long(core: Entry | None, fit: HeldCore | None) -> str:
    """How long a training takes, in sentences; of a causal core also how much text it can read in that time."""
    said = f"{DEFAULT_MINUTES:g} minutes at most, or as --minutes says; seconds with --memory-only."
    if core is None or fit is None or fit.pace is None or core.manifest.attention != "autoregressive":
        return said
    tokens = 60 * DEFAULT_MINUTES * READING * tokens_read_per_second(fit.need, fit.allocation)
    return f"{said} In {DEFAULT_MINUTES:g} minutes {core.name} can read {float(f'{tokens:.2g}'):,.0f} tokens of it."
