"""Other people's models that only judge or steer, read by transformers' auto classes from local folders."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers.utils import logging

from ssdcli.errors import SsdError
from ssdcli.registry.manifest import TOKENIZER


def read_model(auto: Any, folder: Path, what: str) -> tuple[Any, dict[str, Any]]:
    """Read a model in float32 by one of transformers' auto classes, from safetensors alone, with the loading report.

    what: the error's name for the model. SsdError if it cannot be read.
    """
    try:
        model, report = auto.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        ImportError,
        RuntimeError,
        SafetensorError,
        StrictDataclassError,
    ) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise SsdError(
            f"the {what} in {folder} cannot be read: {reason}.",
            "It needs a config.json and a model.safetensors that transformers knows without code of its own.",
        ) from error
    return model, report


def read_tokenizer(folder: Path, what: str) -> Tokenizer:
    """Read a model's tokenizer, without padding and truncation; SsdError if it cannot be read."""
    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # the library raises nothing more precise
        raise SsdError(f"the {what}'s {folder / TOKENIZER} cannot be read ({error}).", "Get it again.") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def window_of(model: Any) -> int:
    """The most positions that a model reads; RoBERTa's relatives start to count after the padding index."""
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if longest is None or longest < 0:
        return sys.maxsize
    tables = [getattr(module, "position_embeddings", None) for module in model.modules()]
    padding = [getattr(table, "padding_idx", None) for table in tables]
    return int(longest) - max((index + 1 for index in padding if index is not None), default=0)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from writing reports and progress bars to standard error."""
    level = logging.get_verbosity()
    hook = logging.set_tqdm_hook(lambda _, args, kwargs: logging.EmptyTqdm(*args, **kwargs))
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.set_tqdm_hook(hook)
