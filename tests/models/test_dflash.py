"""Published DFlash drafters: pulled for a core, and at work on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from ssdcli.api import Options, load
from ssdcli.cli import app
from ssdcli.engine.causal import StepwiseCausalDenoiser
from ssdcli.engine.drafting.block_drafter import BlockDrafter
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.race import Race
from ssdcli.machine.placement import FREE, Placement
from ssdcli.models.core_config import read_config
from ssdcli.models.dflash_checkpoint import published_drafter
from ssdcli.registry.archive import export_to_file, import_model
from ssdcli.registry.store import Registry
from tests.models.dflash import BLOCK, CORE, DEPTH, drafted, write_dflash
from tests.models.families.checkpoints import read_weights
from tests.pulled import add_causal

TEXT = [(17 * i) % 250 + 5 for i in range(60)]
PROMPT, NATIVE = 20, Placement("float32")


@pytest.fixture
def published(tmp_path) -> Path:
    add_causal("core", native=CORE, context=128)
    (tmp_path / "tiny-dflash").mkdir()
    return write_dflash(tmp_path / "tiny-dflash")


def pull(folder: Path, *arguments: str) -> int:
    return app.main(["pull", str(folder), "--for", "core", *arguments])


def at_work(placement: Placement = FREE) -> tuple[StepwiseCausalDenoiser, BlockDrafter]:
    core = load("core", placement=placement).members[0].model.denoiser
    assert isinstance(core, StepwiseCausalDenoiser)
    blocks = published_drafter(core.backbone)
    assert blocks is not None
    return core, BlockDrafter(blocks, core.process.mask_id)


def canvas(core: StepwiseCausalDenoiser, *known: int) -> torch.Tensor:
    size = core.backbone.block_size
    return torch.tensor([[*known, *[core.process.mask_id] * (size - len(known))]])


def likeliest(folder: Path, text: list[int], known: int = 1) -> tuple[list[int], torch.Tensor]:
    """What the published computation drafts after a text, greedily, and how likely each token is."""
    model = LlamaForCausalLM.from_pretrained(Registry().find("core").folder, dtype=torch.float64)
    scores = drafted(folder, model, text, known)
    scores[:, read_config(Registry().find("core").folder)["ssd"]["suppressed"]] = -torch.inf
    p = scores.softmax(-1).amax(-1)
    return scores.argmax(-1).tolist(), p


def check(core: StepwiseCausalDenoiser, drafter: BlockDrafter, folder: Path, text: list[int], *state: Any) -> None:
    """The draft is what the published computation says, as far as one is worth it."""
    (shown, prefixes), known = state[:2], state[2] if len(state) > 2 else 1
    race = Race(Picker(temperature=0.0), CounterNoise([0]), 0)
    draft = drafter.draft(shown, race, BLOCK, prefixes)
    wanted, p = likeliest(folder, text, known)
    found = [token for token in draft.tokens[0].tolist() if token >= 0]
    assert found
    assert found == wanted[: len(found)]
    torch.testing.assert_close(draft.sure[0, : len(found)].double(), p[: len(found)], rtol=0, atol=1e-4)


@pytest.mark.parametrize("placement", [FREE, NATIVE], ids=["packed", "native"])
def test_it_drafts_what_the_published_computation_says_however_the_text_was_read(published, placement):
    assert pull(published) == 0
    core, drafter = at_work(placement)
    prefixes = core.start([Prompt(TEXT[:PROMPT])])
    check(core, drafter, published, TEXT[:PROMPT], canvas(core), prefixes)
    written = TEXT[PROMPT : PROMPT + 3]
    core.denoise(canvas(core, *written[:2]), 1.0, None, prefixes)
    check(core, drafter, published, TEXT[: PROMPT + 3], canvas(core, *written), prefixes)
    core.denoise(canvas(core, *written, 9, 9), 1.0, None, prefixes)  # a draft that is rejected
    check(core, drafter, published, TEXT[: PROMPT + 4], canvas(core, *TEXT[PROMPT : PROMPT + 4]), prefixes)
    core.denoise(canvas(core, *written), 1.0, None, prefixes)
    unread = TEXT[PROMPT : PROMPT + 5]  # two tokens that the core has not read
    check(core, drafter, published, TEXT[: PROMPT + 5], canvas(core, *unread), prefixes, 2)
    size = core.backbone.block_size
    prefixes = core.commit(torch.tensor([TEXT[PROMPT : PROMPT + size]]), prefixes)
    check(core, drafter, published, TEXT[: PROMPT + size], canvas(core), prefixes)
    core.denoise(canvas(core, TEXT[PROMPT + size]), 1.0, None, prefixes)
    longer = PROMPT + size + 2
    check(core, drafter, published, TEXT[:longer], canvas(core, *TEXT[PROMPT + size : longer]), prefixes)


@pytest.mark.parametrize("options", [Options(temperature=0.0), Options(temperature=0.8)], ids=["greedy", "sampled"])
def test_a_text_is_that_of_no_draft(published, options, monkeypatch):
    proposed, draft = [], BlockDrafter.draft
    monkeypatch.setattr(BlockDrafter, "draft", lambda *given: proposed.append(draft(*given)) or proposed[-1])
    plain = load("core").generate("the boiler", options, max_tokens=40, seed=3, draft=0)
    assert pull(published) == 0
    result = load("core").generate("the boiler", options, max_tokens=40, seed=3)
    assert result.text == plain.text
    assert any((one.tokens >= 0).any() for one in proposed)


def test_a_cache_that_was_read_before_is_written_on_without_drafts(published):
    assert pull(published) == 0
    core = load("core").members[0].model.denoiser
    before = core.start([Prompt(TEXT[:PROMPT])])
    drafter = BlockDrafter(published_drafter(core.backbone), core.process.mask_id)
    race = Race(Picker(temperature=0.0), CounterNoise([0]), 0)
    core.denoise(canvas(core, *TEXT[:2]), 1.0, None, before)
    assert (drafter.draft(canvas(core, *TEXT[:3]), race, 3, before).tokens == -1).all()


def test_it_is_registered_as_a_draft_head_of_its_core(published, capsys):
    assert pull(published, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    manifest = Registry().find("tiny-dflash").manifest
    assert (facts["name"], facts["architecture"]) == ("tiny-dflash", "DFlashDraftModel")
    assert (manifest.kind, manifest.core, manifest.attention) == ("head", "core", "none")
    assert manifest.source.startswith("tiny-dflash@sha256:")
    assert manifest.parameters == sum(weight.numel() for weight in read_weights(published).values())
    assert pull(published) == 0  # nothing is done again
    assert Registry().find("tiny-dflash").manifest == manifest
    assert app.main(["models", "verify", "tiny-dflash"]) == 0
    assert app.main(["models", "show", "tiny-dflash"]) == 0
    assert "a draft head for the core core" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_target_layers": 36}, f"for a core with 36 layers, and 'core' has {DEPTH}"),
        ({"hidden_size": 64}, "for a core with 64 numbers a state"),
        ({"vocab_size": 151936}, "151936 rows of embeddings"),
        ({"layer_types": ["sliding_attention"]}, "sliding window"),
        ({"dflash_config": {"target_layer_ids": [1]}}, "lacks 'mask_token_id'"),
        (
            {"dflash_config": {"mask_token_id": 1, "target_layer_ids": [DEPTH]}},
            "a layer or a mask that its core does not",
        ),
        ({"intermediate_size": 44}, "the configuration contradicts the weights"),
        ({"architectures": ["Qwen3ForCausalLM"]}, "no DFlash drafter"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_registered(published, changes, problem, capsys):
    config = json.loads((published / "config.json").read_text())
    (published / "config.json").write_text(json.dumps(config | changes))
    assert pull(published) != 0
    assert problem in capsys.readouterr().err
    assert [entry.name for entry in Registry().entries() if not entry.bundled] == ["core"]


def test_without_a_core_it_says_what_to_do(published, capsys):
    assert app.main(["pull", str(published)]) == 2
    assert "--for" in capsys.readouterr().err


def test_another_core_is_not_drafted_for(published):
    assert pull(published) == 0
    add_causal("other", native={**CORE, "hidden_size": 16}, context=128)
    assert published_drafter(load("core").members[0].model.denoiser.backbone) is not None
    assert published_drafter(load("other").members[0].model.denoiser.backbone) is None


def test_a_damaged_one_drafts_nothing_and_changes_no_text(published):
    plain = load("core").generate("the boiler", max_tokens=16, seed=3)
    assert pull(published) == 0
    weights = Registry().find("tiny-dflash").folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert load("core").generate("the boiler", max_tokens=16, seed=3).text == plain.text


def test_it_is_exported_and_imported(published, tmp_path):
    assert pull(published) == 0
    export_to_file(Registry().find("tiny-dflash"), tmp_path / "out.tar")
    with (tmp_path / "out.tar").open("rb") as stream:
        import_model(Registry(), stream, "out.tar", "again")
    assert Registry().find("again").manifest.architecture == "DFlashDraftModel"
