"""A model that teaches another: what it predicts where a small model learns to denoise, and how it reads the texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ssdcli.engine.blocks import training_mask
from ssdcli.engine.denoiser import Backbone, denoise_sequence
from ssdcli.engine.packed import Packed
from ssdcli.engine.process import Canvas, Process
from ssdcli.engine.shift import predicting
from ssdcli.errors import UsageError
from ssdcli.generation.loaded_model import Shared, open_model
from ssdcli.machine.distributed import world_size
from ssdcli.models.active_vocabulary import ActiveVocabulary, WholeVocabulary
from ssdcli.models.backbones.block_diffusion import BlockDiffusionLM
from ssdcli.models.core_config import read_config
from ssdcli.models.core_spec import KEY
from ssdcli.text.messages import BETWEEN
from ssdcli.training.cross_entropy import SoftTargets
from ssdcli.training.prepare import Prepared

_SCORES = 1 << 22  # predictions over all tokens that are held at once: 512 positions of 8,192 tokens

Read = Callable[[Backbone, Tensor, Packed, Tensor | None], Tensor]


def open_teacher(prepared: Prepared) -> Teacher | None:
    """Load the teacher that a training asks for; UsageError for one that cannot teach in several processes."""
    entry, settings, model = prepared.teacher, prepared.settings, prepared.model
    if entry is None:
        return None
    if world_size() > 1 and KEY in read_config(entry.folder):
        raise UsageError(f"the pulled model '{entry.name}' can only teach a single process.", "Run without torchrun.")
    assert isinstance(model, BlockDiffusionLM)  # one that reads the core has no teacher
    backbone = open_model(entry, shared=Shared(block_size=model.block_size)).denoiser.backbone
    read: Read = without_context
    if settings.distill_context:
        between = prepared.tokenizer.encode(BETWEEN, add_special_tokens=False).ids[-1]
        read = partial(denoise_in_context, separator=(prepared.end, between))
    return Teacher(backbone, prepared.process, model.vocabulary, settings.distill_weight, read)


def without_context(backbone: Backbone, embedded: Tensor, packed: Packed, level: Tensor | None) -> Tensor:
    """Denoise texts as a small model does, without self-conditioning: hidden states (B, T, H)."""
    return denoise_sequence(backbone, embedded, packed, level)


@dataclass(frozen=True)
class Noised:
    """Samples as the learner sees them.

    packed: the clean samples, (B, T).
    canvas: what noise leaves of them.
    t: their noise levels, (B, T).
    """

    packed: Packed
    canvas: Canvas
    t: Tensor


@dataclass(frozen=True)
class Teacher:
    """A model that is not trained, and the share of its predictions in the loss.

    It is not an nn.Module, so that it is no submodule of what learns from it.

    backbone: its network.
    process: its noise process, which is the learner's.
    vocabulary: the learner's rows, over which predictions are pooled.
    share: its part in the loss, from 0 to 1.
    read: how texts are put to it.
    """

    backbone: Backbone
    process: Process
    vocabulary: WholeVocabulary | ActiveVocabulary
    share: float
    read: Read = without_context

    @torch.no_grad()
    def targets(self, noised: Noised, due: Tensor) -> SoftTargets:
        """What it predicts at the columns `due`, (N,) int64 places in (B, T) read row by row."""
        hidden = self.hidden(noised)[due]
        tokens = self.vocabulary.rows(noised.packed.tokens.reshape(-1)[due])
        return SoftTargets(tokens, lambda rows: self.probabilities(hidden[rows]), self.share)

    def hidden(self, noised: Noised) -> Tensor:
        """The hidden states of all columns, row by row: (B * T, H)."""
        embedded = self.process.embed(noised.canvas, self.backbone)
        level = noised.t if self.process.timed else None
        return self.read(self.backbone, embedded, noised.packed, level).flatten(0, 1)

    @torch.no_grad()
    def probabilities(self, hidden: Tensor) -> Tensor:
        """The probabilities of the learner's rows: hidden (n, H) to (n, rows) float32, 0 where never text."""
        at_once = max(1, _SCORES // self.process.vocabulary)
        parts = [self.vocabulary.pooled(self.backbone.logits(part).softmax(-1)) for part in hidden.split(at_once)]
        p = torch.cat(parts).index_fill_(-1, self.vocabulary.muted, 0)
        return p.div_(p.sum(-1, keepdim=True))


def denoise_in_context(
    backbone: Backbone, embedded: Tensor, packed: Packed, level: Tensor | None, separator: tuple[int, int]
) -> Tensor:
    """Denoise packed texts that the model has just read: one pass over [noised ; clean ; context] to (B, T, H).

    The context of each text is the text itself, cut at its beginning to what leaves it room in the model's window.

    embedded: (B, T, H) embeddings of the noised tokens.
    level: their noise levels, (B, T).
    separator: the id that opens a document, and the one that takes its place between context and text.
    """
    opening, between = separator
    noised = backbone.condition(embedded, level, None)
    opens = (packed.positions == 0) & (packed.tokens == opening)
    tokens = torch.cat([packed.tokens.masked_fill(opens, between), packed.tokens], dim=1)
    columns = torch.cat([noised, backbone.embed(tokens).to(noised.dtype)], dim=1)
    # A context of k tokens has the positions 0..k-1, and the text goes on at k: k + n must fit into the window of the
    # model, so only the last k = min(n, window - n) tokens of the text's own n are repeated before it.
    lengths = text_lengths(packed)
    kept = torch.minimum(lengths, (backbone.context - lengths).clamp(min=0))
    dropped = lengths - kept
    seen = packed.known & (packed.positions >= dropped)
    behind, before = packed.positions + kept, (packed.positions - dropped).clamp(min=0)
    positions = torch.cat([behind, behind, before], dim=1)
    # The context comes last among the columns, whose order means nothing to attention: positions and mask say what
    # stands where. So the noised half is still the first T columns of the result.
    mask = context_mask(packed, seen, backbone.reading_block)
    hidden = backbone.encode(columns, positions, mask, None)[:, : 2 * packed.length]
    return predicting(hidden, packed) if backbone.shift else hidden[:, : packed.length]


def text_lengths(packed: Packed) -> Tensor:
    """How many known tokens the text of each column has: (B, T) int64."""
    ends = (packed.positions + 1) * packed.known
    return torch.zeros_like(ends).scatter_reduce(1, packed.texts, ends, "amax").gather(1, packed.texts)


def context_mask(packed: Packed, seen: Tensor, block: int) -> Tensor:
    """The attention mask of [noised ; clean ; context], each (B, T): (B, 1, 3T, 3T) bool, True where attended.

    Noised and clean columns attend to each other as they do without context, and to all of their own text's context,
    which itself is read block by block.

    seen: (B, T) bool, the columns of the context that are there.
    """
    own_text = packed.texts[:, :, None] == packed.texts[:, None, :]
    context = own_text & seen[:, None, :]
    order = packed.positions // block
    itself = torch.eye(packed.length, dtype=torch.bool, device=seen.device)
    reading = (context & (order[:, None, :] <= order[:, :, None])) | itself  # so that no row of the softmax is empty
    texts = torch.cat([training_mask(packed)[:, 0], context.repeat(1, 2, 1)], dim=2)
    contexts = torch.cat([torch.zeros_like(context).repeat(1, 1, 2), reading], dim=2)
    return torch.cat([texts, contexts], dim=1)[:, None]
