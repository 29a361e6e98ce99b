"""Registered models ready to run: each loaded once, with its tokenizer and its text format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ssdcli.engine.causal import CausalDenoiser
from ssdcli.engine.denoiser import Backbone, Denoiser
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.process import Process, make_process
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.prompt import Prompt
from ssdcli.errors import RemoteFailed, SsdError, UsageError
from ssdcli.hub.download import is_offline
from ssdcli.machine.placement import FREE, Placement
from ssdcli.models.backbones.causal import CausalCore
from ssdcli.models.backbones.side_network import SideNetwork
from ssdcli.models.core_config import read_config
from ssdcli.models.core_spec import KEY
from ssdcli.models.loading import load_model, load_reader, make_denoiser
from ssdcli.models.memory.memory_denoiser import MemoryDenoiser
from ssdcli.models.memory.memory_files import NOTHING, Memory, load_memory
from ssdcli.models.memory.recall_denoiser import RecallDenoiser
from ssdcli.models.remote.address import Address
from ssdcli.models.remote.client import Client
from ssdcli.models.remote.remote_denoiser import RemoteBackbone, RemoteDenoiser
from ssdcli.registry.store import Entry
from ssdcli.text.codec import Codec
from ssdcli.text.openings import TextFormat, format_of
from ssdcli.text.tokenizer import load_tokenizer


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to run.

    denoiser: predicts the clean tokens of a canvas.
    codec: its tokenizer.
    format: how its texts begin, end, and are laid out.
    """

    denoiser: Denoiser
    codec: Codec
    format: TextFormat

    @property
    def scores_whole_texts(self) -> bool:
        """Whether one pass can denoise every block of a window, given the clean text before each."""
        return _is_native(self.denoiser.backbone)

    def after(self, text: Sequence[int], context: Sequence[int] = (), *, opened: bool = True) -> Prompt:
        """The prompt for a canvas that follows these ids of a document.

        context: ids before the document, which stay in view when a long text has to be cut; after them the text may
        begin anywhere in a document. opened: whether the document is read from its opening on.
        """
        needs_none = not opened or (context and self.format.cuts_documents)
        opening = [] if needs_none else [self.format.opening]
        before = [*opening, *context]
        if not context:
            return Prompt([*before, *text])
        room = self.denoiser.room - len(before)
        return Prompt([*before, *text[max(0, len(text) - room) :]])


@dataclass(frozen=True)
class LoadedMemory:
    """A memory that is ready to be looked up.

    denoiser: predicts the clean tokens of a canvas.
    codec: its tokenizer.
    format: how the texts that it holds begin, end, and are laid out.
    """

    denoiser: MemoryDenoiser
    codec: Codec
    format: TextFormat

    def after(self, text: Sequence[int], context: Sequence[int] = ()) -> Prompt:
        """The prompt for a canvas that follows these ids of a document; context: ids of a private one."""
        return Prompt(text, private=tuple(context))


Loaded = LoadedModel | LoadedMemory


def core_of(model: LoadedModel) -> Backbone:
    """The core whose states a model reads; of one that reads none, the model itself."""
    backbone = model.denoiser.backbone
    return backbone.core if isinstance(backbone, SideNetwork) else backbone


def models_of(members: Sequence[Member[Loaded]]) -> tuple[Member[LoadedModel], ...]:
    """The members that are models, not memories."""
    return tuple(one.carrying(one.model) for one in members if isinstance(one.model, LoadedModel))


@dataclass(frozen=True)
class Shared:
    """What the members of an ensemble share; None for what is each model's own.

    block_size: the tokens of a canvas, where a model does not fix it.
    process: the noise process.
    codec: the tokenizer.
    core: the core whose states small models and memories read, where it is loaded.
    """

    block_size: int | None = None
    process: Process | None = None
    codec: Codec | None = None
    core: Backbone | None = None


ALONE = Shared()


def open_model(
    entry: Entry, placement: Placement = FREE, *, origin: Entry | None = None, shared: Shared = ALONE
) -> LoadedModel:
    """Load a registered model (SsdError if it cannot be read, OutOfMemory if it does not fit).

    origin: the model that an adapter is added to, or whose states it reads.
    """
    manifest = entry.manifest
    if manifest.is_remote:
        problem = f"{entry.name!r} runs on another machine, which does not tell its states."
        raise UsageError(problem, "Name a core on this one; see docs/remote.md.")
    files, adapter = (entry, None) if origin is None else (origin, entry.folder)
    block_size = shared.block_size or manifest.block_size
    if adapter is not None and manifest.reads_core:
        backbone: Backbone = load_reader(adapter, shared.core or load_model(files.folder, placement, block_size))
    else:
        backbone = load_model(files.folder, placement, block_size, adapter)
    process = shared.process or process_of(entry)
    denoiser = make_denoiser(backbone, manifest.attention, process, cache=placement.cache)
    codec = shared.codec or Codec(load_tokenizer(entry.folder, entry.name))
    return LoadedModel(
        denoiser, codec, format_of(entry, codec.tokenizer, trained_here=manifest.kind != "core" or _is_native(backbone))
    )


def open_remote(entry: Entry, shared: Shared = ALONE) -> LoadedModel:
    """A core on another machine, which is asked when it is to predict (RemoteFailed if that is forbidden)."""
    address, manifest = Address.of(entry.folder), entry.manifest
    if is_offline() and not address.is_here:
        problem = f"{entry.name!r} runs at {address.host}, and ssd is offline."
        raise RemoteFailed(problem, "Unset SSD_OFFLINE and HF_HUB_OFFLINE, or name a core on this machine.")
    codec = shared.codec or Codec(load_tokenizer(entry.folder, entry.name))
    client = Client(address, manifest.vocabulary, codec.named)
    backbone = RemoteBackbone(shared.block_size or manifest.block_size, manifest.context)
    never = read_config(entry.folder)[KEY]["suppressed"]
    denoiser = RemoteDenoiser(client, backbone, shared.process or process_of(entry), never)
    return LoadedModel(denoiser, codec, format_of(entry, codec.tokenizer, trained_here=False))


def open_memory(entry: Entry, shared: Shared = ALONE) -> LoadedMemory:
    """Open the memory of a registered model, an empty one where it has none (SsdError if it cannot be read).

    It recalls if it can and the core that read its text is loaded.
    """
    manifest = entry.manifest
    process = shared.process or process_of(entry)
    codec = shared.codec or Codec(load_tokenizer(entry.folder, entry.name))
    if not isinstance(process, Masked):
        problem = f"a memory joins the masked process alone, not the {process.name} process of {entry.name!r}."
        raise UsageError(problem, "Pass --no-memory.")
    kept = NOTHING
    if manifest.memory is not None:
        kept = load_memory(entry.folder, entry.name, manifest.vocabulary, manifest.tokenizer)
    form = format_of(entry, codec.tokenizer, trained_here=manifest.kind != "core")
    block_size = shared.block_size or manifest.block_size
    return loaded_memory(kept, codec, form, replace(shared, block_size=block_size, process=process))


def loaded_memory(memory: Memory, codec: Codec, form: TextFormat, shared: Shared) -> LoadedMemory:
    """A memory that is ready to be looked up; one whose text the core of `shared` has read recalls."""
    core, process = shared.core, shared.process
    assert isinstance(process, Masked)
    assert shared.block_size is not None
    if memory.recall is None or not isinstance(core, CausalCore):
        return LoadedMemory(MemoryDenoiser(memory, process, shared.block_size), codec, form)
    core.tap(memory.recall.metric.taps)
    reader = make_denoiser(core, "autoregressive", process)
    assert isinstance(reader, CausalDenoiser)
    return LoadedMemory(RecallDenoiser(memory, reader, codec.word, form.opening), codec, form)


def _is_native(backbone: Backbone) -> bool:
    """Whether a model is of the class that `train-small` makes."""
    return bool(getattr(backbone, "made_here", False))


def process_of(entry: Entry) -> Process:
    """The noise process that a manifest names (SsdError if it cannot be made)."""
    manifest = entry.manifest
    try:
        return make_process(manifest.process, manifest.vocabulary, manifest.constants)
    except ValueError as error:
        reason = str(error)
    except KeyError as error:
        reason = f"its manifest lacks the constant {error} of the {manifest.process} process"
    raise SsdError(f"the model {entry.name!r} cannot be used: {reason}.", "Check it with 'ssd models verify'.")
