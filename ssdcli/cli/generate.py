"""`ssd generate`: text from a core, small models, or an ensemble of them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from ssdcli.cli import console
from ssdcli.cli.explanation import shown, tell_colours, warn_if_colourless
from ssdcli.cli.flags import Recipe, resolve, with_flags
from ssdcli.cli.inputs import ModelFlags, read_requests
from ssdcli.cli.live_canvas import WATCH, watching
from ssdcli.engine.ensemble.confidence import Confidence
from ssdcli.errors import RemoteFailed, SsdError, UsageError, on_out_of_memory, require
from ssdcli.generation.blend import PLAIN, Blend
from ssdcli.generation.parts import read_members
from ssdcli.generation.selection import INEXACT, EnsembleSpec, choose
from ssdcli.generation.types import DEFAULTS, Options, Request, Result
from ssdcli.machine.distributed import from_rank_zero
from ssdcli.machine.environment import import_torch, prepare_machine
from ssdcli.machine.placement import FREE, Placement
from ssdcli.machine.units import counted, large
from ssdcli.options.declare import group, option
from ssdcli.registry.recipes import find_recipe

if TYPE_CHECKING:
    from ssdcli.cli.batch import OddRow
    from ssdcli.generation.writer import Writer

SEPARATOR = "---"  # a line of its own between two texts


@dataclass(frozen=True)
class GenerateSettings:
    """The settings of `ssd generate`.

    models: who writes.
    options: how each text is written.
    blend: how members combine.
    placement: where the models run.
    batch: a file of requests, or "-".
    json: whether each text is written as a JSON object.
    stats: whether the cost of each text is reported.
    watch: whether the text is shown while it is denoised.
    confidence: whether it is told how likely each text is to be right.

    A single text can be watched (UsageError).
    """

    models: ModelFlags = group(ModelFlags())
    options: Options = group(DEFAULTS)
    blend: Blend = group(PLAIN)
    placement: Placement = group(FREE)
    batch: str | None = option(
        None,
        "JSON lines with 'prompt' or 'messages' and, optionally, 'id', 'context', 'seed', 'system' and 'plain'; '-' is "
        "stdin.",
        metavar="FILE",
        common=True,
    )
    json: bool = option(False, "Write one JSON object per text, one per line.", common=True)
    stats: bool = option(False, "Report seeds, forward passes and speed on standard error.", common=True)
    watch: bool = WATCH
    confidence: bool = option(
        False, "Tell how likely your own text would go on in these words, with --json or on standard error."
    )


def register(app: typer.Typer) -> None:
    """Add `ssd generate` to the app."""
    app.command("generate")(with_flags(GenerateSettings, generate))


def generate(
    flags: Mapping[str, object],
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="The text to continue; standard input comes before it.")
    ] = None,
    recipe: Recipe = None,
) -> None:
    """Write text with a core, with small models, or with both together.

    Standard output carries only the text. Several texts are separated by lines of three dashes; see also --json.
    """
    settings: GenerateSettings = resolve(GenerateSettings, flags, None if recipe is None else find_recipe(recipe))
    models = settings.models
    single = settings.batch is None and settings.options.n == 1
    require(single or not settings.watch, "--watch shows a single text.", "Omit --watch, or --batch and --n.")
    has_context = bool(models.context) or settings.batch is not None
    problem = "--pick keeps passages of the private context, and there is none."
    require(has_context or not settings.options.pick, problem, "Name it with --context, or omit --pick.")
    if settings.batch is not None and prompt is not None:
        raise UsageError("with --batch the prompts come from its lines.", "Omit the PROMPT.")
    spec = ensemble_of(models, settings.blend)  # a typo is answered before torch comes
    prepare_machine()
    if settings.options.explain and not settings.json:
        warn_if_colourless()
    if settings.confidence:
        _check_confidence(spec, settings.options)
    rows = from_rank_zero(lambda: read_requests(prompt, settings.batch, models.context))
    if not models.context and any(isinstance(row, Request) and row.context for row in rows):
        spec = choose(models.core, read_members(models.members), blend=settings.blend, context=True)
    with on_out_of_memory(_remedy(spec)):
        with console.waiting("loading"):
            import_torch()
            writer = spec.open(settings.placement)
        _write(writer, rows, settings, spec.confidence or Confidence())


def ensemble_of(models: ModelFlags, blend: Blend) -> EnsembleSpec:
    """The ensemble that flags name (NoSuchModel, UsageError).

    A memory must not be named if none may take part, nor a private context that no member sees.
    """
    context = bool(models.context)
    spec = choose(models.core, read_members(models.members), blend=blend, context=context)
    named = next((member.name for member in spec.members if member.role == "memory"), "")
    problem = f"{named!r} is a memory, and --no-memory leaves memories out."
    require(blend.memory or not named, problem, "Omit one of the two.")
    sees = any(member.sees_context for member in spec.members)
    problem = "only small models and memories see --context, and none is named."
    require(sees or not context, problem, "Name one, as in --with notes.")
    return spec


def _check_confidence(spec: EnsembleSpec, options: Options) -> None:
    """Raise UsageError for members or texts of which none is known; warn where none was fitted."""
    require(spec.from_left, INEXACT, "Name a causal core, or omit --confidence.")
    require(not options.infill, "what fills a gap is chosen by the text behind it, too.", "Omit --confidence.")
    if spec.confidence is None:
        small = next((member.model.entry.name for member in spec.members if member.sees_context), None)
        fits = f"'ssd eval TEXTS --with {small} --save' fits one on several documents, for what it writes by default."
        remedy = "" if small is None else f" {fits}"
        console.warn(f"the confidence is the plain probability: none was fitted for these members and weights.{remedy}")


def _remedy(spec: EnsembleSpec) -> str:
    """What to do if memory runs out: only a pulled core can be loaded in other ways."""
    if any(member.model.entry.manifest.source for member in spec.members):
        return "Use a --dtype with fewer bits, --offload, or fewer texts at once (--n, --batch)."
    return "Write fewer texts at once (--n, --batch), or use smaller models."


def _write(writer: Writer, rows: list[Request | OddRow], settings: GenerateSettings, confidence: Confidence) -> None:
    """Write the texts: a single one as it grows, otherwise each as a whole."""
    options = replace(settings.options, explain=settings.options.explain or settings.confidence)
    if settings.batch is not None:
        _write_results(_answers(writer, rows, options), settings, confidence)
        return
    (request,) = requests = [row for row in rows if isinstance(row, Request)]
    if settings.watch:
        (row,) = writer.rows(requests, options)
        with watching(writer, row):
            *_, (_, last) = writer.write([row], options)
        assert last.result is not None  # the last piece carries it
        _write_results([last.result], settings, confidence)
        return
    if options.n > 1 or settings.json or options.explain:
        _write_results(writer.results(requests, options), settings, confidence)
        return
    try:
        for _, piece in console.begun(writer.write(list(writer.rows([request], options)), options), "writing"):
            if piece.text:
                console.write(piece.text, end="")
            if piece.result is not None:
                console.write("", end=line_end(piece.result.text))
                tell(piece.result, stats=settings.stats)
    except RemoteFailed:
        console.write("")  # the error is not to stand behind the text
        raise


def _answers(writer: Writer, rows: list[Request | OddRow], options: Options) -> Iterator[Result | OddRow]:
    """Yield what stands for each row of a batch, in its order: n results, or what is wrong (UsageError if all are)."""
    from ssdcli.cli.batch import OddRow, require_one  # a single prompt needs none of its readers

    checked: list[Request | OddRow] = []
    for row in rows:
        error = writer.refusal(row, options) if isinstance(row, Request) else None
        checked.append(row if error is None else OddRow(row.id or 0, error.problem, error.remedy))
    require_one(checked)
    results = writer.results([row for row in checked if isinstance(row, Request)], options)
    for row in checked:
        if isinstance(row, OddRow):
            yield row
        else:
            yield from islice(results, options.n)


def _write_results(results: Iterable[Result | OddRow], settings: GenerateSettings, confidence: Confidence) -> None:
    """Write each result; SsdError at the end if rows of a batch could not be answered."""
    odd = 0
    for place, found in enumerate(console.awaited(results, "writing")):
        result, sure = _with_confidence(found, settings, confidence)
        if isinstance(result, Result):
            tell(result, stats=settings.stats, prefix="" if settings.batch is None else f"{result.id}: ")
            text = shown(result)
        else:
            odd += 1
            console.warn(f"{result.id}: {result.error}")
            text = ""
        if settings.json:
            console.write_json(result.to_json() | sure)
        else:
            sys.stderr.writelines(f"{name} {value:.3f}\n" for name, value in sure.items())
            console.write(f"{SEPARATOR}\n" * bool(place) + text, end=line_end(text))
    if odd:
        raise SsdError(
            f"{counted(odd, 'row')} of the batch could not be answered.", "Correct them, and run them again."
        )


def _with_confidence(
    found: Result | OddRow, settings: GenerateSettings, confidence: Confidence
) -> tuple[Result | OddRow, dict[str, float]]:
    """A result without what was not asked for, and how likely its text is to be right, if that was asked for."""
    if not isinstance(found, Result) or not settings.confidence:
        return found, {}
    sure = confidence.of(token.p for token in found.explain or ())
    return found if settings.options.explain else replace(found, explain=None), {"confidence": sure}


def line_end(text: str) -> str:
    """What must be written behind a text so that a line ends there."""
    return "" if text.endswith("\n") else "\n"


def tell(result: Result, *, stats: bool, prefix: str = "") -> None:
    """Write a text's warnings to standard error, its attribution if it has one, and with `stats` its cost."""
    for warning in result.warnings:
        console.warn(prefix + warning)
    if result.picked is not None:
        sys.stderr.write(f"{prefix}{result.picked}\n")
    if result.explain:
        tell_colours(result.explain, [member.name for member in result.members])
    if stats:
        passes = ", ".join(f"{one.name} ({one.weights}) {one.forward_passes}" for one in result.members)
        work = ", ".join(f"{one.name} {large(one.flops, 'FLOP')}" for one in result.members)
        speed = f"{result.tokens} tokens in {result.seconds:.1f} s ({result.tokens_per_second:.1f} a second)"
        saved = f", {result.flops_saved:.1%} saved by the schedule" if result.flops_saved else ""
        sys.stderr.write(
            f"{prefix}seed {result.seed}; {speed}; forward passes: {passes}; {_weighed(result)}{_drafts(result)}"
            f"about {work}{saved}\n"
        )


def _weighed(result: Result) -> str:
    """How much each of several small models counted; empty where they are not weighed by the text."""
    if result.weights is None:
        return ""
    return f"weighed by the text: {', '.join(f'{name} {share:.2f}' for name, share in result.weights.items())}; "


def _drafts(result: Result) -> str:
    """What became of a text's drafts; empty without any."""
    if not result.drafted:
        return ""
    each = result.steps / max(result.tokens, 1)
    return f"{result.drafted} tokens drafted, {result.accepted} accepted, {each:.2f} core passes a token; "
