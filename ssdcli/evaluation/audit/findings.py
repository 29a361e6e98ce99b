"""What an audit found about a model, for its manifest, for JSON and in words. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ssdcli.evaluation.audit.membership import ENOUGH, Attack
from ssdcli.evaluation.audit.verbatim import SPAN
from ssdcli.evaluation.audit.verdict import ADVANTAGE, ADVANTAGE_ERROR, EXPOSURE, VERBATIM, Verdict, judge
from ssdcli.machine.units import counted


@dataclass(frozen=True)
class Exposure:
    """The exposure of N planted canaries.

    times: (N,), how often each was planted.
    bits: (N,), its exposure.
    most: the largest that the number of candidates allows.
    """

    times: np.ndarray
    bits: np.ndarray
    most: float

    @property
    def mean(self) -> float:
        """The mean over all canaries; 1.44 for a model that never saw them."""
        return float(self.bits.mean())

    def by_times(self) -> dict[int, float]:
        """The mean exposure of the canaries that were planted equally often."""
        return {int(times): float(self.bits[self.times == times].mean()) for times in np.unique(self.times)}


def expose(planted: np.ndarray, candidates: np.ndarray, times: Sequence[int]) -> Exposure:
    """Rank each canary's loss, (N,), among those of M random sentences of the same form, (M,), all noised alike.

    Exposure is log2 |R| - log2 rank (Carlini et al., "The Secret Sharer", 2019): the bits that knowing the model saves
    who guesses the secret. R is a sample of the candidates with the canary itself, so that exposure is at most
    log2(M + 1), and a lower bound of what all possible candidates would give.

    If the model remembers nothing, rank / |R| is uniform on (0, 1], and the mean of -log2 of it 1 / ln 2 = 1.44 bits (a
    little less, as ranks are whole numbers). Equal losses share the middle rank.
    """
    lower = (candidates < planted[:, None]).sum(1)
    equal = (candidates == planted[:, None]).sum(1)
    most = float(np.log2(len(candidates) + 1))
    return Exposure(np.asarray(times), most - np.log2(1 + lower + equal / 2), most)


@dataclass(frozen=True)
class Verbatim:
    """Shares of spans that stand word for word in the training text and not in the held-out text; None: no span.

    prompted: of what the model writes after beginnings of training documents.
    unprompted: of what it writes after nothing.
    baseline: of held-out text, the share that stands in the training text: what people repeat anyway.
    samples: texts that the model wrote.
    """

    prompted: float | None
    unprompted: float | None
    baseline: float | None
    samples: int

    @property
    def worst(self) -> float | None:
        """The larger of the model's shares."""
        return max((one for one in (self.prompted, self.unprompted) if one is not None), default=None)


@dataclass(frozen=True)
class Membership:
    """Attacks on membership.

    loss: by the model's loss.
    calibrated: by the core's loss less the model's, where there is a core.
    """

    loss: Attack
    calibrated: Attack | None

    @property
    def strongest(self) -> Attack:
        """The attack with the larger advantage."""
        attacks = [self.loss, *([] if self.calibrated is None else [self.calibrated])]
        return max(attacks, key=lambda one: one.advantage)


@dataclass(frozen=True)
class Audit:
    """What was found about a model, None for what was not measured.

    name: the model.
    exposure: of planted canaries.
    verbatim: copies of training text.
    membership: attacks by losses.
    documents: how many were trained on and how many held out, if its text was named.
    seed: of all random draws.
    seconds: how long it took.
    memory: the size of the text that it holds as a memory: "texts", "tokens".
    has_weights: whether there is more than the memory.
    """

    name: str
    exposure: Exposure | None
    verbatim: Verbatim | None
    membership: Membership | None
    documents: tuple[int, int] | None
    seed: int
    seconds: float
    memory: Mapping[str, int] | None = None
    has_weights: bool = True

    def metrics(self) -> dict[str, float]:
        """The numbers that go into the model's manifest."""
        found: dict[str, float | None] = {}
        if self.exposure is not None:
            found |= {EXPOSURE: self.exposure.mean, "audit exposure possible": self.exposure.most}
        if self.verbatim is not None:
            found |= {VERBATIM: self.verbatim.worst, "audit verbatim baseline": self.verbatim.baseline}
        if self.membership is not None:
            best = self.membership.strongest
            found |= {
                ADVANTAGE: best.advantage,
                ADVANTAGE_ERROR: best.advantage_error,
                "audit membership AUC": best.auc,
            }
        return {key: float(value) for key, value in found.items() if value is not None}

    def verdict(self) -> Verdict | None:
        """Judge the numbers; None if there are none."""
        return judge(self.name, self.metrics())

    def remarks(self) -> list[str]:
        """Sentences about what was not measured, and how it could be."""
        remarks = [] if self.memory is None else [self._of_memory(self.memory)]
        if not self.has_weights:
            return remarks
        if self.exposure is None:
            remarks.append("Exposure was not measured: the model was trained without --canaries.")
        if self.documents is None:
            remarks.append("Copying and membership were not measured: name the text that it was trained on.")
        elif self.membership is None:
            sides = f"{counted(self.documents[0], 'document')} to train on and {self.documents[1]:,} held out"
            remarks.append(
                f"Membership was not measured: there are {sides}, and it takes at least {ENOUGH} longer ones of each."
            )
        elif self.membership.calibrated is None:
            remarks.append("Membership was guessed by the model's loss alone: there is no core to compare it with.")
        if self.verbatim is not None and self.verbatim.worst is None:
            remarks.append(f"Copying was not measured: no text that it wrote has {SPAN} characters.")
        return remarks

    def _of_memory(self, size: Mapping[str, int]) -> str:
        """A sentence about the text that a memory holds."""
        leaves_out = "leaves it out" if self.has_weights else "refuses it"
        holds = f"{counted(size['texts'], 'text')} of {counted(size['tokens'], 'token')} word for word"
        return (
            f"{'The' if not self.has_weights else 'Beside its weights, the'} memory of {self.name!r} holds {holds}: "
            "whoever can read its folder has them, and whoever may write with it can have them repeated, at most N "
            f"tokens in a row with --max-copy N. 'ssd models export' {leaves_out}."
        )

    def to_json(self) -> dict[str, Any]:
        """The object that `ssd audit --json` writes."""
        verdict = self.verdict()
        return {
            "name": self.name,
            "level": None if verdict is None else verdict.level,
            "meaning": None if verdict is None else verdict.meaning,
            "exposure": None if self.exposure is None else _exposure(self.exposure),
            "verbatim": None if self.verbatim is None else asdict(self.verbatim),
            "membership": None if self.membership is None else asdict(self.membership),
            "memory": None if self.memory is None else dict(self.memory),
            "remarks": self.remarks(),
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
        }


def _exposure(exposure: Exposure) -> dict[str, Any]:
    by_times = {str(times): bits for times, bits in exposure.by_times().items()}
    return {"bits": exposure.mean, "possible": exposure.most, "canaries": len(exposure.bits), "by_times": by_times}
