"""Training samples: windows of the token stream in an order that is a function of the seed alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

Stream = npt.NDArray[np.integer]


class Windows(Dataset[dict[str, Tensor]]):
    """Endless epochs over a stream, each cut at another phase and shuffled anew; sample i is always the same."""

    def __init__(self, stream: Stream, length: int, seed: int, samples: int) -> None:
        """Cut windows of `length` tokens; a shorter stream is repeated. `samples` bounds the index."""
        self._stream = stream
        self.length = length
        self._seed = seed
        self._samples = samples
        self.per_epoch = -(-len(stream) // length)
        self._epoch = -1
        self._phase = 0
        self._order = np.arange(0)

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        epoch, place = divmod(index, self.per_epoch)
        if epoch != self._epoch:
            self._shuffle(epoch)
        start = self._phase + int(self._order[place]) * self.length
        window = np.arange(start, start + self.length) % len(self._stream)
        return {
            "tokens": torch.from_numpy(self._stream[window].astype(np.int64)),
            "index": torch.tensor(index),
        }

    def _shuffle(self, epoch: int) -> None:
        random = np.random.default_rng((self._seed, epoch))
        self._epoch = epoch
        self._phase = int(random.integers(self.length))
        self._order = random.permutation(self.per_epoch)
