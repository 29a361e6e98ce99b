"""A causal language model from elsewhere that judges generated text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from ssdcli.errors import SsdError
from ssdcli.models.auto_model import quiet, read_model, read_tokenizer, window_of

_CAUSAL = ("ForCausalLM", "LMHeadModel")  # name endings of architectures that predict the next token


@dataclass(frozen=True)
class Judgement:
    """What a judge makes of a text after its prompt.

    nats: the text's loss.
    tokens: how many of the judge's tokens that is the sum over.
    features: the last hidden state, (H,).
    """

    nats: float
    tokens: int
    features: np.ndarray


class Judge:
    """A causal language model and its tokenizer."""

    def __init__(self, model: Any, tokenizer: Tokenizer) -> None:
        """Wrap a loaded model, which stays on its device."""
        self._model = model
        self._tokenizer = tokenizer
        self._window = window_of(model)

    @torch.no_grad()
    def read(self, prompt: str, text: str) -> Judgement:
        """Score a text after its prompt, up to the judge's window; the prompt itself is not scored."""
        ids = self._tokenizer.encode(prompt + text).ids[: self._window]
        known = _common(ids, self._tokenizer.encode(prompt).ids)
        output = self._model(torch.tensor([ids], device=self._model.device), output_hidden_states=True, use_cache=False)
        first = max(known, 1)  # nothing predicts the first token
        log_p = torch.log_softmax(output.logits[0, first - 1 : -1].float(), dim=-1)
        nats = -log_p.gather(-1, torch.tensor(ids[first:], device=log_p.device)[:, None]).sum()
        return Judgement(float(nats), len(ids) - first, output.hidden_states[-1][0, -1].float().cpu().numpy())


def load_judge(folder: Path, device: str = "cpu") -> Judge:
    """Read a causal language model and its tokenizer from a local folder; SsdError if there is none."""
    with quiet():
        model, report = read_model(AutoModelForCausalLM, folder, "judge")
    named = model.config.architectures or [type(model).__name__]
    if report["missing_keys"] or not str(named[0]).endswith(_CAUSAL):
        problem = f"the judge in {folder} cannot judge: it is not a trained causal language model."
        raise SsdError(problem, "Name the folder of a model such as GPT-2 or Qwen3.")
    return Judge(model.to(device).eval().requires_grad_(False), read_tokenizer(folder, "judge"))


def _common(ids: list[int], others: list[int]) -> int:
    """The length of the common beginning of two texts."""
    pairs = zip(ids, others, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(ids), len(others)))
