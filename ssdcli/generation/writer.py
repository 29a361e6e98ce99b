"""The `Writer`: a loaded ensemble that writes texts after prompts, one by one or in batches."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Unpack

from ssdcli.engine import catalogue
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.errors import UsageError, require
from ssdcli.generation.drafts import causal_places, drafting_of, foretelling
from ssdcli.generation.memories import SourceFinder, copy_limits, memories_of
from ssdcli.generation.picking import check_pick, narrowed
from ssdcli.generation.prompt_encoder import PromptEncoder, PromptParts
from ssdcli.generation.row import Limits, Row, Transcript, Usage
from ssdcli.generation.sampler_config import characters_of, chosen_reverse, ends_under, longest, sampler_config
from ssdcli.generation.types import DEFAULTS, Contribution, OptionChanges, Options, Piece, Request, Result
from ssdcli.machine.distributed import from_rank_zero

if TYPE_CHECKING:
    from ssdcli.engine.drafting.drafting import Drafting
    from ssdcli.engine.ensemble.ensemble import Ensemble
    from ssdcli.engine.ensemble.guidance import Guide
    from ssdcli.engine.ensemble.rules import Rule
    from ssdcli.engine.prompt import Prompt
    from ssdcli.engine.sampling.characters import Characters
    from ssdcli.engine.sampling.reverse import ReverseProcess
    from ssdcli.engine.steps import SamplerConfig
    from ssdcli.generation.loaded_model import Loaded
    from ssdcli.generation.trace import BlockTrace, WrittenBlock

_TOGETHER = 8  # rows denoised at once, at most
_NO_REPEAT = 8  # ends the circles of greedy texts, and costs no fact of the user's text (measured)
_SCORES = 1 << 27  # of one prediction: 512 MiB, of which several are held
_SEEDS = 2**31


class Writer:
    """An ensemble that writes, as made by `ssdcli.load`.

    A seed gives the same bytes alone, in a batch, or as one of n.
    """

    def __init__(
        self,
        members: Sequence[Member[Loaded]],
        core: str | None,
        rule: Rule | None = None,
        guides: Sequence[Guide] = (),
        late_ends: bool = False,
    ) -> None:
        """Take the members, which are loaded.

        core: its name; a core that is not a member is reported with a weight of zero.
        rule: how predictions are combined; None for the default.
        late_ends: whether positions of an end of text wait until all others are revealed (see `Choice`).
        """
        from ssdcli.engine.ensemble.ensemble import Ensemble
        from ssdcli.text.openings import ends_of_all

        self.members = tuple(members)
        self.core = core
        self.late_ends = late_ends
        self.codec = members[0].model.codec
        self.ends = ends_of_all(member.model.format for member in members)
        denoisers = tuple(member.carrying(member.model.denoiser) for member in members)
        self.ensemble = Ensemble(denoisers, rule or catalogue.rule(catalogue.default_rule()).load())
        self._denoiser = members[0].model.denoiser
        self._process = self._denoiser.process
        self._guides = tuple(guides)

    @property
    def authors(self) -> tuple[str, ...]:
        """The members' names as in results, where a core that is not a member comes first."""
        names = tuple(member.name for member in self.members)
        return names if self.core is None or self.core in names else (self.core, *names)

    def generate(
        self,
        prompt: str,
        options: Options = DEFAULTS,
        *,
        context: str = "",
        on_text: Callable[[str], None] | None = None,
        **changes: Unpack[OptionChanges],
    ) -> Result:
        """Write one text after the prompt; `on_text` is called with text as it is committed.

        Keyword arguments replace fields of the options: generate("Dear", seed=1, max_tokens=20).
        """
        result = None
        for piece in self.stream(prompt, options, context=context, **changes):
            if piece.text and on_text is not None:
                on_text(piece.text)
            result = piece.result
        assert result is not None  # the last piece carries it
        return result

    def stream(
        self, prompt: str, options: Options = DEFAULTS, *, context: str = "", **changes: Unpack[OptionChanges]
    ) -> Iterator[Piece]:
        """Write one text, block by block; the last piece has the result, and keywords replace options."""
        options = replace(options, **changes)
        require(options.n == 1, f"stream() writes one text, but n is {options.n}.", "Use generate_batch.")
        for _, piece in self.write(list(self.rows([Request(prompt, context)], options)), options):
            yield piece

    def generate_batch(self, requests: Sequence[Request], options: Options = DEFAULTS) -> list[Result]:
        """Write n texts for each request, in order; a request without an id is named by its place, from 0."""
        return list(self.results(requests, options))

    def refusal(self, request: Request, options: Options = DEFAULTS) -> UsageError | None:
        """Why these members cannot answer a request, if so."""
        try:
            self._parts(request.under(options), options)
        except UsageError as error:
            return error
        return None

    def results(self, requests: Sequence[Request], options: Options = DEFAULTS) -> Iterator[Result]:
        """Like `generate_batch`, each result as soon as it and those before it are finished."""
        rows = self.rows(requests, options)
        while batch := list(islice(rows, self.together)):  # so that memory does not grow with n
            done: dict[int, Result] = {}
            next_one = 0
            for place, piece in self.write(batch, options):
                if piece.result is not None:
                    done[place] = piece.result
                while next_one in done:
                    yield done.pop(next_one)
                    next_one += 1

    def score(self, prompt: str, endings: Sequence[str], draws: int = 4) -> list[float]:
        """How likely each ending is right after the prompt as text: mean log-probability in nats per token.

        It is that of the first denoising step, where the canvas is pure noise, averaged over `draws` noises. Of an
        ending longer than a block, only the first block counts.
        """
        from ssdcli.engine.noise import CounterNoise

        whole = self.ensemble.fully_predicts(1.0)
        require(whole, "a causal language model does not predict a block at once.", "Measure it with 'ssd eval'.")
        config = sampler_config(self._denoiser, self.ends, DEFAULTS)
        encoder = PromptEncoder(self.members, gap=0)
        parts = PromptParts.continued(prompt)
        prompts = [[own] * draws for own in encoder.prompts(Request(prompt, plain=True), parts, ())]
        canvas = self._process.prior(config.block_size, CounterNoise(range(draws), config.device))
        predicted = self.ensemble.denoise(canvas, 1.0, None, self.ensemble.start(prompts, [1.0]))
        log_p = predicted.log_p.mean(0)
        tokens = [self.codec.encode(parts.spaces + ending)[: config.block_size] for ending in endings]
        return [float(log_p[range(len(ids)), ids].mean()) for ids in tokens]

    @property
    def together(self) -> int:
        """How many rows are denoised at once: fewer where a canvas is long and the vocabulary large."""
        scores = self._denoiser.block_size * self._process.vocabulary
        return max(1, min(_TOGETHER, _SCORES // scores))

    def rows(self, requests: Sequence[Request], options: Options = DEFAULTS) -> Iterator[Row]:
        """Check every request (UsageError), and yield its n texts, each with a seed, for `write`.

        Seeds count up over the first texts of all requests, then over the second ones, and so on, so that texts keep
        their seeds if n grows.
        """
        first = from_rank_zero(lambda: secrets.randbelow(_SEEDS)) if options.seed is None else options.seed
        limits = Limits(frozenset(ends_under(options, self.ends)), longest(options), options.stop)
        given = [
            replace(request.under(options), id=place if request.id is None else request.id)
            for place, request in enumerate(requests)
        ]
        checked = [(request, self._parts(request, options)) for request in given]

        def rows() -> Iterator[Row]:
            for place, (asked, parts) in enumerate(checked):
                request, picked = narrowed(self.members, asked) if options.pick else (asked, None)
                for k in range(options.n):
                    seed = first + place + k * len(requests) if request.seed is None else request.seed + k
                    usage = Usage([member.model.denoiser for member in self.members])
                    yield Row(request, seed, parts, lambda: Transcript(self.codec.decode, limits), usage, picked)

        return rows()

    def _parts(self, request: Request, options: Options) -> PromptParts:
        """The prompt split at its gaps; UsageError for a request that these members cannot answer."""
        require(
            any(member.sees_context for member in self.members) or not request.context,
            "only small models and memories see private context, and there is none here.",
            "Add one, or put the text into the prompt.",
        )
        require(
            bool(request.context) or not any(self._is_its_own_base(member) for member in self.members),
            f"the rule {catalogue.needing('base').name} needs private context, or a small model trained with --base.",
            f"Give --context FILE, or use --rule {catalogue.default_rule()}.",
        )
        require(
            not options.infill or request.plain is not False,
            "the gaps of a prompt are filled as in a document, without a chat template.",
            "Use --plain, or omit --infill.",
        )
        for name in ("gap", "candidates"):
            problem = f"--{name} was given, and no gaps are filled."
            require(options.infill or getattr(options, name) == getattr(DEFAULTS, name), problem, "Add --infill.")
        if options.pick and request.context:
            check_pick(self.members)
        prompt = request.turns[-1].content
        parts = PromptParts.with_gaps(prompt) if options.infill else self._encoder(options).whole(request)
        require(parts.gaps > 0, "the prompt has no gap to fill.", "Write ____ where text is missing.")
        self._encoder(options).check_gap()
        self._drafting(self._reverse(options), options)
        return parts

    def _is_its_own_base(self, base: Member[Loaded]) -> bool:
        """Whether a base is the same model as its small model, so that they differ only by the private context."""
        small = [member for member in self.members if member.role == "small"]
        return base.role == "base" and any(member.model is base.model for member in small)

    def _encoder(self, options: Options) -> PromptEncoder:
        return PromptEncoder(self.members, options.gap if options.infill else 0)

    def write(self, rows: Sequence[Row], options: Options = DEFAULTS) -> Iterator[tuple[int, Piece]]:
        """Write these rows together, gap by gap; yields a row's place among them and the text committed in it.

        Rows keep the `stop` and the `max_tokens`, at most this one, that they were made with. A cut one yields no more.
        """
        started = time.perf_counter()
        for place, row in enumerate(rows):
            if row.finished:  # there is nothing to write
                yield place, Piece(row.text, self._result(row, started, options))
        while not all(row.finished for row in rows):
            for place, text in self._fill_gap(rows, options):
                row = rows[place]
                yield place, Piece(text, self._result(row, started, options) if row.finished else None)

    def _fill_gap(self, rows: Sequence[Row], options: Options) -> Iterator[tuple[int, str]]:
        """Fill the next gap of every row that has one; yields a row's place and the text committed in it."""
        open_rows = {place: row for place, row in enumerate(rows) if not row.finished}
        judge, encoder = self._judge, self._encoder(options)
        if options.candidates > 1 and judge is not None and not foretelling(self.members):
            for place in [place for place, row in open_rows.items() if encoder.behind(row.parts, row.filled)]:
                yield place, self._fill_by_choice(open_rows.pop(place), judge, options)
        if open_rows:
            yield from self._fill_together(open_rows, options)

    def _fill_together(self, open_rows: Mapping[int, Row], options: Options) -> Iterator[tuple[int, str]]:
        """Fill the next gap of some rows, named by their places, in one batch."""
        encoder = self._encoder(options)
        gaps = {place: len(row.filled) for place, row in open_rows.items()}
        prompts = [self._prompts(row, encoder) for row in open_rows.values()]
        names = [member.name for member in self.members]
        for blocks in self._blocks(list(open_rows.values()), prompts, [row.key for row in open_rows.values()], options):
            for (place, row), block in zip(open_rows.items(), blocks, strict=True):
                if len(row.filled) == gaps[place]:
                    yield place, row.add(block, names)
            if all(len(row.filled) > gaps[place] for place, row in open_rows.items()):
                return

    def _fill_by_choice(self, row: Row, judge: int, options: Options) -> str:
        """Write fills of a row's next gap, of which the member at `judge` chooses; returns the text that is certain."""
        from ssdcli.generation.gap_choice import GapChooser, add_best, branching, candidate_keys, shared

        encoder, core = self._encoder(options), shared(self.members[judge].model.denoiser)
        prompts, behind = self._prompts(row, encoder), encoder.behind(row.parts, row.filled)
        keys = candidate_keys(row.key, options.candidates if options.temperature > 0 else 1)
        blocks = self._blocks([row] * len(keys), [prompts] * len(keys), keys, options, branching(self.ensemble))
        chooser = GapChooser(core, prompts[judge], behind, self.ends, options.gap)
        return add_best(row, list(zip(*blocks, strict=True)), chooser, prompts, [one.name for one in self.members])

    def _prompts(self, row: Row, encoder: PromptEncoder) -> tuple[Prompt, ...]:
        """Each member's prompt for a row's next gap, which the row begins to count."""
        prompts = encoder.prompts(row.request, row.parts, row.filled)
        row.usage.start(prompts)
        row.read = row.read or len(prompts[0].before)
        known = memories_of(self.members, prompts, row.picked)
        row.sources = SourceFinder(known, self.codec.decode, prompts[-1].before)
        if not row.filled:
            row.warnings = encoder.cuts(row.request, row.parts, prompts)
        return prompts

    def _blocks(
        self,
        rows: Sequence[Row],
        prompts: Sequence[Sequence[Prompt]],
        keys: Iterable[int],
        options: Options,
        ensemble: Ensemble | None = None,
    ) -> Iterator[list[WrittenBlock]]:
        """Write after prompts[row][member], by the ensemble unless another is given; yields the blocks of all rows."""
        from ssdcli.engine.sampler import sample
        from ssdcli.generation.trace import BlockTrace

        ensemble, reverse = ensemble or self.ensemble, self._reverse(options)
        ended = [row.ended for row in rows] if reverse.from_left and self._denoiser.device.type == "cpu" else ()
        watches = [None if row in rows[:place] else row.watch for place, row in enumerate(rows)]  # one fill of several
        likeliest = min(options.alternatives, self._process.vocabulary) if options.explain else None
        trace = BlockTrace(ensemble, self._process, likeliest, ended, watches)
        drafting, copies = self._drafting(reverse, options), copy_limits(self.members, prompts, options.max_copy)
        config = replace(self._config(rows, options, trace), drafting=drafting, copies=copies)
        return trace.blocks(sample(ensemble, reverse, list(zip(*prompts, strict=True)), list(keys), config))

    def _config(self, rows: Sequence[Row], options: Options, trace: BlockTrace) -> SamplerConfig:
        """How the next gaps of these rows are sampled."""
        encoder = self._encoder(options)
        options = replace(options, no_repeat=self.no_repeat(options))
        config = sampler_config(self._denoiser, ends_under(options, self.ends), options, self._guides)
        gaps = [(row, len(row.filled)) for row in rows]

        def over() -> list[bool]:
            filled = [len(row.filled) > gap for row, gap in gaps]
            return [a or b for a, b in zip(filled, trace.over, strict=True)] if trace.over else filled

        return replace(
            config,
            characters=self._characters,
            shared=tuple(encoder.shared(row.request, row.parts, row.filled) for row in rows),
            over=over,
        )

    def _drafting(self, reverse: ReverseProcess, options: Options) -> Drafting | None:
        """How tokens are drafted (UsageError for a draft where there can be none)."""
        return drafting_of(self.members, reverse, options.draft)

    def no_repeat(self, options: Options) -> int:
        """The n whose n-grams are never repeated, 0 for none: as asked, else as suits the members.

        Greedily, a causal core and those who join it go in circles. What fills a gap is short, and may repeat its text.
        """
        if options.no_repeat is not None:
            return options.no_repeat
        joined = self._judge is not None and len(self.members) > 1
        return _NO_REPEAT if joined and options.temperature == 0 and not options.infill else 0

    def _reverse(self, options: Options) -> ReverseProcess:
        """How canvases are denoised (UsageError if the options name a sampler that the process does not have)."""
        late = self.ends if self.late_ends else ()
        usual = None if self._judge is None else catalogue.from_left(self._process.name)
        chosen = chosen_reverse(self._process, options, usual, self.ends, late)
        self._check_order(chosen, options)
        return chosen

    @cached_property
    def _characters(self) -> Characters | None:
        """Which tokens may follow one another, so that no text has bytes that are no UTF-8."""
        found = characters_of(self.codec, self._process.vocabulary)
        return None if found is None else found.on(self._denoiser.device)

    @property
    def _judge(self) -> int | None:
        """The place of the first causal language model among the members, which chooses between fills of a gap."""
        return next(iter(causal_places(self.members)), None)

    def _check_order(self, reverse: ReverseProcess, options: Options) -> None:
        """UsageError if steps need more than one prediction at a level at which there is one alone."""
        from ssdcli.engine.sampler import time_grid

        size = self._denoiser.block_size
        steps = reverse.steps_of(size)
        if all(self.ensemble.fully_predicts(t) for t in time_grid(steps)[:-1]):
            return
        problem = "a causal language model predicts one token at a time, and there is no other prediction at each step"
        require(steps >= size, f"{steps} steps for {size} tokens: {problem}.", f"Give --steps {size} or omit it.")
        require(options.remask == 0, f"remask {options.remask:g}: {problem}.", "Omit --remask.")
        require(not options.early_stop, f"early stop {options.early_stop or 0:g}: {problem}.", "Omit --early-stop.")

    def _result(self, row: Row, started: float, options: Options) -> Result:
        others = self.authors[: -len(self.members)]
        skipped = [Contribution(name, None, Constant(0.0), "core", 0.0) for name in others]
        ran = [
            Contribution(one.name, None, one.schedule, one.role, one.weight, *row.usage.of(place))
            for place, one in enumerate(self.members)
        ]
        assert row.finish_reason is not None
        assert row.request.id is not None
        return Result(
            id=row.request.id,
            prompt=row.request.asked,
            text=row.text,
            finish_reason=row.finish_reason,
            seed=row.seed,
            core=self.core,
            members=(*skipped, *ran),
            tokens=row.tokens,
            steps=row.usage.steps,
            seconds=time.perf_counter() - started,
            flops_saved=row.usage.saved,
            drafted=None if self._judge is None else row.usage.drafted,
            accepted=None if self._judge is None else row.usage.accepted,
            plain=self._encoder(options).is_plain(row.request),
            warnings=row.warnings,
            picked=row.picked,
            explain=tuple(row.explained) if options.explain else None,
            weights=row.weights,
        )
