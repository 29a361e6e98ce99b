"""Checkpoints of a training: folders that appear whole, by a rename, and the best weights among what is in them."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ssdcli.errors import Resumable
from ssdcli.registry.disk import sync, sync_tree
from ssdcli.registry.schema import tensor_name

PARTIAL = ".partial"  # the name of a checkpoint's folder until it is whole
_NAME = re.compile(r"checkpoint-(\d+)")


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the most steps in a workspace; every folder of that name is complete."""
    found = [path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    return max(found, key=steps_of, default=None)


def steps_of(checkpoint: Path) -> int:
    """How many steps were taken before a checkpoint."""
    return int(checkpoint.name.rpartition("-")[2])


def publish(partial: Path, final: Path) -> None:
    """Make a complete checkpoint visible, then delete the older ones.

    Its files and folders reach the disk before its name does, and its name before the older ones go, so that a power
    failure at any moment leaves one whole checkpoint.
    """
    sync_tree(partial)
    partial.rename(final)
    sync(final.parent)
    for older in final.parent.glob("checkpoint-*"):
        if older != final:
            shutil.rmtree(older, ignore_errors=True)


@contextmanager
def writes_weights(folder: Path) -> Iterator[None]:
    """Turn a full or read-only disk into a Resumable, and remove what was half written to `folder`.

    Besides OSError, safetensors has an error of its own, and PyTorch reports a full disk as a RuntimeError.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        problem = f"the weights cannot be written to {folder.parent}: {reason}."
        remedy = "Free some space or fix the permissions there, then continue with --resume."
        raise Resumable(problem, remedy) from error


class Best:
    """A copy of the weights that had the lowest held-out loss so far.

    step: the step at which they had it; 0 where nothing is kept.
    loss: that loss, in nats per token.
    worse: how many measurements in a row have been no better.
    """

    FILE = "best.safetensors"

    def __init__(self) -> None:
        """Keep nothing yet."""
        self.step = 0
        self.loss = math.inf
        self.worse = 0
        self._weights: Mapping[str, Tensor] = {}

    def offer(self, step: int, loss: float, weights: Callable[[], Mapping[str, Tensor]]) -> None:
        """Keep a copy of the weights if this loss is the lowest; a loss that is not a number never is."""
        if loss < self.loss:
            self.step, self.loss, self.worse = step, loss, 0
            self._weights = {name: value.detach().cpu().clone() for name, value in weights().items()}
        else:
            self.worse += 1

    def give(self, model: nn.Module) -> None:
        """Copy the kept weights into the model, if there are any."""
        own = dict(model.named_parameters())
        with torch.no_grad():
            for name, value in self._weights.items():
                own[name].copy_(value)

    def save(self, folder: Path) -> None:
        """Write the kept weights into a folder, if there are any."""
        if self._weights:
            facts = {"step": str(self.step), "loss": repr(self.loss), "worse": str(self.worse)}
            save_file(dict(self._weights), folder / self.FILE, facts)

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote, if it wrote anything."""
        path = folder / self.FILE
        if not path.exists():
            return
        with safe_open(path, "pt") as file:
            facts = file.metadata()
            names = file.keys()  # a list: the file is not a mapping
            self._weights = {tensor_name(name): file.get_tensor(name) for name in names}
        self.step, self.loss, self.worse = int(facts["step"]), float(facts["loss"]), int(facts["worse"])
