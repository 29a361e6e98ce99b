"""A GGUF file becomes a core that predicts what the model did before it was written, or what transformers reads."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ssdcli.errors import DownloadFailed, SsdError, UsageError
from ssdcli.hub.pull import Watch, plan, preview, pull, registered
from ssdcli.hub.tokenizer_files import read_vocabulary
from ssdcli.machine.placement import Placement
from ssdcli.models.auto_model import quiet
from ssdcli.models.core_checkpoint import load_core
from ssdcli.models.weights.stored import announced_need
from ssdcli.registry.disk import digest
from ssdcli.registry.store import Entry, Registry
from tests.ggufs import (
    BEGIN,
    CONTEXT,
    END,
    KINDS,
    TEMPLATE,
    TURN_END,
    add_metadata,
    add_tensor,
    add_tokenizer,
    finish,
    gguf_tensors,
    original,
    write_gguf,
)
from tests.tiny import TEXT, VOCABULARY, tiny_tokenizer

QUIET = Watch(lambda _: None, lambda: None)
NAME = "Tiny.Q4_1.gguf"


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / NAME


@pytest.fixture
def registry(tmp_path) -> Registry:
    return Registry(tmp_path / "home", tmp_path / "bundled")


def pulled(file: Path, registry: Registry, name: str = "tiny", **options: Any) -> Entry:
    return pull(plan(file), name, registry, QUIET, **options)


def model_of(entry: Entry) -> PreTrainedModel:
    return load_core(entry.folder, Placement("float32"), None).model


def logits(model: Any) -> torch.Tensor:
    """The scores of 100 tokens, more than any sliding window or context before it was extended."""
    ids = torch.randint(3, VOCABULARY, (2, 100), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(ids).logits


def is_untouched(registry: Registry) -> bool:
    return not registry.entries() and not list(registry.models.glob("*")) and not list(registry.models.glob(".*"))


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_written_unquantised_predicts_as_before(file, registry, kind):
    model = write_gguf(file, kind)
    assert torch.equal(logits(model_of(pulled(file, registry))), logits(model))


@pytest.mark.parametrize("quantisation", ["Q4_1", "Q8_0"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_quantised_predicts_as_transformers_reads_it(file, registry, kind, quantisation):
    write_gguf(file, kind, quantisation)
    model = model_of(pulled(file, registry))
    with quiet():
        theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, config=model.config)
    assert model.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in theirs.state_dict().items())
    assert torch.equal(logits(model), logits(theirs))


@pytest.mark.parametrize("kind", KINDS)
def test_a_dry_run_tells_of_the_header_what_the_whole_plan_tells(file, kind):
    write_gguf(file, kind)
    whole, seen = plan(file), preview(file)
    for same in ("family", "weight_bytes", "bytes_to_write", "conversion", "licence", "doubts", "stated_name"):
        assert getattr(seen, same) == getattr(whole, same)
    for same in ("process", "attention", "context", "ends", "constants", "suppressed", "format"):
        assert getattr(seen.spec, same) == getattr(whole.spec, same)
    needs = [announced_need(one.native, "bfloat16", one.spec) for one in (seen, whole)]
    assert needs[0] == needs[1]


def test_a_dry_run_refuses_what_the_header_shows_to_be_damaged(file):
    write_gguf(file, "llama")
    file.write_bytes(file.read_bytes().replace(b"tokenizer.ggml.model", b"tokenizer.ggml.mudel"))
    with pytest.raises(SsdError, match="holds no tokenizer"):
        preview(file)


def test_its_manifest_says_what_it_is_and_where_it_was(file, registry):
    write_gguf(file, "llama", "Q4_1")
    entry = pulled(file, registry)
    manifest = entry.manifest
    assert (manifest.kind, manifest.architecture, manifest.process) == ("core", "llama", "masked")
    assert manifest.source == f"{NAME}@sha256:{digest(file)}"
    assert (manifest.context, manifest.begin, manifest.ends) == (CONTEXT, BEGIN, (END, TURN_END))
    assert manifest.format == "chat"
    assert (entry.folder / "chat_template.jinja").read_text() == TEMPLATE
    assert registry.verify("tiny") == []
    card = (entry.folder / "README.md").read_text()
    assert "dequantised from Q4\\_1 to float32" in card
    assert "| licence | mit" in card


def test_its_model_holds_no_path_of_this_machine(file, registry):
    write_gguf(file, "llama")
    texts = [path.read_text() for path in pulled(file, registry).folder.iterdir() if path.suffix in (".json", ".md")]
    assert len(texts) > 1
    assert not any(str(file.parent) in text for text in texts)


def test_the_same_file_is_recognised_and_another_one_in_its_place_is_not(file, registry):
    write_gguf(file, "llama")
    entry = pulled(file, registry)
    assert registered(plan(file).origin, "tiny", registry) == entry
    write_gguf(file, "llama", "Q8_0")
    assert registered(plan(file).origin, "tiny", registry) is None


def test_nothing_in_the_registry_depends_on_the_file(file, registry):
    write_gguf(file, "gpt2", "Q8_0")
    entry = pulled(file, registry)
    before = logits(model_of(entry))
    file.unlink()
    assert torch.equal(logits(model_of(entry)), before)
    assert not any(path.is_symlink() for path in entry.folder.iterdir())


def test_the_tokenizer_is_the_one_that_transformers_makes_and_that_was_written(file, registry):
    write_gguf(file, "qwen2")
    entry = pulled(file, registry)
    ours = Tokenizer.from_file(str(entry.folder / "tokenizer.json"))
    with quiet():
        theirs = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    assert json.loads(ours.to_str()) == json.loads(theirs.backend_tokenizer.to_str())
    written = Tokenizer.from_str(tiny_tokenizer().to_str())  # the shared one may read special tokens as text
    for text in (TEXT, "  two spaces\n\n", "Öl 123 <|pad|>", ""):
        assert ours.encode(text).ids == written.encode(text).ids


def test_no_token_is_added_to_those_of_the_file(file, registry):
    """transformers builds every byte-level vocabulary as GPT-2's, and so adds <|endoftext|> where there is none."""

    def tokenizer(writer: GGUFWriter) -> None:
        add_tokenizer(writer, tiny_tokenizer(), {"<|endoftext|>": "<|end_of_text|>"})

    write_with(file, tokenizer=tokenizer)
    entry = pulled(file, registry)
    ours = Tokenizer.from_file(str(entry.folder / "tokenizer.json"))
    assert ours.get_vocab_size() == tiny_tokenizer().get_vocab_size()
    assert ours.encode("<|end_of_text|>").ids == [END]
    assert entry.manifest.ends == (END, TURN_END)


@pytest.mark.parametrize(("opens", "opening"), [(True, BEGIN), (False, None), (None, None)])
def test_a_text_is_opened_as_the_file_says(file, opens, opening):
    write_with(file, tokenizer=lambda writer: add_tokenizer(writer, tiny_tokenizer(), opens=opens))
    small = plan(file).small
    assert read_vocabulary(small["tokenizer.json"], small).opening == opening
    assert json.loads(small["tokenizer_config.json"]).get("add_bos_token") == opens


def sentencepiece(writer: GGUFWriter) -> None:
    """A vocabulary of pieces, with the special tokens that Llama 2 has, and those of Gemma."""
    special = ["<unk>", "<s>", "</s>", "<pad>", "<bos>", "<eos>", "<mask>"]
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "ab", "▁ab"]
    common = len(special) + 256
    pieces += [f"piece{n}" for n in range(VOCABULARY - len(pieces))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([0.0] * common + [-float(n) for n in range(len(pieces) - common)])
    writer.add_token_types([2] + [3] * (len(special) - 1) + [6] * 256 + [1] * (len(pieces) - common))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "phi3"])
def test_a_vocabulary_of_pieces_is_read_too(file, registry, kind):
    write_with(file, tokenizer=sentencepiece, kind=kind)
    entry = pulled(file, registry)
    ours = Tokenizer.from_file(str(entry.folder / "tokenizer.json"))
    with quiet():
        theirs = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    assert json.loads(ours.to_str()) == json.loads(theirs.backend_tokenizer.to_str())
    assert ours.encode("ab a ö", add_special_tokens=False).ids
    assert (entry.manifest.begin, entry.manifest.ends, entry.manifest.format) == (1, (2,), "plain")


def write_with(
    file: Path,
    kind: str = "llama",
    metadata: Callable[[GGUFWriter, PreTrainedModel], None] = add_metadata,
    tokenizer: Callable[[GGUFWriter], None] = lambda writer: add_tokenizer(writer, tiny_tokenizer()),
    change: Callable[[dict[str, np.ndarray]], object] = lambda tensors: None,
) -> None:
    """Write a file of which one part is another than usual."""
    model = original(kind)
    writer = GGUFWriter(file, str(model.config.model_type).removesuffix("_text"))
    metadata(writer, model)
    tokenizer(writer)
    tensors = gguf_tensors(model)
    change(tensors)
    for name, weight in tensors.items():
        add_tensor(writer, name, weight, "F32")
    finish(writer)


def no_tokenizer(file: Path) -> None:
    write_with(file, tokenizer=lambda writer: None)


def tokenizer_without_tokens(file: Path) -> None:
    write_with(file, tokenizer=lambda writer: writer.add_tokenizer_model("gpt2"))


def unknown_tokenizer(file: Path) -> None:
    def tokenizer(writer: GGUFWriter) -> None:
        writer.add_tokenizer_model("rwkv")
        writer.add_token_list(["a", "b"])

    write_with(file, tokenizer=tokenizer)


def too_many_tokens(file: Path) -> None:
    def tokenizer(writer: GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(["t", "1", *(f"t{n}" for n in range(1, VOCABULARY + 6))])
        writer.add_token_merges(["t 1"])

    write_with(file, tokenizer=tokenizer)


def a_very_long_token(file: Path) -> None:
    def tokenizer(writer: GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(["a" * 100_000])
        writer.add_token_scores([0.0])

    write_with(file, tokenizer=tokenizer)


def tokens_that_are_numbers(file: Path) -> None:
    def tokenizer(writer: GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_array("tokenizer.ggml.tokens", [1, 2, 3])

    write_with(file, tokenizer=tokenizer)


def another_architecture(file: Path) -> None:
    writer = GGUFWriter(file, "mamba")
    add_tensor(writer, "token_embd.weight", np.zeros((4, 4), np.float32), "F32")
    finish(writer)


def one_layer_too_few(file: Path) -> None:
    write_with(file, change=lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("blk.1.")])


def layers_of_a_billion(file: Path) -> None:
    write_gguf(file, "llama")
    patch(file, "llama.block_count", struct.pack("<I", 2**32 - 1))


def no_heads(file: Path) -> None:
    write_gguf(file, "gemma2")
    patch(file, "gemma2.attention.head_count", struct.pack("<I", 0))


def heads_of_a_billion(file: Path) -> None:
    write_gguf(file, "llama")
    patch(file, "llama.attention.head_count", struct.pack("<I", 2**32 - 1))


def no_embeddings(file: Path) -> None:
    write_with(file, change=lambda tensors: tensors.pop("token_embd.weight"))


def no_norm(file: Path) -> None:
    write_with(file, change=lambda tensors: tensors.pop("output_norm.weight"))


def a_wrong_shape(file: Path) -> None:
    write_with(file, change=lambda tensors: tensors.update({"blk.0.ffn_up.weight": np.zeros((8, 64), np.float32)}))


def cut_off(file: Path) -> None:
    write_gguf(file, "llama")
    file.write_bytes(file.read_bytes()[:-1000])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def unknown_rotation(file: Path) -> None:
    def metadata(writer: GGUFWriter, model: PreTrainedModel) -> None:
        add_metadata(writer, model)
        writer.add_string("llama.rope.scaling.type", "spiral")
        writer.add_rope_scaling_factor(2.0)

    write_with(file, metadata=metadata)


def factors_that_are_none(file: Path) -> None:
    write_with(file, change=lambda tensors: tensors.update({"rope_freqs.weight": np.ones((99,), np.float32)}))


def patch(file: Path, key: str, value: bytes) -> None:
    """Replace the value of a number in the metadata."""
    data = file.read_bytes()
    place = data.index(struct.pack("<Q", len(key)) + key.encode()) + 8 + len(key) + 4
    file.write_bytes(data[:place] + value + data[place + len(value) :])


@pytest.mark.parametrize(
    ("write", "kind", "problem"),
    [
        (empty, SsdError, "is not a GGUF file"),
        (cut_off, SsdError, "is cut off"),
        (another_architecture, UsageError, r"architecture 'mamba'.*It reads.*gpt2, llama, phi3, qwen2, qwen3"),
        (no_tokenizer, SsdError, "holds no tokenizer"),
        (tokenizer_without_tokens, SsdError, "holds no tokenizer"),
        (unknown_tokenizer, SsdError, "cannot be read .*'rwkv'"),
        (too_many_tokens, SsdError, "307 ids, but the model has embeddings for 300"),
        (a_very_long_token, SsdError, "not all of its tokens"),
        (tokens_that_are_numbers, SsdError, "not all of its tokens"),
        (one_layer_too_few, SsdError, "announces 2 layers and has 1"),
        (layers_of_a_billion, SsdError, "announces 4,294,967,295 layers and has 2"),
        (no_heads, SsdError, "cannot be read|can build"),
        (heads_of_a_billion, SsdError, "cannot be read|can build|should be of shape"),
        (no_embeddings, SsdError, "holds no embeddings"),
        (no_norm, SsdError, "norm.weight should be of shape .*missing"),
        (a_wrong_shape, SsdError, "up_proj.weight should be of shape"),
        (unknown_rotation, SsdError, "'spiral'"),
        (factors_that_are_none, SsdError, "can build|cannot be read|rotation"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_wrong_is_named_and_nothing_is_registered(file, registry, write, kind, problem):
    write(file)
    with pytest.raises(kind, match=problem):
        pulled(file, registry)
    assert is_untouched(registry)


def test_there_must_be_room_for_what_was_dequantised(file, registry, monkeypatch):
    write_gguf(file, "llama", "Q4_1")
    planned = plan(file)
    room = SimpleNamespace(free=planned.bytes_to_write - 1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: room)
    with pytest.raises(DownloadFailed, match=r"Q4_1.gguf, dequantised from Q4_1 to float32, takes [0-9,]+ B"):
        pull(planned, "tiny", registry, QUIET)
    assert is_untouched(registry)
    room.free += 1
    entry = pull(planned, "tiny", registry, QUIET)
    assert 0 < (entry.folder / "model.safetensors").stat().st_size - planned.bytes_to_write < 10_000
    assert planned.bytes_to_write > 4 * planned.weight_bytes
