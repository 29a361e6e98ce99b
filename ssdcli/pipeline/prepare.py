"""What a training needs before its first step: tokens on disk, what the core dictates, a model to train."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tokenizers import Tokenizer

from ssdcli.engine.process import Process, make_process
from ssdcli.errors import UsageError
from ssdcli.evaluation.losses import Passage
from ssdcli.models.backbone import BlockDiffusionLM
from ssdcli.models.mould import Mould, read_mould
from ssdcli.registry.files import write_atomic
from ssdcli.registry.store import Entry, Registry
from ssdcli.training.active import divide
from ssdcli.training.build import build, choose_preset, shape
from ssdcli.training.corpus import SplitSettings
from ssdcli.training.documents import ReadReport
from ssdcli.training.readers import read_documents
from ssdcli.training.settings import DEFAULT_BLOCK, NO_CORE, TrainSettings
from ssdcli.training.tokenizer import END_OF_TEXT, MASK, PAD, special_id, train_tokenizer
from ssdcli.training.tokens import StoreSettings, TokenStore, build_store

_TOKENS = "tokens"
TOKENIZER = "tokenizer.json"
_PASSAGE = 1024  # tokens of a held-out document that are measured


@dataclass(frozen=True)
class Parent:
    """The core that a small model is made for, and what it dictates."""

    entry: Entry
    mould: Mould


@dataclass(frozen=True)
class Prepared:
    """Everything that a training needs, read and built; `size` is None when the settings shape the model.

    end: the id of end of text, which parts documents.
    """

    settings: TrainSettings
    workspace: Path
    tokenizer: Tokenizer
    end: int
    store: TokenStore
    process: Process
    model: BlockDiffusionLM
    size: str | None
    parent: Parent | None


def prepare(settings: TrainSettings, registry: Registry) -> Prepared:
    """Read the data, take from the core what must fit it, and build the model."""
    workspace = registry.workspace(settings.name)
    parent = _parent(settings, registry)
    settings = replace(settings, block_size=_block_size(settings, parent))
    _check_base(settings, registry, parent)
    tokenizer = _tokenizer(settings, workspace, parent)
    end = _end(tokenizer, parent)
    store = _store(settings, workspace, tokenizer, end)
    process = _process(settings, tokenizer, parent)
    preset = choose_preset(settings, store.info.train.tokens)
    settings = replace(settings, size=preset.name)  # more minutes for the rest of a training must not change it
    never = _never_text(tokenizer, settings.vocabulary) if parent is None else ()
    mould = None if parent is None else parent.mould
    division = None if mould is None else divide(mould, store.train)
    config = shape(settings, preset, process, mould, never, division)
    model = build(config, mould, division, settings.seed)
    custom = settings.hidden is not None or settings.layers is not None
    size = None if custom else preset.name
    return Prepared(settings, workspace, tokenizer, end, store, process, model, size, parent)


def _parent(settings: TrainSettings, registry: Registry) -> Parent | None:
    if settings.core == NO_CORE:
        return None
    entry = registry.find(settings.core)
    if entry.manifest.kind != "core":
        raise UsageError(
            f"'{settings.core}' is not a core but of kind '{entry.manifest.kind}'.", "Name a core with --for."
        )
    return Parent(entry, read_mould(entry.folder))


def _block_size(settings: TrainSettings, parent: Parent | None) -> int:
    """The block that is asked for, or the core's; UsageError where the core fixes another."""
    if parent is None:
        return settings.block_size or DEFAULT_BLOCK
    core, asked = parent.entry.manifest, settings.block_size
    if core.attention == "full":
        return core.block_size if asked is None else asked
    if asked not in (None, core.block_size):
        problem = f"--block-size {asked} was given, but the core '{settings.core}' has blocks of {core.block_size}."
        raise UsageError(problem, "Leave --block-size out, or make a core with --for none.")
    return core.block_size


def _end(tokenizer: Tokenizer, parent: Parent | None) -> int:
    """The id of end of text: the core's first, or the tokenizer's own."""
    ends = [] if parent is None else parent.entry.manifest.ends
    return ends[0] if ends else special_id(tokenizer, END_OF_TEXT)


def _check_base(settings: TrainSettings, registry: Registry, parent: Parent | None) -> None:
    """Raise UsageError for a base that could not denoise a canvas of the core's."""
    if settings.base is None:
        return
    base = registry.find(settings.base).manifest
    core = None if parent is None else parent.entry.manifest
    if (
        core is None
        or base.kind != "small"
        or base.block_size != settings.block_size
        or ((base.tokenizer, base.process, base.constants) != (core.tokenizer, core.process, core.constants))
    ):
        problem = f"'{settings.base}' is no small model that fits the core '{settings.core}'."
        raise UsageError(problem, f"Name one that was made with --for {settings.core}.")


def _tokenizer(settings: TrainSettings, workspace: Path, parent: Parent | None) -> Tokenizer:
    """The core's tokenizer, or one learned from the data when there is no core."""
    if parent is not None:
        return Tokenizer.from_file(str(parent.entry.folder / TOKENIZER))
    path = workspace / TOKENIZER
    if not path.exists():
        if "-" in settings.data:
            raise UsageError("a core's data is read twice, which standard input cannot be.", "Give it as a file.")
        texts = (document.text for document in read_documents(settings.data, ReadReport()))
        write_atomic(path, train_tokenizer(texts, settings.vocabulary).to_str(pretty=True))
    return Tokenizer.from_file(str(path))


def _never_text(tokenizer: Tokenizer, vocabulary: int) -> tuple[int, ...]:
    """The ids that stand for no text: mask, padding, and those that too little text has left without a token."""
    unused = range(tokenizer.get_vocab_size(), vocabulary)
    return (special_id(tokenizer, MASK), special_id(tokenizer, PAD), *unused)


def _store(settings: TrainSettings, workspace: Path, tokenizer: Tokenizer, end: int) -> TokenStore:
    """The tokens on disk, from an earlier start of the same training if there was one."""
    folder = workspace / _TOKENS
    if TokenStore.is_finished(folder):
        return TokenStore.open(folder)
    split = SplitSettings(settings.seed, settings.heldout)
    report = ReadReport()
    documents = read_documents(settings.data, report)
    return build_store(documents, tokenizer, folder, StoreSettings(end, split), report)


def _process(settings: TrainSettings, tokenizer: Tokenizer, parent: Parent | None) -> Process:
    if parent is not None:
        manifest = parent.entry.manifest
        return make_process(manifest.process, manifest.vocabulary, manifest.constants)
    constants = {"K": 5.0, "s": 1e-4, "mask_id": special_id(tokenizer, MASK)}  # a process takes those that are its own
    return make_process(settings.process, settings.vocabulary, constants)


def passages(store: TokenStore, tokenizer: Tokenizer, limit: int) -> list[Passage]:
    """Held-out documents in the store's order until `limit` tokens are reached; of a long one, the beginning."""
    chosen: list[Passage] = []
    left = limit
    for start, stop, size in store.heldout_documents:
        if left <= 0:
            break
        end = min(stop, start + _PASSAGE)
        tokens = store.heldout[start - 1 : end].tolist()
        chosen.append(Passage(tokens, size if end == stop else len(tokenizer.decode(tokens[1:]).encode())))
        left -= len(tokens)
    return chosen
