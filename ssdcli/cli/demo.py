"""`ssd demo`: the whole story in a few minutes, on a notebook that comes with ssd."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from ssdcli.cli import console
from ssdcli.cli.flags import resolve, with_flags
from ssdcli.cli.progress import Screen, stoppable
from ssdcli.demo import story
from ssdcli.demo.core import PACKAGE, REPOSITORY, DemoCore, demo_core
from ssdcli.demo.story import CORE, ENSEMBLE, MEMORY, SMALL
from ssdcli.machine.environment import import_torch
from ssdcli.machine.units import in_parameters
from ssdcli.options.checks import above
from ssdcli.options.declare import option
from ssdcli.registry.store import SMOLLM2, Registry

if TYPE_CHECKING:
    from ssdcli.training.job import Trained

_SHOWN = 3  # facts that are shown
_WIDE = 120  # columns of a terminal, at least, for four texts side by side


@dataclass(frozen=True)
class DemoSettings:
    """The settings of `ssd demo`.

    minutes: for the training.
    """

    minutes: float = option(story.MINUTES, "Time for the training.", above(0), metavar="M", common=True)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(with_flags(DemoSettings, demo))


def demo(
    flags: Mapping[str, object],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Train on a bundled notebook, then compare the core, the small model and both together."""
    minutes = resolve(DemoSettings, flags, None).minutes
    import_torch()
    run_demo(story.read_notebook(), minutes, as_json=json)


def run_demo(notebook: story.Notebook, minutes: float, *, as_json: bool) -> None:
    """Write the story of a notebook and a training to standard output, part by part or as one JSON object."""
    began = time.monotonic()
    tell: Callable[[str], None] = _say_nothing if as_json else console.write
    tell(f"{notebook.title}. {notebook.description}\n")
    with console.waiting("preparing the core"):
        core = demo_core(Registry())
    tell(_core(core))
    settings = story.settings_for(notebook, minutes, core.entry.name)
    with stoppable() as stop, Screen(settings.name) as screen:
        trained = story.train(settings, screen.watcher(stop))
    tell(_training(trained))
    with console.waiting("writing"):
        cast = story.open_cast(settings.core, settings.name)
        samples = story.write_all(cast, notebook.prompts)
    tell(_writers(cast))
    tell(_samples(cast, samples))
    with console.waiting("measuring"):
        lengths = story.predict(cast, notebook.heldout)
        answers = story.recall(cast, notebook.facts)
    if facts := _facts(cast, answers):
        tell(facts)
    tell(_measured(cast, lengths, answers))
    tell(_next(cast, notebook))
    if as_json:
        parts = {"training": _training_json(trained), "samples": [_sample_json(sample) for sample in samples]}
        measured = {"heldout": _lengths_json(lengths), "facts": _facts_json(answers)}
        names = {"title": notebook.title, "core": cast.core, "small": cast.small, "weight": cast.weight}
        console.write_json(names | parts | measured | {"seconds": round(time.monotonic() - began, 1)})


def _say_nothing(_: str) -> None:
    pass


def _labels(cast: story.Cast) -> dict[str, str]:
    labels = {
        CORE: f"{cast.core} alone",
        SMALL: f"{cast.small} alone",
        ENSEMBLE: "both, without memory",
        MEMORY: "both, with memory",
    }
    return {author: labels[author] for author in cast.writers}


def _core(core: DemoCore) -> str:
    """Say which core this is, and where a user gets one."""
    pull = f"ssd pull {REPOSITORY} --as {SMOLLM2}"
    size = f"{in_parameters(core.entry.manifest.parameters)} parameters"
    if not core.writes:
        return (
            f"The core is {core.entry.name}, which comes with ssd. It has {size} and cannot write a sentence:\n"
            "it shows how two models work together, not what they could write. For a core that writes English:\n"
            f"  {pull}\n"
        )
    came = f"registered from the package {PACKAGE}" if core.new else "registered already"
    name = REPOSITORY.partition("/")[2]
    return (
        f"The core is {core.entry.name}, {name}, {came}: a general language model of {size}.\n"
        f"The same model is on the hub: {pull}\n"
    )


def _training(trained: Trained) -> str:
    training, model = trained.description, trained.description.manifest
    size = f"{in_parameters(model.parameters)} parameters"
    return f"Trained {model.name} ({size}) for {model.core}: {training.steps:,} steps in {training.seconds:.0f} s.\n"


def _writers(cast: story.Cast) -> str:
    reads = Registry().find(cast.small).manifest.reads_core
    learned = (
        f"which corrects what {cast.core} predicts, from its hidden states;"
        if reads
        else "which has read nothing else;"
    )
    lines = {
        CORE: f"{cast.core} alone, which has never seen this notebook;",
        SMALL: f"{cast.small} alone, {learned}",
        ENSEMBLE: "both together, whose predictions are combined at every token;",
        MEMORY: "both with the memory, an index of the notes that knows what followed the last words there.",
    }
    chosen = [f"  {lines[author]}" for author in cast.writers]
    count = {3: "Three", 4: "Four"}[len(chosen)]
    return "\n".join([f"{count} writers continue the same beginnings:", *chosen, ""])


def _samples(cast: story.Cast, samples: Sequence[story.Continuations]) -> str:
    """Show the texts side by side where there is room, else one below the other."""
    if sys.stdout.isatty() and shutil.get_terminal_size().columns >= _WIDE:
        return _side_by_side(cast, samples)
    labels = _labels(cast)
    parts = []
    for sample in samples:
        texts = [f"[{labels[author]}]\n{sample.prompt}{sample.texts[author].rstrip()}\n" for author in labels]
        parts.append(f"Prompt: {sample.prompt}\n\n" + "\n".join(texts))
    return "\n".join(parts)


def _side_by_side(cast: story.Cast, samples: Sequence[story.Continuations]) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    labels = _labels(cast)
    table = Table(show_lines=True, expand=True)
    for label in labels.values():
        table.add_column(label, ratio=1)
    for sample in samples:
        # Text, not str: rich would read a model's brackets as markup.
        cells = [Text.assemble((sample.prompt, "bold"), sample.texts[author].rstrip()) for author in labels]
        table.add_row(*cells)
    screen = Console()
    with screen.capture() as captured:
        screen.print(table)
    return captured.get()


def _facts(cast: story.Cast, answers: Sequence[story.FactAnswers]) -> str:
    """Show facts that the core gets wrong and all together get right; nothing if there is none."""
    labels = _labels(cast)
    *_, last = labels
    found = [one for one in answers if one.hits[last] and not one.hits[CORE]]
    if not found:
        return ""
    shown = found[:_SHOWN]
    width = max(map(len, labels.values()))
    parts = [f"{len(shown)} of the {len(found)} facts that {labels[CORE]} does not say, and {labels[last]}, do:\n"]
    for one in shown:
        texts = [f"  {labels[author]:{width}}  ... {_one_line(one.texts[author])}" for author in labels]
        parts.append("\n".join([f"{one.fact.prompt} ...", *texts, ""]))
    return "\n".join(parts)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _measured(cast: story.Cast, lengths: story.CodeLength, answers: Sequence[story.FactAnswers]) -> str:
    from ssdcli.evaluation.estimates import proportion

    labels, counts = _labels(cast), story.hits(answers)
    width = max(map(len, labels.values()))
    rows = [f"{'':{width}}  {'bits per byte':>15}  {'facts said':>19}"]
    for author, label in labels.items():
        bits, count = lengths.bits_per_byte[author], counts[author]
        low, high = (len(answers) * end for end in proportion(count, len(answers)))
        share = f"{count} of {len(answers)} ({low:.0f} to {high:.0f})"
        rows.append(f"{label:{width}}  {bits.value:7.3f} ± {bits.margin:.3f}  {share:>19}")
    together = "All together" if MEMORY in labels else "Both together"
    gain = f"{'save' if lengths.gain.value >= 0 else 'lose'} {abs(lengths.gain.value):.3f} ± {lengths.gain.margin:.3f}"
    sentences = [
        f"Bits per byte: exact code length of {lengths.documents} notes that no member has seen; less is better.",
        f"{together} {gain} over {labels[CORE]}.",
        "Facts said: sentences of the notes that were completed, greedily, with their invented ending.",
        "All intervals are of 95%.",
    ]
    return "\n".join([*rows, "", *sentences, ""])


def _next(cast: story.Cast, notebook: story.Notebook) -> str:
    prompt = shlex.quote(notebook.prompts[0])
    return (
        f"Write with it:  ssd generate {prompt} --with {cast.small}\n"
        f"With your text: ssd train-small YOUR-FOLDER --for {cast.core} --name mine"
    )


def _training_json(trained: Trained) -> dict[str, object]:
    training = trained.description
    facts = {"size": training.size, "parameters": training.manifest.parameters, "steps": training.steps}
    return facts | {"seconds": round(training.seconds, 1)}


def _lengths_json(lengths: story.CodeLength) -> dict[str, object]:
    bits = {author: estimate.to_json() for author, estimate in lengths.bits_per_byte.items()}
    return {"documents": lengths.documents, "bits_per_byte": bits, "gain": lengths.gain.to_json()}


def _sample_json(sample: story.Continuations) -> dict[str, object]:
    return {"prompt": sample.prompt, "seed": sample.seed, **sample.texts}


def _facts_json(answers: Sequence[story.FactAnswers]) -> dict[str, object]:
    told = [asdict(one.fact) | {"texts": one.texts, "hits": one.hits} for one in answers]
    return {"asked": len(told), "known": story.hits(answers), "answers": told}
