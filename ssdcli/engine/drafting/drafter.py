"""What a drafter is: it proposes the next tokens of texts, and says how sure it is of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ssdcli.engine.sampling.race import Race


@dataclass(frozen=True)
class Draft:
    """Tokens proposed for the leftmost hidden positions of canvases.

    tokens: (B, k) int64, -1 from where on a row has no proposal.
    sure: (B, k) float32 in [0, 1], how likely each is to be drawn if those before it are, as far as the drafter knows.
        It need not be calibrated: it is compared with what became of proposals that were as sure.
    """

    tokens: Tensor
    sure: Tensor


class Drafter(Protocol):
    """Proposes tokens. A member of an ensemble that has `draft` is one; it is called with its own prefix.

    What a text is drawn from never depends on a draft, only how fast it is written. All that it is given, but for a
    member's prefix, is on the CPU.
    """

    def draft(self, canvas: Tensor, race: Race, count: int, prefix: Any) -> Draft:
        """Propose up to `count` tokens for each canvas (B, L), which is known up to its leftmost hidden position.

        race: how the ensemble draws the tokens of this block. A drafter that draws with it, by `race.winners`, from
            what it believes agrees with the ensemble more often than one that draws by itself.
        prefix: as the member's `start` and `commit` returned it.
        """
