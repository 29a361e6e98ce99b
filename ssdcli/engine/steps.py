"""What the sampler is told, what it knows before a block, and what it tells of each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ssdcli.engine.ensemble.guidance import Guide
from ssdcli.engine.process import Canvas
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampling.characters import Characters
from ssdcli.engine.sampling.copying import CopyLimit
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.repetition import ALLOWED, Repetition, SharedText

if TYPE_CHECKING:
    from ssdcli.engine.drafting.drafting import Drafting


@dataclass(frozen=True)
class SamplerConfig:
    """What is written: blocks of tokens until an end or enough tokens, and how tokens are drawn.

    block_size: in tokens.
    max_tokens: when the generation ends, unless all texts end before.
    ends: the ids that end a text, one at least.
    picker: temperature and nucleus.
    device: of the canvases.
    guides: what steers the predictions.
    repetition: how the repetition of known text is discouraged.
    characters: which tokens may follow one another, so that all bytes are UTF-8; None where all may.
    shared: each row's prompt as all members may see it, which counts as known text; none for no text.
    copies: what each row may copy word for word; none for no limit.
    drafting: how text beside a causal language model is drafted, and each token of it drawn by a race (see `Race`);
        None where canvases are denoised step by step.
    over: asked for the rows that nothing more is wanted of, whether or not they reached an end: between blocks, and on
        a CPU beside a causal language model between steps.
    """

    block_size: int
    max_tokens: int
    ends: tuple[int, ...]
    picker: Picker
    device: str = "cpu"
    guides: tuple[Guide, ...] = ()
    repetition: Repetition = ALLOWED
    characters: Characters | None = None
    shared: tuple[Prompt, ...] = ()
    copies: tuple[CopyLimit, ...] = ()
    drafting: Drafting | None = None
    over: Callable[[], Sequence[bool]] | None = None


@dataclass(frozen=True)
class Step:
    """One denoising step of a block.

    A row that is not active keeps its canvas, and its predictions count for nothing. A canvas is clean when its row is
    done; one whose text ended in an earlier block is never denoised, and stays noise.

    block: the place of its block in the text.
    index: its own place in the block.
    t: the noise level at which it begins.
    weights: each member's weight at t; zero if it was not run.
    first: where the C positions begin that were predicted: (B,) int64. Without drafts they are all of the canvas.
    by_member: what each predicted at t, (B, C, V) or None.
    log_p: what they predicted together, (B, C, V): known tokens certain, with guides and repetition penalties, at the
        temperature of the reverse process. The next step is self-conditioned on it.
    canvas: what became of it.
    decided: the positions whose token this step chose: (B, L) bool.
    active: the rows that were not done before it: (B,) bool.
    last: whether this step ends the block.
    drafted: the tokens of each row that a drafter proposed, (B,) int64; None without drafts.
    accepted: how many of them the canvas took over, (B,) int64.
    chances: the logarithms of those of several ensembles at each position, (B, C, K), see `Switching`; else None.
    """

    block: int
    index: int
    t: float
    weights: tuple[float, ...]
    first: Tensor
    by_member: tuple[Tensor | None, ...]
    log_p: Tensor
    canvas: Canvas
    decided: Tensor
    active: Tensor
    last: bool
    drafted: Tensor | None = None
    accepted: Tensor | None = None
    chances: Tensor | None = None


@dataclass(frozen=True)
class Block:
    """What there is before a block.

    number: its place in the text.
    prefixes: one a member.
    shared: the prompts as all members may see them.
    written: the tokens before it, (B, n).
    ended: the rows whose text is over, (B,) bool.
    spelled: how far each row's last character is spelled, (B,), see `Characters`.
    known: the logarithms of the chances of several ensembles, (B, K), see `Switching`; else None.
    """

    number: int
    prefixes: tuple[Any, ...]
    shared: SharedText
    written: Tensor
    ended: Tensor
    spelled: Tensor
    known: Tensor | None = None
