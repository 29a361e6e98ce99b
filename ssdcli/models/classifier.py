"""Off-the-shelf text classifiers: any native sequence classifier of transformers that accepts embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from ssdcli.errors import SsdError
from ssdcli.models.auto_model import quiet, read_model, read_tokenizer, window_of

_PROBE = 4  # tokens


class TextClassifier:
    """A sequence classifier, its labels, and the special tokens around a text; an engine's Classifier."""

    def __init__(self, model: Any, tokenizer: Tokenizer) -> None:
        """Wrap a loaded `...ForSequenceClassification`, which stays on its device."""
        config, device = model.config, model.device
        self._model = model
        self._independent = config.num_labels == 1 or config.problem_type == "multi_label_classification"
        self.labels = tuple(str(config.id2label[i]) for i in range(config.num_labels))
        embeddings = model.get_input_embeddings()
        # Called, not read from the weight: some architectures scale their embeddings.
        self.table: Tensor = embeddings(torch.arange(embeddings.num_embeddings, device=device))
        self.window = window_of(model)
        opening, closing = _template(tokenizer)
        self.opening = torch.tensor(opening, dtype=torch.int64, device=device)
        self.closing = torch.tensor(closing, dtype=torch.int64, device=device)

    def log_p(self, embedded: Tensor) -> Tensor:
        """Log p of each label: (B, T, H) to (B, labels) float32; a sigmoid each where labels are independent."""
        # Rows have one length and no padding, so no mask is needed.
        scores: Tensor = self._model(inputs_embeds=embedded).logits.float()
        return nn.functional.logsigmoid(scores) if self._independent else torch.log_softmax(scores, dim=-1)


def load_classifier(folder: Path, device: str = "cpu") -> TextClassifier:
    """Read a classifier and its tokenizer, ready for inference in float32, from local files alone.

    SsdError if files are missing or unreadable, or if the model has no head for labels or does not accept embeddings.
    """
    with quiet():
        model, report = read_model(AutoModelForSequenceClassification, folder, "classifier")
        if report["missing_keys"]:
            raise _useless(folder, f"it holds no trained {min(report['missing_keys'])}")
        if model.config.problem_type == "regression":
            raise _useless(folder, "it was trained for regression, not for labels")
        _prepare(model.to(device))
        if not _reads_embeddings(model):
            raise _useless(folder, f"a {type(model).__name__} does not treat embeddings as it treats tokens")
        return TextClassifier(model, read_tokenizer(folder, "classifier"))


def _useless(folder: Path, reason: str) -> SsdError:
    return SsdError(f"the classifier in {folder} cannot guide: {reason}.", "Name a model that was trained to classify.")


def _prepare(model: Any) -> None:
    """Freeze the model for inference."""
    model.eval().requires_grad_(False)
    config = model.config.get_text_config()
    config.use_cache = False
    if config.pad_token_id is None:
        config.pad_token_id = 0  # causal heads require one for several rows, although embeddings contain no padding


def _reads_embeddings(model: Any) -> bool:
    """Whether a few tokens and their embeddings get the same scores."""
    padding = model.config.get_text_config().pad_token_id
    ids = torch.tensor([i for i in range(_PROBE + 1) if i != padding][:_PROBE], device=model.device)[None]
    try:
        with torch.no_grad():
            embedded = model.get_input_embeddings()(ids)
            pair = model(input_ids=ids).logits, model(inputs_embeds=embedded).logits
    except Exception:  # each architecture refuses in its own way
        return False
    return torch.allclose(*pair, rtol=1e-3, atol=1e-4)


def _template(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that a tokenizer puts before and after a text."""
    encoding = tokenizer.encode("a")
    text = [place for place, special in enumerate(encoding.special_tokens_mask) if not special]
    return encoding.ids[: text[0]], encoding.ids[text[-1] + 1 :]
