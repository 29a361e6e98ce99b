"""What a model says about itself: the manifest `ssd.json`, and the fingerprint of a tokenizer."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import MISSING, asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from ssdcli.engine import catalogue
from ssdcli.engine.ensemble.confidence import Confidence
from ssdcli.engine.ensemble.gate import FARTHEST, AverageGate, Gate
from ssdcli.errors import SsdError
from ssdcli.options.checks import Check, above, one_of
from ssdcli.registry.disk import write_atomic

SCHEMA = 1
FILE = "ssd.json"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # of weights in several files
TOKENIZER = "tokenizer.json"
TOKENIZER_SETTINGS = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
WEIGHT = above(0, most=1)  # of a small model; 1 leaves its core out
LATER = (
    "base",
    "base_weights",
    "begin",
    "ends",
    "format",
    "gate",
    "gates",
    "measure",
    "memory",
    "source",
    "text",
)  # fields that earlier versions did not write
ADAPTER = "adapter"  # a LoRA of a registered model, which it needs
MEMORY = "memory"  # an index of text, without weights
READER = "SideNetwork"  # the architecture of a small model that reads its core's states
REMOTE = "remote"  # the architecture of a core on another machine
HEAD = "head"  # drafts for a causal core, and predicts nothing
DRAFTER = "DFlashDraftModel"  # the architecture of a draft head that others published
KINDS = {  # with what a model of each kind is called
    "core": "a core",
    "small": "a small model",
    ADAPTER: "an adapter",
    MEMORY: "a memory",
    HEAD: "a draft head",
}
MEMBERS = ("small", ADAPTER, MEMORY)  # the kinds that join a core
ATTENTIONS = ("autoregressive", "block-causal", "causal", "full", "none")
FORMATS = ("plain", "turns", "chat")
CODE_LENGTH = "code length"
NELBO = "NELBO"
DENOISING_LOSS = "denoising loss"
_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors")

_GATE = tuple(member.name for member in fields(Gate))
_CHECK = "check"  # a key of a field's metadata


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _counts(value: object) -> bool:
    return isinstance(value, tuple) and all(map(_count, value))


def _frozen(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _optional_text(value: object) -> bool:
    return value is None or _text(value)


def _weight(value: Any) -> bool:
    return value is None or (_number(value) and WEIGHT.holds(value))


def _gate(value: Any) -> bool:
    return value is None or (_numbers(value) and set(value) == set(_GATE) and max(map(abs, value.values())) <= FARTHEST)


def _gates(value: Any) -> bool:
    try:
        return isinstance(value, tuple) and all(map(_sound, map(joint_gate, value)))
    except (TypeError, ValueError, KeyError):
        return False


def joint_gate(table: Any) -> AverageGate:
    """A gate as a manifest lists it (TypeError, ValueError or KeyError for anything else)."""
    rows = tuple(tuple(map(float, row)) for row in table["coefficients"])
    weights, confidence = tuple(map(float, table["weights"])), table.get("confidence")  # which few versions wrote
    sure = None if confidence is None else Confidence(**confidence)
    return AverageGate(tuple(table["members"]), weights, rows, bool(table["is_default"]), sure)


def _sound(gate: AverageGate) -> bool:
    shares, numbers = gate.weights, [number for row in gate.coefficients for number in row]
    numbers += [] if gate.confidence is None else [gate.confidence.offset, gate.confidence.slope]
    return all(0 <= share <= 1 for share in shares) and all(abs(number) <= FARTHEST for number in numbers)


def _numbers(value: object) -> bool:
    return isinstance(value, dict) and all(map(_text, value)) and all(map(_number, value.values()))


def _texts(value: object) -> bool:
    return isinstance(value, dict) and all(map(_text, value)) and all(map(_text, value.values()))


def _inside(value: object) -> bool:
    # A manifest that came from elsewhere must not point at files outside the model's folder.
    return isinstance(value, dict) and _texts(value) and all(_is_relative(path) for path in value)


def _is_relative(path: str) -> bool:
    return not path.startswith("/") and "\\" not in path and ":" not in path and ".." not in path.split("/")


def _package_versions() -> dict[str, str]:
    """The versions of the packages that make a model, for its manifest."""
    from importlib.metadata import version  # its import takes longer than listing the models

    return {package: version(package) for package in _PACKAGES}


_COUNT = Check("a whole number of at least 0", _count)
_TEXT = Check("a text that is not empty", _text)
_OPTIONAL_TEXT = Check("a text or null", _optional_text)
_NUMBERS = Check("a table of finite numbers", _numbers)
_OPTIONAL_COUNT = Check("a whole number of at least 0, or null", lambda value: value is None or _count(value))


def _checked(check: Check, default: Any = MISSING, *, make: Any = MISSING) -> Any:
    """A field of a manifest, with what its value must be."""
    return field(default=default, default_factory=make, metadata={_CHECK: check})


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """How a model is run as a diffusion language model; every field is checked (SsdError names the field).

    process: the name of its noise process.
    constants: of the noise process; those that are left out have their usual values.
    block_size: in tokens; only a proposal where the attention is full or autoregressive.
    context: how many tokens it reads.
    attention: "full"; "block-causal"; "causal": a prefix is read token by token, and a canvas sees itself whole; or
        "autoregressive": a causal language model, which predicts the leftmost hidden token alone; or "none": a memory
        or a draft head.
    begin: the id that stands before every text; None for the first of the ends.
    ends: ids that end a text; none for the tokenizer's own end of text.
    format: how a prompt is put: "plain" as text to continue, "turns" as a turn to be answered, "chat" by the chat
        template. A small model has that of its training text; beside a plain one its core, too, continues text.
    """

    process: str = _checked(one_of(lambda: catalogue.names(catalogue.PROCESSES)))
    constants: dict[str, float] = _checked(_NUMBERS, make=dict)
    block_size: int = _checked(_COUNT)
    context: int = _checked(_COUNT)
    attention: str = _checked(one_of(ATTENTIONS))
    begin: int | None = _checked(_OPTIONAL_COUNT, None)
    ends: tuple[int, ...] = _checked(Check("a list of whole numbers of at least 0", _counts), ())
    format: str = _checked(one_of(FORMATS), "plain")

    def __post_init__(self) -> None:
        for member in fields(self):
            check, value = member.metadata.get(_CHECK), getattr(self, member.name)
            if check is not None and not check.holds(value):
                raise SsdError(f"the field {member.name!r} must be {check}, not {value!r}.")

    @property
    def noise(self) -> tuple[str, dict[str, float]]:
        """The noise process and all of its constants, including those that may be left out."""
        return self.process, catalogue.process(self.process).completed(self.constants)

    @property
    def fixed_block(self) -> int | None:
        """Its block size, where it can denoise no other; None where any will do."""
        return None if self.attention in ("autoregressive", "full", "none") else self.block_size


@dataclass(frozen=True, kw_only=True)
class Manifest(ModelSpec):
    """One model's description.

    schema: the version of this table.
    name: that of its folder in the registry.
    kind: "core", "small", "adapter", "memory" or "head".
    architecture: the name of its family or of its backbone.
    vocabulary: V.
    tokenizer: the tokenizer's fingerprint.
    parameters: how many.
    core: the name of the core that a small model was made for.
    base: the name of the model that it was specialised from; an adapter is loaded on it.
    base_weights: the digest of its origin's weights, see `origin`.
    source: what was pulled: REPO@COMMIT, or the name and digest of a local file or folder.
    weight: the tuned weight of a small model, in (0, 1].
    gate: the numbers of a small model's `Gate`.
    gates: its `AverageGate`s beside a causal core, one for each set of members.
    memory: the size of the text that it holds as a memory: "texts", "tokens"; None without a memory.
    data: the fingerprint of its training text.
    created: when, in ISO 8601, UTC.
    files: the sha256 of its files by relative path.
    versions: of the packages that it was made with.
    metrics: what was measured of it. "core", "small" and "ensemble bits per byte" are losses on held-out text, each
        beside its "margin", half the width of a 95% confidence interval; "held-out documents" counts that text.
    measure: what those losses are: CODE_LENGTH, NELBO or DENOISING_LOSS; before it was written, they were of the last.
    text: the size of its training text: "documents", "conversations" among them, "tokens" and "bytes".
    """

    schema: int = _checked(Check(f"{SCHEMA}", lambda value: value == SCHEMA and _count(value)), SCHEMA)
    name: str = _checked(_TEXT)
    kind: str = _checked(one_of(tuple(KINDS)))
    architecture: str = _checked(_TEXT)
    vocabulary: int = _checked(_COUNT)
    tokenizer: str = _checked(_TEXT)
    parameters: int = _checked(_COUNT)
    core: str | None = _checked(_OPTIONAL_TEXT, None)
    base: str | None = _checked(_OPTIONAL_TEXT, None)
    base_weights: str | None = _checked(_OPTIONAL_TEXT, None)
    source: str | None = _checked(_OPTIONAL_TEXT, None)
    weight: float | None = _checked(Check(f"a number {WEIGHT}, or null", _weight), None)
    gate: dict[str, float] | None = _checked(
        Check(f"null or a table of {', '.join(_GATE)}, each between -{FARTHEST:g} and {FARTHEST:g}", _gate), None
    )
    gates: tuple[dict[str, Any], ...] = _checked(Check("a list of gates", _gates), ())
    memory: dict[str, int] | None = _checked(
        Check("null or a table of finite numbers", lambda value: value is None or _numbers(value)), None
    )
    data: str | None = _checked(_OPTIONAL_TEXT, None)
    created: str = _checked(_TEXT, make=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    files: dict[str, str] = _checked(Check("a table of sha256 digests by relative path", _inside), make=dict)
    versions: dict[str, str] = _checked(Check("a table of texts", _texts), make=_package_versions)
    metrics: dict[str, float] = _checked(_NUMBERS, make=dict)
    measure: str = _checked(_TEXT, DENOISING_LOSS)
    text: dict[str, float] = _checked(_NUMBERS, make=dict)

    @classmethod
    def beside(cls, core: Manifest, **own: Any) -> Self:
        """That of something made for a core, which keeps its tokens: it has the core's process and its sizes."""
        same = ("process", "constants", "block_size", "context", "vocabulary", "tokenizer")
        return cls(**{name: getattr(core, name) for name in same}, core=core.name, attention="none", **own)

    @property
    def joint_gates(self) -> tuple[AverageGate, ...]:
        """The gates of `gates`."""
        return tuple(map(joint_gate, self.gates))

    @property
    def reads_core(self) -> bool:
        """Whether it is a small model that reads the hidden states of its core."""
        return self.kind == "small" and self.architecture == READER

    @property
    def tunes_core(self) -> bool:
        """Whether it is an adapter of a causal core, which predicts as a core does."""
        return self.kind == ADAPTER and self.attention == "autoregressive"

    @property
    def is_remote(self) -> bool:
        """Whether it is a core on another machine, which is asked for its predictions."""
        return self.kind == "core" and self.architecture == REMOTE

    @property
    def origin(self) -> str | None:
        """The model without which it cannot run: an adapter's base, or the core whose states it reads."""
        return self.base if self.kind == ADAPTER else self.core if self.reads_core else None

    @property
    def noun(self) -> str:
        """What it is in a sentence: "a core", "a small model", "an adapter", "a memory" or "a draft head"."""
        return KINDS[self.kind]

    @property
    def weights_digest(self) -> str:
        """The sha256 of what `files` lists of the weights, which stays the same under another name."""
        listed = sorted(f"{digest} {file}\n" for file, digest in self.files.items() if file.endswith(".safetensors"))
        return hashlib.sha256("".join(listed).encode()).hexdigest()

    def facts(self) -> dict[str, Any]:
        """Every field, those that identify the model first."""
        values = asdict(self)
        return {name: values[name] for name in ("schema", "name", "kind", "architecture")} | values

    def to_json(self) -> str:
        """The text of `ssd.json`."""
        return json.dumps(self.facts(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = FILE) -> Manifest:
        """Read the text of `ssd.json`; an SsdError names the source (a path) and the field that is wrong."""
        values = _parsed(text, source)
        known = [f.name for f in fields(cls)]
        missing = [name for name in known if name not in values and name not in LATER]
        if missing:
            raise _malformed(f"{source} lacks the field {missing[0]!r}.")
        unknown = [name for name in values if name not in known]
        if unknown:
            raise _malformed(f"{source} has a field {unknown[0]!r} that this version of ssd does not know.")
        try:
            return cls(**values | {name: _frozen(values.get(name, [])) for name in ("ends", "gates")})
        except SsdError as error:
            raise _malformed(f"{source}: {error.problem}") from None


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest in a model's folder; SsdError when it is missing, malformed or too new."""
    path = folder / FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise _malformed(f"{folder} holds no {FILE}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise _malformed(f"{path} cannot be read ({error}).") from None
    return Manifest.from_json(text, str(path))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest into a model's folder, whole or not at all."""
    write_atomic(folder / FILE, manifest.to_json())


def tokenizer_fingerprint(tokenizer_json: bytes) -> str:
    """The sha256 of a tokenizer.json's vocabulary, merges and added tokens, whatever its format."""
    try:
        tokenizer = json.loads(tokenizer_json)
        essence = [
            tokenizer["model"]["vocab"],
            [_merge(merge) for merge in tokenizer["model"].get("merges") or []],
            sorted([t["id"], t["content"], t["special"]] for t in tokenizer.get("added_tokens") or []),
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SsdError(
            "the tokenizer.json is not one that the tokenizers library writes.", "Get the model again."
        ) from None
    canonical = json.dumps(essence, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _merge(merge: str | list[str]) -> list[str]:
    # Older files write a merge as "a b", newer ones as ["a", "b"].
    return merge.split(" ", 1) if isinstance(merge, str) else merge


def _parsed(text: str, source: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise _malformed(f"{source} is not valid JSON ({error}).") from None
    if not isinstance(values, dict):
        raise _malformed(f"{source} does not hold a table.")
    schema = values.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise SsdError(
            f"{source} has schema {schema}, but this version of ssd knows {SCHEMA}.",
            "Upgrade ssd to use this model.",
        )
    return values


def _malformed(problem: str) -> SsdError:
    return SsdError(problem, "Remove the model with 'ssd models rm', or make it again.")
