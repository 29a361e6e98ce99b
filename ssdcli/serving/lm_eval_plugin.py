"""A model of lm-evaluation-harness: every ensemble, by its name.

`python -m ssdcli.serving.lm_eval_plugin` is the harness's own command line with the model `ssd` among its models.

All members read the tokens that the harness makes of a text, as its `hf` models do: nothing comes before them unless
the tokenizer puts it there, and special tokens that a chat template writes are read as such.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from tqdm import tqdm

from ssdcli.errors import SsdError, UsageError, require
from ssdcli.generation.blend import Blend
from ssdcli.generation.types import Options, Request
from ssdcli.machine.environment import prepare_machine
from ssdcli.machine.placement import AUTO, Placement
from ssdcli.registry.manifest import CODE_LENGTH, DENOISING_LOSS, NELBO
from ssdcli.registry.store import Registry
from ssdcli.serving.ensembles import named
from ssdcli.text.messages import Message

if TYPE_CHECKING:
    from torch import Tensor

    from ssdcli.evaluation.combinations import Combination, Score
    from ssdcli.evaluation.scored_text import ScoredText
    from ssdcli.text.chat_template import Chat

_LONGEST_ANSWER = 256  # tokens, where a task does not say: the harness's own
_SAID = {CODE_LENGTH: "exact", NELBO: "a lower bound, the negative NELBO", DENOISING_LOSS: "none"}
_ANY_DEVICE = (AUTO, "cuda:0")  # the second is the harness's default, whatever the machine has


@dataclass(frozen=True)
class Arguments:
    """What `--model_args` may say beside the model.

    rule, memory: as for `load`. dtype, device: where a core runs.
    prefix_token_id: what a text without a context follows; by default the opening of a document.
    levels: the noise levels at which a bound is estimated.
    seed: of noise, and of the first text of a task that samples.
    batch_size, max_batch_size: change nothing: as many texts are written together as suits the models.
    """

    rule: str | None = None
    memory: bool = True
    dtype: str = AUTO
    device: str = AUTO
    prefix_token_id: int | None = None
    levels: int = 16
    seed: int = 0
    batch_size: Any = None
    max_batch_size: Any = None


class SsdLM(TemplateLM):  # type: ignore[misc]  # published without types
    """An ensemble by its name: `notes`, `smollm2`, `smollm2+notes=0.4`, `none+notes`; with `Arguments`."""

    def __init__(self, model: str, **given: Any) -> None:
        """Load it (SsdError, OutOfMemory)."""
        super().__init__()
        prepare_machine()
        self._given = Arguments(**given)
        spec = named(model, Registry(), blend=Blend(self._given.rule, memory=self._given.memory))
        self._tokenizer = spec.members[0].model.entry.manifest.tokenizer
        device = AUTO if self._given.device in _ANY_DEVICE else self._given.device
        self._writer = spec.open(Placement(dtype=self._given.dtype, device=device))
        self._format = self._writer.members[0].model.format
        added = self._writer.codec.tokenizer.encode("", add_special_tokens=True).ids
        self._is_opened = added[:1] == [self._format.opening]

    @property
    def eot_token_id(self) -> int:
        """The id of end of text."""
        return self._writer.ends[0]

    @property
    def prefix_token_id(self) -> int:
        """What a text without a context follows."""
        given = self._given.prefix_token_id
        return self._format.opening if given is None else given

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """The ids of a text, after the opening if the tokenizer puts it there and the text does not spell it."""
        ids = self._writer.codec.encode_chat((), lambda _turns: string)
        opened = add_special_tokens is False or not self._is_opened or ids[:1] == [self._format.opening]
        return ids if opened else [self._format.opening, *ids]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Log p of continuations, and whether each is the greedy one, which of a bound is not known.

        Successive ones that differ in their last token alone are read once.
        """
        found: list[tuple[float, bool]] = []
        asked = tqdm(requests, desc="Log-likelihoods", disable=disable_tqdm)
        for (before, *_rest), alike in groupby(asked, lambda one: (one[1], one[2][:-1], bool(one[2]))):
            same = list(alike)
            scored = self._scored(before, [ids for _, _, ids in same])
            for (text, _, _), answer in zip(same, scored, strict=True):
                self.cache_hook.add_partial("loglikelihood", text, answer)
            found += scored
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log p of whole texts after the prefix token; in long ones the window slides as when they are written."""
        found = []
        for request in tqdm(requests, desc="Log-likelihoods of texts", disable=disable_tqdm):
            ids = self.tok_encode(request.args[0], add_special_tokens=False)
            ((log_p, _),) = self._scored([self.prefix_token_id], [ids])
            found.append(log_p)
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, log_p)
        return found

    def _scored(self, before: list[int], continuations: Sequence[list[int]]) -> list[tuple[float, bool]]:
        """Log p of continuations that differ in their last token alone, and whether each is the greedy one."""
        if not continuations[0]:
            return [(0.0, True)] * len(continuations)
        if self.measure == CODE_LENGTH:
            return _exactly(list(self._conditionals(before, continuations[0])), continuations)
        problem = f"{self._writer.members[0].name!r} has a denoising loss, which does not bound the log-likelihood."
        require(self.measure == NELBO, problem, "Choose tasks that generate.")
        return [(-self._bound(before, ids), False) for ids in continuations]

    @cached_property
    def measure(self) -> str:
        """What log-likelihoods are: exact, the negative NELBO, or of models that have only a denoising loss, none."""
        from ssdcli.evaluation.code_length import has_code_length
        from ssdcli.evaluation.comparison import bound_of

        members = self._writer.members
        exact = all(has_code_length(one.model) for one in members)
        found = CODE_LENGTH if exact else bound_of(members[0].model.denoiser.process)[0]
        logging.getLogger("lm_eval.ssd").info("log-likelihoods: %s", _SAID[found])
        return found

    def _conditionals(self, before: list[int], ids: list[int]) -> Iterator[Tensor]:
        """Log p of every token at each of a continuation: parts of (n, V) float32, in order."""
        from ssdcli.evaluation.code_length import CodeSettings, conditionals
        from ssdcli.evaluation.combinations import cross_entropy

        text, combination = self._text(before, ids), self._combination(cross_entropy)
        return conditionals(self._writer.members, text, combination, CodeSettings())

    def _bound(self, before: list[int], ids: list[int]) -> float:
        """The NELBO of a continuation, in nats, on noise that is the same for all (UsageError beside a memory)."""
        from ssdcli.evaluation.canvases import bound
        from ssdcli.evaluation.comparison import bound_of
        from ssdcli.generation.loaded_model import models_of

        members = self._writer.members
        models = models_of(members)
        require(len(models) == len(members), "a memory has no NELBO.", "Pass memory=False in --model_args.")
        combination = self._combination(bound_of(models[0].model.denoiser.process)[1])
        return bound(models, self._text(before, ids), combination, self._given.seed, self._given.levels)

    def _combination(self, score: Score) -> Combination:
        from ssdcli.evaluation.combinations import Combination

        writer = self._writer
        return Combination(writer.ensemble.rule, tuple(one.weight_at for one in writer.members), score)

    def _text(self, before: list[int], ids: list[int]) -> ScoredText:
        """A continuation that counts, after ids that do not; of an opening each member reads its own."""
        from ssdcli.evaluation.scored_text import ScoredText

        counted = [False] * len(before) + [True] * len(ids)
        return ScoredText([*before, *ids], 0, scored=counted, opened=before[0] == self._format.opening)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What follows each context, as its task says: greedily unless it samples."""
        asked: dict[Options, list[int]] = {}
        for place, request in enumerate(requests):
            asked.setdefault(self._options(request.args[1]), []).append(place)
        texts = [""] * len(requests)
        with tqdm(total=len(requests), desc="Texts", disable=disable_tqdm) as shown:
            for options, places in asked.items():
                prompts = [Request(ids=tuple(self.tok_encode(requests[place].args[0]))) for place in places]
                for place, result in zip(places, self._writer.results(prompts, options), strict=True):
                    texts[place] = result.text
                    self.cache_hook.add_partial("generate_until", requests[place].args, result.text)
                    shown.update()
        return texts

    def _options(self, asked: dict[str, Any]) -> Options:
        """A task's `generation_kwargs` as options (UsageError for one that there is not)."""
        given = dict(normalize_gen_kwargs(asked, _LONGEST_ANSWER))
        samples, stop = given.pop("do_sample"), tuple(filter(None, given.pop("until")))
        temperature, longest = given.pop("temperature", 1.0), given.pop("max_gen_toks")
        known = {one.name for one in fields(Options)}
        strange = next((name for name in given if name not in known), None)
        require(strange is None, f"the task's generation_kwargs ask for {strange!r}, which ssd does not know.")
        own: dict[str, Any] = {"top_p": 1.0, "seed": self._given.seed} | given
        return Options(max_tokens=longest, stop=stop, temperature=temperature if samples else 0.0, plain=True, **own)

    @property
    def _chat(self) -> Chat:
        """The first member's template (UsageError if it has none)."""
        if self._format.chat is None:
            problem = f"{self._writer.members[0].name!r} has no chat template."
            raise UsageError(problem, "Omit --apply_chat_template.")
        return self._format.chat

    @property
    def tokenizer_name(self) -> str:
        """What the harness keeps tokenised requests by."""
        return self._tokenizer

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template, which results quote."""
        return self._chat.template if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the template writes it; if its last turn is the assistant's, that turn is continued."""
        turns: list[Any] = [(turn["role"], turn["content"]) for turn in chat_history]
        return self._chat.render([Message(role, content) for role, content in turns])

    def get_model_info(self) -> dict[str, Any]:
        """What results say of it: its members, and what its log-likelihoods are."""
        members = [{"name": one.name, "role": one.role, "weight": one.weight} for one in self._writer.members]
        return {"members": members, "log_likelihood": _SAID[self.measure]}


def _exactly(parts: Sequence[Tensor], continuations: Sequence[list[int]]) -> list[tuple[float, bool]]:
    """Log p of continuations by the conditionals of each place, where at most their last tokens differ."""
    import torch

    log_p, greedy, ids = 0.0, True, continuations[0][:-1]
    last = parts[-1][-1]
    for part in parts:
        here, ids = torch.tensor(ids[: len(part)], device=part.device), ids[len(part) :]
        said = part[: len(here)]
        log_p += float(said.gather(1, here[:, None]).double().sum())
        greedy = greedy and bool((said.argmax(1) == here).all())
    best = int(last.argmax())
    own = [(log_p + float(last[one[-1]]), greedy and one[-1] == best) for one in continuations]
    return [(-math.inf, False) if math.isnan(value) else (value, is_greedy) for value, is_greedy in own]


def main() -> None:
    """The harness's command line, with the model `ssd`."""
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.registry import register_model

    register_model("ssd")(SsdLM)
    try:
        cli_evaluate()
    except SsdError as error:
        sys.exit(f"ssd: {error}")


if __name__ == "__main__":
    main()
