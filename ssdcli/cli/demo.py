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
from ssdcli.demo.core import DemoCore, demo_core
from ssdcli.demo.story import AUTHORS, CORE, ENSEMBLE, SMALL
from ssdcli.hub.packaged import PACKAGE, REPOSITORY
from ssdcli.machine.environment import prepare_machine
from ssdcli.machine.units import in_parameters
from ssdcli.options.checks import above
from ssdcli.options.declare import option
from ssdcli.registry.store import SMOLLM2, Registry

if TYPE_CHECKING:
    from ssdcli.training.job import Trained

_SHOWN = 3  # facts that are shown
_WIDE = 96  # columns of a terminal, at least, for three texts side by side


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
    prepare_machine()
    run_demo(story.read_notebook(), minutes, as_json=json)


def run_demo(notebook: story.Notebook, minutes: float, *, as_json: bool) -> None:
    """Write the story of a notebook and a training to standard output, part by part or as one JSON object."""
    began = time.monotonic()
    tell: Callable[[str], None] = _say_nothing if as_json else console.write
    tell(f"{notebook.title}. {notebook.description}\n")
    with console.terminal().status("preparing the core"):
        core = demo_core(Registry())
    tell(_core(core))
    settings = story.settings_for(notebook, minutes, core.entry.name)
    with stoppable() as stop, Screen(settings.name) as screen:
        trained = story.train(settings, screen.watcher(stop))
    tell(_training(trained))
    with console.terminal().status("writing"):
        trio = story.open_trio(settings.core, settings.name)
        samples = story.write_all(trio, notebook.prompts)
    tell(_writers(trio))
    tell(_samples(trio, samples))
    with console.terminal().status("measuring"):
        lengths = story.predict(trio, notebook.heldout)
        recalls = story.recall(trio, notebook.facts)
    if endings := _endings(trio, recalls):
        tell(endings)
    tell(_measured(trio, lengths, recalls))
    tell(_next(trio, notebook))
    if as_json:
        parts = {"training": _training_json(trained), "samples": [_sample_json(sample) for sample in samples]}
        measured = {"heldout": _lengths_json(lengths), "facts": _facts_json(recalls)}
        names = {"title": notebook.title, "core": trio.core, "small": trio.small, "weight": trio.weight}
        console.write_json(names | parts | measured | {"seconds": round(time.monotonic() - began, 1)})


def _say_nothing(_: str) -> None:
    pass


def _labels(trio: story.Trio) -> dict[str, str]:
    both = f"both ({trio.weight:g} {trio.small})"
    return {CORE: f"{trio.core} alone", SMALL: f"{trio.small} alone", ENSEMBLE: both}


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


def _writers(trio: story.Trio) -> str:
    return (
        "Three writers continue the same beginnings:\n"
        f"  {trio.core} alone, which has never seen this notebook;\n"
        f"  {trio.small} alone, which has read nothing else;\n"
        f"  both together, whose predictions are combined at every token ({trio.weight:g} is {trio.small}'s weight).\n"
    )


def _samples(trio: story.Trio, samples: Sequence[story.Continuations]) -> str:
    """Show the texts side by side where there is room, else one below the other."""
    if sys.stdout.isatty() and shutil.get_terminal_size().columns >= _WIDE:
        return _side_by_side(trio, samples)
    labels = _labels(trio)
    parts = []
    for sample in samples:
        texts = [f"[{labels[author]}]\n{sample.prompt}{sample.texts[author].rstrip()}\n" for author in AUTHORS]
        parts.append(f"Prompt: {sample.prompt}\n\n" + "\n".join(texts))
    return "\n".join(parts)


def _side_by_side(trio: story.Trio, samples: Sequence[story.Continuations]) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    labels = _labels(trio)
    table = Table(show_lines=True, expand=True)
    for author in AUTHORS:
        table.add_column(labels[author], ratio=1)
    for sample in samples:
        # Text, not str: rich would read a model's brackets as markup.
        cells = [Text.assemble((sample.prompt, "bold"), sample.texts[author].rstrip()) for author in AUTHORS]
        table.add_row(*cells)
    screen = Console()
    with screen.capture() as captured:
        screen.print(table)
    return captured.get()


def _endings(trio: story.Trio, recalls: Sequence[story.Recall]) -> str:
    """Show facts that the core gets wrong and both together get right; nothing if there is none."""
    labels = _labels(trio)
    found = [one for one in recalls if one.told_apart[ENSEMBLE] and not one.told_apart[CORE]]
    if not found:
        return ""
    shown = found[:_SHOWN]
    width = max(map(len, labels.values()))
    heading = f"Which of {len(recalls)} endings is right? {len(shown)} of the {len(found)} sentences that the core gets"
    parts = [f"{heading} wrong and both together get right:\n"]
    for one in shown:
        endings = [f"  {labels[author]:{width}}  ... {one.chosen[author]}" for author in AUTHORS]
        parts.append("\n".join([f"{one.fact.prompt} ...", *endings, ""]))
    return "\n".join(parts)


def _measured(trio: story.Trio, lengths: story.CodeLength, recalls: Sequence[story.Recall]) -> str:
    from ssdcli.evaluation.estimates import proportion

    labels, counts = _labels(trio), (story.hits(recalls), story.told_apart(recalls))
    width = max(map(len, labels.values()))
    rows = [f"{'':{width}}  {'bits per byte':>15}  {'facts said':>19}  {'facts told apart':>19}"]
    for author in AUTHORS:
        bits, shares = lengths.bits_per_byte[author], []
        for count in counts:
            low, high = (len(recalls) * end for end in proportion(count[author], len(recalls)))
            shares.append(f"{count[author]} of {len(recalls)} ({low:.0f} to {high:.0f})")
        figures = "  ".join(f"{share:>19}" for share in shares)
        rows.append(f"{labels[author]:{width}}  {bits.value:7.3f} ± {bits.margin:.3f}  {figures}")
    change = (
        f"{'save' if lengths.gain.value >= 0 else 'lose'} {abs(lengths.gain.value):.3f} ± {lengths.gain.margin:.3f}"
    )
    better = {CORE: trio.core, SMALL: trio.small}[lengths.better]
    sentences = [
        f"Bits per byte: exact code length of {lengths.documents} notes that were not trained on; less is better.",
        f"Both together {change} over {better} alone, the better one.",
        "Facts said: sentences of the notes that were completed, greedily, with their invented ending.",
        f"Facts told apart: the right ending was chosen among those of all {len(recalls)}; guessing gets one right.",
        "All intervals are of 95%.",
    ]
    return "\n".join([*rows, "", *sentences, ""])


def _next(trio: story.Trio, notebook: story.Notebook) -> str:
    prompt = shlex.quote(notebook.prompts[0])
    return (
        f"Write with it:  ssd generate {prompt} --with {trio.small}\n"
        f"With your text: ssd train-small YOUR-FOLDER --for {trio.core} --name mine"
    )


def _training_json(trained: Trained) -> dict[str, object]:
    training = trained.description
    facts = {"size": training.size, "parameters": training.manifest.parameters, "steps": training.steps}
    return facts | {"seconds": round(training.seconds, 1)}


def _lengths_json(lengths: story.CodeLength) -> dict[str, object]:
    bits = {author: estimate.to_json() for author, estimate in lengths.bits_per_byte.items()}
    better = {"better": lengths.better, "gain": lengths.gain.to_json()}
    return {"documents": lengths.documents, "bits_per_byte": bits} | better


def _sample_json(sample: story.Continuations) -> dict[str, object]:
    return {"prompt": sample.prompt, "seed": sample.seed, **sample.texts}


def _facts_json(recalls: Sequence[story.Recall]) -> dict[str, object]:
    answers = [
        asdict(one.fact) | {"texts": one.texts, "hits": one.hits, "chosen": one.chosen, "told_apart": one.told_apart}
        for one in recalls
    ]
    known = {"known": story.hits(recalls), "told_apart": story.told_apart(recalls)}
    return {"asked": len(recalls), **known, "answers": answers}
