"""What a training needs before its first step: tokens on disk, what the core dictates, and a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tokenizers import Tokenizer

from ssdcli.data.canaries import keep_canaries
from ssdcli.data.documents import ReadReport
from ssdcli.data.readers.files import read_documents
from ssdcli.data.split import SplitSettings
from ssdcli.data.token_store import StoreInfo, StoreSettings, TokenStore, build_store
from ssdcli.engine import catalogue
from ssdcli.engine.process import Process, make_process
from ssdcli.errors import UsageError, require
from ssdcli.generation.loaded_model import Shared, open_model, process_of
from ssdcli.generation.parts import is_causal, is_remote
from ssdcli.machine.hardware import has_fast_bf16, look
from ssdcli.machine.placement import Placement
from ssdcli.machine.units import in_parameters
from ssdcli.models.backbones.block_diffusion import BlockDiffusionLM
from ssdcli.models.backbones.native_causal import NativeCausalBackbone
from ssdcli.models.backbones.side_network import SideNetwork
from ssdcli.models.backbones.small_causal import SmallCausalLM
from ssdcli.models.backbones.tuned_core import TunedCore
from ssdcli.models.core_traits import CoreTraits, read_core_traits
from ssdcli.options.declare import STREAM
from ssdcli.registry.compatibility import CanvasShape
from ssdcli.registry.disk import write_atomic
from ssdcli.registry.manifest import ADAPTER, TOKENIZER
from ssdcli.registry.names import NO_CORE
from ssdcli.registry.store import Entry, Registry
from ssdcli.text.openings import chat_of, end_of_text, ends_of
from ssdcli.text.tokenizer import MASK, PAD, load_tokenizer, special_id, train_tokenizer
from ssdcli.training.active_tokens import divide
from ssdcli.training.beginnings import Beginning, Fit, SmallModel, new_adapter, open_beginning, same_weights
from ssdcli.training.build import build, build_reader, settled_adapter, settled_reader, shape
from ssdcli.training.checkpoints import latest_checkpoint
from ssdcli.training.choices import choose_preset, settled
from ssdcli.training.core_states import SAMPLE
from ssdcli.training.settings import DEFAULT_BLOCK, TrainSettings

_TOKENS = "tokens"
_WINDOW = 256  # tokens that an adapter of a causal core sees at once


@dataclass(frozen=True)
class Parent:
    """The core that a small model is made for.

    traits: what it dictates.
    """

    entry: Entry
    traits: CoreTraits


@dataclass(frozen=True)
class Prepared:
    """Everything that a training needs, read and built.

    settings: with what they left open decided.
    workspace: the folder of the training's own files.
    tokenizer: the core's, or the one that was learned from the data.
    end: the id of end of text, which separates documents.
    store: the tokens of the data.
    process: the noise process.
    beginning: the model to train.
    size: the preset of a model from scratch, None for any other model.
    parent: the core that it is made for, None for a core from scratch.
    teacher: the model whose predictions are learned, if any.
    """

    settings: TrainSettings
    workspace: Path
    tokenizer: Tokenizer
    end: int
    store: TokenStore
    process: Process
    beginning: Beginning
    size: str | None
    parent: Parent | None
    teacher: Entry | None

    @property
    def model(self) -> SmallModel:
        """The model to train."""
        return self.beginning.model

    @property
    def window(self) -> int:
        """The tokens of a training sample."""
        if isinstance(self.model, TunedCore):
            return min(self.settings.context or _WINDOW, self.model.config.context)
        return SAMPLE if isinstance(self.model, SideNetwork) else self.model.config.context

    @property
    def read_folder(self) -> Path:
        """Where the core's states are kept: of one that is trained in its last checkpoint, which steps replace."""
        checkpoint = latest_checkpoint(self.workspace) if isinstance(self.model, TunedCore) else None
        return checkpoint or self.workspace

    @property
    def predicts_next(self) -> bool:
        """Whether the model predicts the next token alone, as its core does."""
        return isinstance(self.model, (SideNetwork, TunedCore))

    @property
    def attention(self) -> str:
        """How it reads text, as its manifest names it."""
        return "autoregressive" if self.predicts_next or isinstance(self.model, SmallCausalLM) else "block-causal"

    @property
    def opening(self) -> int:
        """The id before every document."""
        begin = self.core.manifest.begin if self.core is not None and self.predicts_next else None
        return self.end if begin is None else begin

    @property
    def core(self) -> Entry | None:
        """The core that it is made for; None for a core from scratch."""
        return None if self.parent is None else self.parent.entry

    @property
    def exact(self) -> bool:
        """Whether the trained model is measured by exact code lengths, as models for causal cores are."""
        return is_causal(self.core)

    @property
    def tokenizer_file(self) -> Path:
        """The core's tokenizer, or the one that was learned from the data."""
        return (self.workspace if self.core is None else self.core.folder) / TOKENIZER

    @property
    def kind(self) -> str:
        """The kind of model that it becomes in the registry."""
        if self.beginning.adapter is not None:
            return ADAPTER
        return "core" if self.parent is None else "small"

    @property
    def title(self) -> str:
        """What is trained, in a line."""
        reads = isinstance(self.model, SideNetwork)
        kind = "adapter" if self.kind == ADAPTER else self.size or ("core reader" if reads else "custom")
        begun = "" if self.settings.init is None else f", begun from {self.settings.init}"
        return f"{kind}: {in_parameters(self.beginning.parameters)} parameters, {self.process.name} process{begun}"

    @property
    def base(self) -> str | None:
        """Its base for contrasts: the registered model that is named as such, or the one that it began from."""
        return self.settings.base or self.beginning.base

    @property
    def format(self) -> str:
        """How prompts are put to the model: as in at least half of the documents that it is trained on."""
        return format_of_text(self.store.info, self.core)


def format_of_text(info: StoreInfo, core: Entry | None) -> str:
    """How prompts are put to a model of this text: as in at least half of the documents that it is trained on."""
    if 2 * info.train.conversations < info.train.documents:
        return "plain"
    return "chat" if core is not None and core.manifest.format == "chat" else "turns"


def prepare(settings: TrainSettings, registry: Registry) -> Prepared:
    """Read the data, take over what the core dictates, and build the model."""
    workspace = registry.workspace(settings.name)
    parent = _parent(settings, registry)
    _check_tunable(settings, parent)
    _check_causal(settings, parent)
    _check_next_token(settings, parent)
    settings = replace(settings, block_size=_block_size(settings, parent))
    _check_base(settings, registry, parent)
    teacher = _teacher(settings, registry, parent)
    tokenizer = _tokenizer(settings, workspace, parent)
    process = _process(settings, tokenizer, parent)
    beginning = _beginning(settings, process, registry, parent)
    end = end_of_text(tokenizer) if parent is None else ends_of(parent.entry, tokenizer)[0]
    how = StoreSettings(end) if parent is None else store_settings(parent.entry, tokenizer)
    store = read_text(settings, workspace, tokenizer, how)
    if beginning is None and parent is not None and settings.lora is not None:
        settings = settled_adapter(settings)
        beginning = _tuned(settings, parent, process, workspace)
        return Prepared(settings, workspace, tokenizer, end, store, process, beginning, None, parent, None)
    if beginning is None and parent is not None and reads_core(settings, parent):
        settings = settled_reader(settings)
        same_weights(parent.entry, workspace)
        beginning = _reader(settings, parent, process)
        return Prepared(settings, workspace, tokenizer, end, store, process, beginning, None, parent, None)
    settings, size = settled(settings, store.info.train.tokens), None
    if beginning is None:
        custom = settings.hidden is not None or settings.layers is not None
        size = None if custom else settings.size
        beginning = Beginning(_from_scratch(settings, process, tokenizer, store, parent))
    _check_window(teacher, beginning.model.config.context)
    return Prepared(settings, workspace, tokenizer, end, store, process, beginning, size, parent, teacher)


def _beginning(
    settings: TrainSettings, process: Process, registry: Registry, parent: Parent | None
) -> Beginning | None:
    """Open what the settings name to begin from; None for a training from scratch."""
    if parent is None or settings.init is None:
        return None
    canvas = CanvasShape.of(parent.entry.manifest, settings.block_size)
    fit = Fit(parent.entry.manifest, canvas, parent.traits, process)
    return open_beginning(settings, fit, registry, registry.workspace(settings.name))


def reads_core(settings: TrainSettings, parent: Parent) -> bool:
    """Whether a small model is to read its core's states (UsageError where it has none to read)."""
    causal = is_causal(parent.entry) and not settings.causal
    problem = f"the core '{parent.entry.name}' is no causal language model, whose states could be read."
    require(causal or not settings.reads_core, problem, "Omit --reads-core.")
    if parent.entry.manifest.is_remote:
        problem = f"the core '{parent.entry.name}' runs on another machine, which does not tell its states."
        remedy = "Omit --reads-core, or train for a core of the same tokenizer on this machine."
        require(not settings.reads_core, problem, remedy)
        return False
    return causal and (settings.given_own_reading() is None if settings.reads_core is None else settings.reads_core)


def _reader(settings: TrainSettings, parent: Parent, process: Process) -> Beginning:
    """An untrained model on its core."""
    core = open_readable(parent.entry, process)
    network = build_reader(settings, core, parent.entry.manifest.vocabulary)
    return Beginning(network, base_weights=parent.entry.manifest.weights_digest)


def _tuned(settings: TrainSettings, parent: Parent, process: Process, workspace: Path) -> Beginning:
    """A causal core with a new adapter; UsageError for another core."""
    entry = parent.entry
    digest = same_weights(entry, workspace)
    core = open_readable(entry, process)
    adapter = new_adapter(core, settings, entry.name)
    return Beginning(TunedCore(core, entry.manifest.vocabulary).train(), entry.name, adapter, digest)


def open_readable(entry: Entry, process: Process) -> NativeCausalBackbone:
    """A causal core whose head passes gradients on, as packed weights do not."""
    placement = Placement() if look().accelerators else Placement(dtype="float32")
    core = open_model(entry, placement, shared=Shared(process=process)).denoiser.backbone
    assert isinstance(core, NativeCausalBackbone)
    if core.device.type == "cpu" and has_fast_bf16():
        for weight in core.model.parameters():  # not buffers: rounded rotary frequencies would turn distant positions
            weight.data = weight.data.bfloat16()
    return core


def _from_scratch(
    settings: TrainSettings, process: Process, tokenizer: Tokenizer, store: TokenStore, parent: Parent | None
) -> BlockDiffusionLM:
    """Build a new model of the chosen shape, which takes over what the core dictates."""
    preset = choose_preset(settings, store.info.train.tokens)
    never = _never_text(tokenizer, settings.vocabulary) if parent is None else ()
    traits = None if parent is None else parent.traits
    division = None if traits is None else divide(traits, store.train)
    config = shape(settings, preset, process, traits, never, division)
    return build(config, traits, division, settings.seed)


def _check_tunable(settings: TrainSettings, parent: Parent | None) -> None:
    """Raise UsageError for an adapter without a beginning whose core is no causal model on this machine."""
    core = None if parent is None else parent.entry
    tunable = settings.lora is None or settings.init is not None or (is_causal(core) and not is_remote(core))
    remedy = "Name what to begin from with --init, or a causal core that is on this machine with --for."
    require(tunable, "--lora was given, but --init was not.", remedy)


def _check_causal(settings: TrainSettings, parent: Parent | None) -> None:
    """Raise UsageError for a causal small model whose core is none."""
    if settings.causal and parent is not None:
        problem = f"the core '{parent.entry.name}' is no causal language model, and denoises more than the next token."
        require(is_causal(parent.entry), problem, "Omit --causal.")


def _check_next_token(settings: TrainSettings, parent: Parent | None) -> None:
    """Raise UsageError for what a model has no use for that predicts the next token alone."""
    if parent is None or settings.init is not None or not (settings.lora or reads_core(settings, parent)):
        return
    others, fitting = "" if settings.lora else ", or pass --no-reads-core", (None, parent.entry.manifest.block_size)
    for flag, given in (("gap-share", settings.gap_share), ("block-size", settings.block_size not in fitting)):
        problem = f"--{flag} was given, and this model predicts the next token alone, as its core does."
        require(not given, problem, f"Omit --{flag}{others}.")


def _parent(settings: TrainSettings, registry: Registry) -> Parent | None:
    if settings.core == NO_CORE:
        return None
    entry = find_core(settings, registry)
    return Parent(entry, read_core_traits(entry.folder))


def find_core(settings: TrainSettings, registry: Registry) -> Entry:
    """Find the core that is named (NoSuchModel); UsageError for a model of another kind."""
    entry = registry.find(settings.core)
    if entry.manifest.kind != "core":
        raise UsageError(f"'{settings.core}' is {entry.manifest.noun}, not a core.", "Name a core with --for.")
    return entry


def _block_size(settings: TrainSettings, parent: Parent | None) -> int:
    """The block size that is asked for, or the core's; UsageError where the core has fixed another."""
    if parent is None:
        return settings.block_size or DEFAULT_BLOCK
    core, asked = parent.entry.manifest, settings.block_size
    problem = f"--block-size {asked} was given, but the core '{settings.core}' has blocks of {core.block_size}."
    fits = asked is None or core.fixed_block in (None, asked)
    require(fits, problem, "Omit --block-size, or make a core with --for none.")
    return asked or core.block_size


def _check_base(settings: TrainSettings, registry: Registry, parent: Parent | None) -> None:
    """Raise UsageError for a base that could not denoise the core's canvases."""
    if settings.base is None:
        return
    base = registry.find(settings.base).manifest
    wanted = None if parent is None else CanvasShape.of(parent.entry.manifest, settings.block_size)
    if wanted is None or base.kind != "small" or CanvasShape.of(base).misfit(wanted) is not None:
        problem = f"'{settings.base}' is not a small model that fits the core '{settings.core}'."
        raise UsageError(problem, f"Name one that was made with --for {settings.core}.")


def _teacher(settings: TrainSettings, registry: Registry, parent: Parent | None) -> Entry | None:
    """Find the model whose predictions are learned; UsageError for one that cannot denoise a window in one pass."""
    if settings.distill is None:
        return None
    entry = registry.find(settings.distill)
    problem = "a core from scratch has its own tokens" if parent is None else _unfit_teacher(entry, parent, settings)
    if problem is not None:
        remedy = "Name another model with --distill, or omit it."
        raise UsageError(f"'{settings.distill}' cannot teach: {problem}.", remedy)
    return entry


def _unfit_teacher(entry: Entry, parent: Parent, settings: TrainSettings) -> str | None:
    """Why a model cannot teach one that is made for a core; None if it can."""
    if entry.manifest.attention in ("autoregressive", "causal", "none"):
        return "it cannot denoise all blocks of a text in one pass"
    return CanvasShape.of(entry.manifest).misfit(CanvasShape.of(parent.entry.manifest, settings.block_size))


def _check_window(teacher: Entry | None, window: int) -> None:
    """Raise UsageError for windows that are longer than the teacher's context."""
    if teacher is not None and window > (most := teacher.manifest.context):
        problem = f"'{teacher.name}' has a context of {most} tokens, and the windows of this training have {window}."
        raise UsageError(problem, f"Pass --context {most}, or omit --distill.")


def _tokenizer(settings: TrainSettings, workspace: Path, parent: Parent | None) -> Tokenizer:
    """Load the core's tokenizer, or learn one from the data if there is no core."""
    if parent is not None:
        return load_tokenizer(parent.entry.folder, parent.entry.name)
    path = workspace / TOKENIZER
    if not path.exists():
        if STREAM in settings.data:
            raise UsageError("a core's data is read twice, and standard input cannot be.", "Pass it as a file.")
        texts = (document.text for document in read_documents(settings.data, ReadReport(), settings.reading))
        write_atomic(path, train_tokenizer(texts, settings.vocabulary).to_str(pretty=True))
    return Tokenizer.from_file(str(path))


def _never_text(tokenizer: Tokenizer, vocabulary: int) -> tuple[int, ...]:
    """The ids that are never text: mask, padding, and those for which the text was too small."""
    unused = range(tokenizer.get_vocab_size(), vocabulary)
    return (special_id(tokenizer, MASK), special_id(tokenizer, PAD), *unused)


def store_settings(core: Entry, tokenizer: Tokenizer) -> StoreSettings:
    """How text is encoded: as the core reads it, conversations by its chat template if it has one."""
    end = ends_of(core, tokenizer)[0]
    if core.manifest.format != "chat":
        return StoreSettings(end)
    return StoreSettings(end, chat=chat_of(core), ends=core.manifest.ends)


def read_text(settings: TrainSettings, workspace: Path, tokenizer: Tokenizer, how: StoreSettings) -> TokenStore:
    """Open the tokens on disk, or write them unless an earlier start of the same training has."""
    folder = workspace / _TOKENS
    if TokenStore.is_finished(folder):
        return TokenStore.open(folder)
    split = SplitSettings(settings.seed, settings.heldout)
    report = ReadReport()
    documents = read_documents(settings.data, report, settings.reading)
    planted = keep_canaries(workspace, settings.canaries).planted() if settings.canaries else []
    how = replace(how, split=split, planted=tuple(planted))
    return build_store(documents, tokenizer, folder, how, report)


def _process(settings: TrainSettings, tokenizer: Tokenizer, parent: Parent | None) -> Process:
    if parent is not None:
        return process_of(parent.entry)
    usual = catalogue.process(settings.process).constants
    mask = {"mask_id": special_id(tokenizer, MASK)}  # which a process takes if it has one
    return make_process(settings.process, settings.vocabulary, mask | dict(usual))
