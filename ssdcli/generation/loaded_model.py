"""Registered models ready to run: each loaded once, with its tokenizer and its text format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ssdcli.engine.denoiser import Backbone, Denoiser
from ssdcli.engine.process import Process, make_process
from ssdcli.engine.prompt import Prompt
from ssdcli.errors import SsdError
from ssdcli.machine.placement import FREE, Placement
from ssdcli.models.backbones.block_diffusion import BlockDiffusionLM
from ssdcli.models.loading import load_model, make_denoiser
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

    def after(self, text: Sequence[int], context: Sequence[int] = ()) -> Prompt:
        """The prompt for a canvas that follows these ids of a document.

        context: ids before the document, which stay in view when a long text has to be cut; after them the text may
        begin anywhere in a document.
        """
        opening = [] if context and self.format.cuts_documents else [self.format.opening]
        before = [*opening, *context]
        if not context:
            return Prompt([*before, *text])
        room = self.denoiser.room - len(before)
        return Prompt([*before, *text[max(0, len(text) - room) :]])


def open_model(
    entry: Entry,
    placement: Placement = FREE,
    *,
    origin: Entry | None = None,
    block_size: int | None = None,
    process: Process | None = None,
    codec: Codec | None = None,
) -> LoadedModel:
    """Load a registered model (SsdError if it cannot be read, OutOfMemory if it does not fit).

    origin: the model that an adapter is added to. block_size: the tokens of a canvas, if the model does not fix it.
    process, codec: shared with other members; by default the model's own.
    """
    manifest = entry.manifest
    files, adapter = (entry, None) if origin is None else (origin, entry.folder)
    backbone = load_model(files.folder, placement, block_size or manifest.block_size, adapter)
    denoiser = make_denoiser(backbone, manifest.attention, process or process_of(entry), cache=placement.cache)
    codec = codec or Codec(load_tokenizer(entry.folder, entry.name))
    return LoadedModel(denoiser, codec, format_of(entry, codec.tokenizer, trained_here=_is_native(backbone)))


def _is_native(backbone: Backbone) -> bool:
    """Whether a model is of the class that `train-small` makes."""
    return isinstance(backbone, BlockDiffusionLM)


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
