from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ssdcli.errors import SsdError
from ssdcli.models.families.family import Drop, Rename
from ssdcli.models.families.llada import LLADA
from ssdcli.models.families.llada2 import LLADA2
from ssdcli.models.weights import convert as converting
from ssdcli.models.weights.convert import convert
from tests.models.native_checkpoints import (
    GLM4_MOE,
    LLAMA,
    QWEN2,
    ROBERTA,
    SIZES,
    family,
    load,
    random_state,
    save_shards,
)

ROOT = Path(__file__).parents[3]
INDEX = "model.safetensors.index.json"
LLADA_NAMES = {
    r"model\.embed_tokens\.weight": "model.transformer.wte.weight",
    r"model\.norm\.weight": "model.transformer.ln_f.weight",
    r"lm_head\.weight": "model.transformer.ff_out.weight",
    r"model\.layers\.(\d+)\.input_layernorm\.": r"model.transformer.blocks.\1.attn_norm.",
    r"model\.layers\.(\d+)\.post_attention_layernorm\.": r"model.transformer.blocks.\1.ff_norm.",
    r"model\.layers\.(\d+)\.self_attn\.o_proj\.": r"model.transformer.blocks.\1.attn_out.",
    r"model\.layers\.(\d+)\.self_attn\.": r"model.transformer.blocks.\1.",
    r"model\.layers\.(\d+)\.mlp\.gate_proj\.": r"model.transformer.blocks.\1.ff_proj.",
    r"model\.layers\.(\d+)\.mlp\.up_proj\.": r"model.transformer.blocks.\1.up_proj.",
    r"model\.layers\.(\d+)\.mlp\.down_proj\.": r"model.transformer.blocks.\1.ff_out.",
}
LLADA2_NAMES = {
    r"model\.embed_tokens\.weight": "model.word_embeddings.weight",
    r"(.*)self_attn\.o_proj(.*)": r"\1attention.dense\2",
    r"(.*)self_attn\.q_norm(.*)": r"\1attention.query_layernorm\2",
    r"(.*)self_attn\.k_norm(.*)": r"\1attention.key_layernorm\2",
    r"(.*)e_score_correction_bias": r"\1expert_bias",
}
LLADA2_CONFIG = SIZES | {"num_experts": 11}


def renamed(state, names):
    """Each tensor by the first pattern that its name begins with."""

    def rename(name):
        return next((re.sub(old, new, name) for old, new in names.items() if re.match(old, name)), name)

    return {rename(name): value for name, value in state.items()}


def llada2_state(state):
    """The published form of a mixture: experts one by one, queries, keys and values fused."""
    published = renamed(state, LLADA2_NAMES)
    for name in list(published):
        if name.endswith("experts.gate_up_proj"):
            for number, expert in enumerate(published.pop(name)):
                stem = name.replace("gate_up_proj", str(number))
                published[f"{stem}.gate_proj.weight"], published[f"{stem}.up_proj.weight"] = expert.chunk(2)
        elif name.endswith("experts.down_proj"):
            for number, expert in enumerate(published.pop(name)):
                published[name.replace("down_proj", f"{number}.down_proj.weight")] = expert
        elif name.endswith("q_proj.weight"):
            rest = [published.pop(name.replace("q_proj", part)) for part in ("k_proj", "v_proj")]
            fused = torch.cat([published.pop(name), *rest])
            published[name.replace("self_attn.q_proj", "attention.query_key_value")] = fused
    return published


def agree(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


@pytest.fixture
def target(tmp_path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def held(target):
    """The tensors in a folder's files, whichever those are."""
    return {name: value for file in target.glob("*.safetensors") for name, value in load_file(file).items()}


@pytest.mark.parametrize("count", [1, 3])
def test_transformers_reads_a_llama_that_was_stored_under_lladas_names(tmp_path, target, count):
    state = random_state(LLAMA)
    sources = save_shards(renamed(state, LLADA_NAMES), tmp_path / "in", count)
    parameters = convert(sources, target, family(LLAMA, LLADA.keys), {})
    found, report = load(target, LLAMA)
    assert report == {}
    agree(found, state)
    assert parameters == sum(value.numel() for value in state.values())


def test_transformers_reads_a_mixture_whose_experts_and_projections_were_stored_otherwise(tmp_path, target):
    state = random_state(GLM4_MOE, torch.float32)
    published = llada2_state(state)
    assert sum("experts.10." in name for name in published) == 3
    assert published["model.layers.1.attention.query_key_value.weight"].shape == (64, 32)
    sources = save_shards(published, tmp_path / "in", 3)
    parameters = convert(sources, target, family(GLM4_MOE, LLADA2.keys), LLADA2_CONFIG)
    found, report = load(target, GLM4_MOE)
    assert report == {}
    agree(found, state)
    agree(held(target), state)
    learned = {name: value for name, value in state.items() if not name.endswith("correction_bias")}
    assert parameters == sum(value.numel() for value in learned.values())


def test_what_is_native_already_is_linked_and_read_with_its_tied_head(tmp_path, target):
    state = random_state(QWEN2)
    sources = save_shards(state, tmp_path / "in", 3)
    parameters = convert(sources, target, family(QWEN2, LLADA.keys), {})
    assert parameters == sum(value.numel() for value in state.values())
    found, report = load(target, QWEN2)
    assert report == {}
    agree(found, state | {"lm_head.weight": state["model.embed_tokens.weight"]})
    for source in sources:
        assert (target / source.name).samefile(source)
        assert (target / source.name).stat().st_nlink == 2


def test_links_get_the_names_that_transformers_looks_for(tmp_path, target):
    state = random_state(QWEN2)
    save_file(state, tmp_path / "weights.safetensors")
    convert([tmp_path / "weights.safetensors"], target, family(QWEN2), {})
    assert [path.name for path in target.iterdir()] == ["model.safetensors"]
    assert load(target, QWEN2)[1] == {}


def test_a_link_leads_to_the_weights_and_not_to_the_caches_link_to_them(tmp_path, target):
    save_file(random_state(QWEN2), tmp_path / "blob")
    (tmp_path / "model.safetensors").symlink_to("blob")
    convert([tmp_path / "model.safetensors"], target, family(QWEN2), {})
    linked = target / "model.safetensors"
    assert not linked.is_symlink()
    assert linked.samefile(tmp_path / "blob")


def test_on_another_file_system_the_link_is_symbolic_and_absolute(tmp_path, target, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    save_file(random_state(QWEN2), tmp_path / "blob")
    (tmp_path / "model.safetensors").symlink_to("blob")
    monkeypatch.setattr(os, "link", refuse)
    convert([tmp_path / "model.safetensors"], target, family(QWEN2), {})
    assert (target / "model.safetensors").readlink() == (tmp_path / "blob").resolve()
    assert load(target, QWEN2)[1] == {}


def test_tensors_that_transformers_passes_over_are_linked_along_and_never_written(tmp_path, target):
    state = random_state(QWEN2)
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file(state | old, tmp_path / "model.safetensors")
    convert([tmp_path / "model.safetensors"], target, family(QWEN2), {})
    assert load(target, QWEN2)[1] == {}
    (target / "model.safetensors").unlink()
    save_file(state | old | {"extra": torch.ones(1)}, tmp_path / "model.safetensors")
    convert([tmp_path / "model.safetensors"], target, family(QWEN2, [Drop("extra")]), {})
    assert not (target / "model.safetensors").samefile(tmp_path / "model.safetensors")
    agree(held(target), state)


def pickled(folder, state):
    """SSD-LM's three files, the tied head stored along as data-parallel training leaves it."""
    extra = {name: state[name] for name in state if name.startswith(("embed_sum_layer.", "timestep_layer."))}
    body = {f"module.{name}": state[name] for name in state if name not in extra}
    body["module.lm_head.decoder.weight"] = state["roberta.embeddings.word_embeddings.weight"]
    body["module.roberta.embeddings.position_ids"] = torch.arange(9)[None]
    torch.save(body, folder / "body.pt")
    for layer in ("embed_sum_layer", "timestep_layer"):
        table = {f"module.{name.removeprefix(layer + '.')}": extra[name] for name in extra if name.startswith(layer)}
        torch.save(table, folder / f"{layer}.pt")
    return [folder / f"{name}.pt" for name in ("body", "embed_sum_layer", "timestep_layer")]


PICKLES = {"body": "", "embed_sum_layer": "embed_sum_layer.", "timestep_layer": "timestep_layer."}


def test_transformers_reads_pickles_that_became_safetensors_with_tied_weights_once(tmp_path, target):
    state = random_state(ROBERTA, torch.float32)
    parameters = convert(pickled(tmp_path, state), target, family(ROBERTA, **PICKLES), {})
    found, report = load(target, ROBERTA)
    assert report == {}
    agree({name: found[name] for name in state}, state)
    assert torch.equal(found["lm_head.decoder.weight"], state["roberta.embeddings.word_embeddings.weight"])
    agree(held(target), state)
    assert parameters == sum(value.numel() for value in state.values())


def test_a_head_that_differs_from_what_it_is_tied_to_is_kept(tmp_path, target):
    state = random_state(ROBERTA, torch.float32)
    head = {"lm_head.decoder.weight": state["roberta.embeddings.word_embeddings.weight"] + 1}
    torch.save(state | head, tmp_path / "body.pt")
    convert([tmp_path / "body.pt"], target, family(ROBERTA, **PICKLES), {})
    agree(held(target), state | head)


def test_a_pickle_that_the_family_does_not_name_is_not_opened(tmp_path, target):
    (tmp_path / "other.pt").write_bytes(b"anything")
    with pytest.raises(SsdError, match=r"other\.pt is not a file of weights that Toy is known to have"):
        convert([tmp_path / "other.pt"], target, family(ROBERTA, **PICKLES), {})


@pytest.mark.parametrize("keys", [LLADA2.keys, ()])
def test_the_order_in_which_files_are_named_changes_nothing(tmp_path, keys):
    native, state = (GLM4_MOE, llada2_state(random_state(GLM4_MOE))) if keys else (QWEN2, random_state(QWEN2))
    sources = save_shards(state, tmp_path / "in", 3)
    folders = tmp_path / "a", tmp_path / "b"
    for folder, order in zip(folders, (sources, sources[::-1]), strict=True):
        folder.mkdir()
        convert(order, folder, family(native, keys), LLADA2_CONFIG)
    contents = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert contents[0] == contents[1]


def test_files_of_weights_are_of_at_most_a_size_and_an_index_tells_what_is_where(tmp_path, target, monkeypatch):
    state = random_state(LLAMA)
    sources = save_shards(renamed(state, LLADA_NAMES), tmp_path / "in", 2)
    monkeypatch.setattr(converting, "SHARD", 8000)
    convert(sources, target, family(LLAMA, LLADA.keys), {})
    files = sorted(target.glob("*.safetensors"))
    assert len(files) > 3
    assert [file.name for file in files] == [
        f"model-{number:05}-of-{len(files):05}.safetensors" for number in range(1, len(files) + 1)
    ]
    places = json.loads((target / INDEX).read_text())["weight_map"]
    assert places.keys() == state.keys()
    for file in files:
        with safe_open(file, "pt") as opened:
            assert set(opened.keys()) == {name for name, place in places.items() if place == file.name}
            assert file.stat().st_size < 8000 + 2000  # and its header
    found, report = load(target, LLAMA)
    assert report == {}
    agree(found, state)


def indexed(folder, places):
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))


def test_an_index_and_the_files_beside_it_must_name_each_other(tmp_path, target):
    state = random_state(QWEN2)
    sources = save_shards(state, tmp_path / "in", 2)
    one, two = (source.name for source in sources)
    indexed(tmp_path / "in", {"a": one, "b": two, "c": "model-00003.safetensors"})
    with pytest.raises(SsdError, match=r"names model-00003\.safetensors, which is missing"):
        convert(sources, target, family(QWEN2), {})
    indexed(tmp_path / "in", {"a": one})
    with pytest.raises(SsdError, match=rf"{two} is there, and .* does not name it"):
        convert(sources, target, family(QWEN2), {})
    for broken in ("{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": ["b"]}}'):
        (tmp_path / "in" / INDEX).write_text(broken)
        with pytest.raises(SsdError, match="does not say which file"):
            convert(sources, target, family(QWEN2), {})
    assert not list(target.iterdir())
    indexed(tmp_path / "in", {"a": one, "b": two})
    convert(sources, target, family(QWEN2), {})
    assert load(target, QWEN2)[1] == {}


def test_a_tensor_that_two_files_hold_is_refused(tmp_path, target):
    state = random_state(QWEN2)
    sources = save_shards(state, tmp_path / "in", 2)
    save_file({"model.norm.weight": state["model.norm.weight"]}, tmp_path / "more.safetensors")
    with pytest.raises(SsdError, match=r"holds model\.norm\.weight, which another file holds too"):
        convert([*sources, tmp_path / "more.safetensors"], target, family(QWEN2), {})


@pytest.mark.parametrize(("keys", "native"), [(LLADA.keys, LLAMA), ((), QWEN2)])
def test_nothing_is_written_for_a_checkpoint_that_its_config_contradicts(tmp_path, target, keys, native):
    state = random_state(native)
    sources = save_shards(renamed(state, LLADA_NAMES) if keys else state, tmp_path / "in", 2)
    with pytest.raises(
        SsdError, match=r"contradicts the weights: model\.embed_tokens\.weight .*\(41, 32\).*\(40, 32\)"
    ):
        convert(sources, target, family(native | {"vocab_size": 41}, keys), {})
    sources[1].write_bytes(sources[1].read_bytes()[:-1])
    with pytest.raises(SsdError, match=rf"{sources[1].name} is cut off"):
        convert(sources, target, family(native, keys), {})
    assert not list(target.iterdir())


def test_a_crash_half_way_leaves_the_sources_whole_and_plain_files_in_the_target_alone(tmp_path, target, monkeypatch):
    state = renamed(random_state(LLAMA), LLADA_NAMES)
    sources = save_shards(state, tmp_path / "in", 2)
    before = {path: path.read_bytes() for path in sources}
    monkeypatch.setattr(converting, "SHARD", 8000)
    rules = [*LLADA.keys, Rename("none", "none")]
    write, written = converting.write_safetensors, []

    def crash(path, tensors):
        written.append(path)
        if len(written) == 3:
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        write(path, tensors)

    monkeypatch.setattr(converting, "write_safetensors", crash)
    with pytest.raises(KeyboardInterrupt):
        convert(sources, target, family(LLAMA, rules), {})
    assert sorted(tmp_path.iterdir()) == [tmp_path / "in", target]
    assert set(target.iterdir()) == set(written)  # and no index, which would call them whole
    assert {path: path.read_bytes() for path in sorted((tmp_path / "in").iterdir())} == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="measures a child process")
def test_memory_stays_under_twice_the_largest_file_while_a_stack_of_more_is_written(tmp_path):
    shard = 32  # MiB
    command = [sys.executable, "-m", "tests.models.conversion_peaks", str(tmp_path), "1", str(shard)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    small, large = json.loads(done.stdout)
    assert large - small < 2 * shard
