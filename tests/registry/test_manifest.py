from __future__ import annotations

import json
import stat

import pytest

from ssdcli.engine.ensemble.confidence import Confidence
from ssdcli.engine.process import make_process
from ssdcli.errors import SsdError
from ssdcli.registry.manifest import Manifest, read_manifest, tokenizer_fingerprint, write_manifest

GATE = {"bias": 1.0, "level": 1.0, "core": 1.0, "small": 1.0}


def test_json_gives_back_the_same_manifest(manifest):
    full = manifest(
        weight=0.35,
        gate=GATE,
        data="cd" * 32,
        files={"model.safetensors": "ef" * 32, "extra/README.md": "01" * 32},
        versions={"ssdcli": "0.1.0"},
        metrics={"bits_per_byte": 1.9},
    )
    assert Manifest.from_json(full.to_json()) == full


@pytest.mark.parametrize(("process", "constants"), [("masked", {"mask_id": 1.0}), ("uniform", {})])
def test_constants_that_a_manifest_leaves_out_are_those_of_the_process_made_of_it(manifest, process, constants):
    made = make_process(process, 300, constants)
    assert manifest(process=process, constants=constants).noise == (process, made.constants())
    given = {**made.constants(), "t_min": 0.5}
    assert manifest(process="masked", constants=given).noise == ("masked", given)


def test_a_manifest_written_is_read_back_and_private(manifest, tmp_path):
    write_manifest(tmp_path, manifest())
    assert read_manifest(tmp_path) == manifest()
    assert stat.S_IMODE((tmp_path / "ssd.json").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".ssd")] == []


def test_a_newer_schema_asks_to_upgrade_even_with_unknown_fields(manifest):
    values = {**json.loads(manifest().to_json()), "schema": 2, "novelty": 1}
    with pytest.raises(SsdError, match=r"here/ssd\.json has schema 2.*Upgrade ssd"):
        Manifest.from_json(json.dumps(values), "here/ssd.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema", "1"),
        ("schema", True),
        ("name", ""),
        ("kind", "huge"),
        ("kind", ["core"]),
        ("process", None),
        ("constants", {"k": "five"}),
        ("block_size", 2.5),
        ("block_size", -1),
        ("context", True),
        ("attention", "sideways"),
        ("vocabulary", "8192"),
        ("core", 3),
        ("weight", 0),
        ("weight", 1.5),
        ("gate", 3),
        ("gate", {"bias": 1.0}),
        ("gate", GATE | {"more": 1.0}),
        ("gate", GATE | {"level": float("inf")}),
        ("gate", GATE | {"bias": -51.0}),
        ("files", {"../../etc/passwd": "ab"}),
        ("files", {"/etc/passwd": "ab"}),
        ("files", ["model.safetensors"]),
        ("metrics", {"loss": float("nan")}),
    ],
)
def test_a_malformed_field_is_named_with_its_file(manifest, field, value):
    values = {**json.loads(manifest().to_json()), field: value}
    with pytest.raises(SsdError) as caught:
        Manifest.from_json(json.dumps(values), "here/ssd.json")
    assert caught.value.problem.startswith("here/ssd.json: ")
    assert repr(field) in caught.value.problem


@pytest.mark.parametrize("field", ["schema", "kind", "weight", "files"])
def test_a_missing_field_is_named(manifest, field):
    values = json.loads(manifest().to_json())
    del values[field]
    with pytest.raises(SsdError, match=rf"ssd\.json lacks the field '{field}'"):
        Manifest.from_json(json.dumps(values))


def test_an_unknown_field_is_named(manifest):
    values = {**json.loads(manifest().to_json()), "colour": "blue"}
    with pytest.raises(SsdError, match="'colour'"):
        Manifest.from_json(json.dumps(values))


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_what_is_no_table_is_refused_with_its_file(text):
    with pytest.raises(SsdError, match=r"here/ssd\.json"):
        Manifest.from_json(text, "here/ssd.json")


def test_a_folder_without_a_readable_manifest_is_refused(tmp_path):
    with pytest.raises(SsdError, match=r"holds no ssd\.json"):
        read_manifest(tmp_path)
    (tmp_path / "ssd.json").write_bytes(b"\xff\xfe")
    with pytest.raises(SsdError, match="cannot be read"):
        read_manifest(tmp_path)


def tokenizer(**changes):
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}
    added = [{"id": 3, "content": "<eos>", "special": True, "lstrip": False}]
    return {"version": "1.0", "model": model, "added_tokens": added, **changes}


def fingerprint(value, **style):
    return tokenizer_fingerprint(json.dumps(value, **style).encode())


def test_the_fingerprint_ignores_formatting_order_and_the_writing_of_merges():
    reference = fingerprint(tokenizer())
    reordered = {"type": "BPE", "merges": [["a", "b"]], "vocab": {"ab": 2, "b": 1, "a": 0}}
    assert fingerprint(tokenizer(), indent=4) == reference
    assert fingerprint(tokenizer(version="2.0", truncation={"max_length": 8})) == reference
    assert fingerprint(tokenizer(model=reordered)) == reference


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"vocab": {"a": 0, "b": 1, "ba": 2}, "merges": ["a b"]}},
        {"model": {"vocab": {"a": 1, "b": 0, "ab": 2}, "merges": ["a b"]}},
        {"model": {"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["b a"]}},
        {"model": {"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": []}},
        {"added_tokens": []},
        {"added_tokens": [{"id": 3, "content": "<pad>", "special": True}]},
        {"added_tokens": [{"id": 3, "content": "<eos>", "special": False}]},
    ],
)
def test_the_fingerprint_tells_tokenizers_apart(changes):
    assert fingerprint(tokenizer(**changes)) != fingerprint(tokenizer())


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"model": 3}', b"\xff"])
def test_what_is_no_tokenizer_is_refused(content):
    with pytest.raises(SsdError, match=r"tokenizer\.json"):
        tokenizer_fingerprint(content)


JOINT = {"members": ["core", "small"], "weights": [0.6, 0.4], "coefficients": [[0.0] * 5], "is_default": True}


def test_a_gate_keeps_its_confidence_and_one_of_an_earlier_version_has_none(manifest):
    sure = manifest(gates=(JOINT | {"confidence": {"offset": -0.2, "slope": 0.9}}, JOINT))
    kept, earlier = Manifest.from_json(sure.to_json()).joint_gates
    assert kept.confidence == Confidence(-0.2, 0.9)
    assert earlier.confidence is None


@pytest.mark.parametrize("confidence", [{"offset": "x", "slope": 1.0}, {"offset": 0.0, "slope": 1e9}, 3])
def test_a_confidence_that_is_none_is_refused(manifest, confidence):
    with pytest.raises(SsdError, match="'gates' must be"):
        manifest(gates=(JOINT | {"confidence": confidence},))
