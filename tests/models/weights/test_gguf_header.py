"""The header of a GGUF file is believed only where the file bears it out."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from hypothesis import given
from hypothesis import strategies as st

from ssdcli.errors import SsdError
from ssdcli.models.weights import gguf_header
from ssdcli.models.weights.gguf_header import (
    GgufHeader,
    block_of,
    dequantisation,
    excerpt,
    read_header,
    stored_bytes,
    stored_type,
)
from tests.ggufs import write_gguf


def read(data: bytes) -> GgufHeader:
    return read_header(io.BytesIO(data), len(data), "x.gguf")


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, *shape: int, kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


ARCHITECTURE = entry("general.architecture", 8, text("llama"))


def made(
    fields: list[bytes], table: list[bytes] | None = None, data: int = 64, version: int = 3, **counts: int
) -> bytes:
    """A file of this metadata and this table of tensors; counts: what the header announces instead of their numbers."""
    table = table or []
    number, announced = counts.get("tensors", len(table)), counts.get("entries", len(fields))
    head = b"GGUF" + struct.pack("<IQQ", version, number, announced) + b"".join([*fields, *table])
    return head + bytes(-len(head) % 32 + data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, "llama", "Q4_1")
    return path


def test_a_header_says_what_gguf_itself_reads(whole):
    header, reader = read(whole.read_bytes()), GGUFReader(whole)
    assert header.architecture == "llama"
    assert {name: (found.shape, found.kind, found.begin, found.size) for name, found in header.tensors.items()} == {
        t.name: (tuple(map(int, reversed(t.shape))), int(t.tensor_type), t.data_offset, t.n_bytes)
        for t in reader.tensors
    }
    for key, field in header.fields.items():
        value = reader.fields[key].contents()
        assert field.value == (tuple(value) if isinstance(value, list) else value)


def test_nothing_behind_the_header_is_read(whole):
    data = whole.read_bytes()
    begin = min(found.begin for found in read(data).tensors.values())
    assert read_header(io.BytesIO(data[:begin]), len(data), "x.gguf").tensors


def test_an_excerpt_is_a_gguf_file_with_the_entries_that_are_kept_and_all_names(whole, tmp_path):
    header = read(whole.read_bytes())
    kept = ["general.architecture", "llama.block_count", "tokenizer.ggml.tokens"]
    (tmp_path / "excerpt.gguf").write_bytes(excerpt(header, kept))
    reader = GGUFReader(tmp_path / "excerpt.gguf")
    assert [key for key in reader.fields if not key.startswith("GGUF.")] == kept
    assert reader.fields["llama.block_count"].contents() == 2
    assert {t.name for t in reader.tensors} == set(header.tensors)
    assert (tmp_path / "excerpt.gguf").stat().st_size < whole.stat().st_size / 4


def test_a_file_that_is_cut_off_anywhere_says_so(whole):
    data = whole.read_bytes()
    begin = min(found.begin for found in read(data).tensors.values())
    lengths = [*range(4, begin, 211), begin, begin + 1, len(data) - 64]
    for length in lengths:
        with pytest.raises(SsdError, match=r"cut off|announces"):
            read(data[:length])


@given(st.data())
def test_a_damaged_header_is_refused_or_read_and_nothing_else_happens(whole, data):
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 9000))] = data.draw(st.integers(0, 255))
    try:
        header = read(bytes(content))
    except SsdError:
        return
    assert all(found.begin + found.size <= len(content) for found in header.tensors.values())


@given(st.binary(max_size=200))
def test_no_bytes_at_all_do_more(content):
    with pytest.raises(SsdError):
        read(b"GGUF\3\0\0\0" + content)


HUGE = 2**63 - 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is not a GGUF file"),
        (b"GG", "is not a GGUF file"),
        (b"PK\x03\x04" + bytes(100), "is not a GGUF file"),
        (b"GGUF", "cut off"),
        (made([ARCHITECTURE], version=1), "version 1 of GGUF;"),
        (made([ARCHITECTURE], version=99), "version 99"),
        (made([ARCHITECTURE], version=3 << 24), "other order"),
        (made([ARCHITECTURE], entries=HUGE), "announces"),
        (made([ARCHITECTURE], tensors=HUGE), "announces"),
        (made([ARCHITECTURE], entries=2), "without a key"),
        (made([struct.pack("<Q", HUGE) + b"general"]), "announces"),
        (made([entry("general.architecture", 8, struct.pack("<Q", HUGE))]), "announces"),
        (made([entry("general.architecture", 77, b"")]), "unknown type 77"),
        (made([entry("a", 9, struct.pack("<IQ", 0, HUGE))]), "announces"),
        (made([entry("a", 9, struct.pack("<IQ", 8, HUGE))]), "announces"),
        (made([entry("a", 9, struct.pack("<IQ", 9, 1))]), "array of the unknown type 9"),
        (made([entry("a", 8, struct.pack("<Q", 2) + b"\xff\xff")]), "not UTF-8"),
        (made([ARCHITECTURE, ARCHITECTURE]), "'general.architecture' twice"),
        (made([]), "does not name its architecture"),
        (made([entry("general.architecture", 4, struct.pack("<I", 1))]), "does not name its architecture"),
        (made([ARCHITECTURE, entry("split.count", 2, struct.pack("<H", 3))]), "one of 3 parts"),
        (made([ARCHITECTURE, entry("general.alignment", 4, struct.pack("<I", 3))]), "alignment is 3"),
        (made([ARCHITECTURE, entry("general.alignment", 4, struct.pack("<I", 0))]), "alignment is 0"),
        (made([ARCHITECTURE], [tensor("a", 16), tensor("a", 16, offset=64)], 128), "'a' twice"),
        (made([ARCHITECTURE], [tensor("a", 16), tensor("b", 16)]), "'b' begins at"),
        (made([ARCHITECTURE], [tensor("a", 16, offset=8)], 128), "'a' begins at"),
        (made([ARCHITECTURE], [tensor("a", 16, offset=2**63)]), "'a' goes on after its end"),
        (made([ARCHITECTURE], [tensor("a", 17)]), "'a' goes on after its end"),
        (made([ARCHITECTURE], [tensor("a", 2**40, 2**40, 2**40, 2**40)]), "'a' goes on after its end"),
        (made([ARCHITECTURE], [tensor("a", 0)]), r"shape \(0,\)"),
        (made([ARCHITECTURE], [tensor("a", 33, kind=2)]), r"type Q4_0 has the shape \(33,\)"),
        (made([ARCHITECTURE], [tensor("a")]), "0 dimensions"),
        (made([ARCHITECTURE], [tensor("a", 1, 1, 1, 1, 1)]), "5 dimensions"),
        (made([ARCHITECTURE], [text("a") + struct.pack("<I", 2**32 - 1)]), "dimensions"),
        (made([ARCHITECTURE], [tensor("a", 16, kind=999)]), "type 999, which gguf cannot read"),
        (made([ARCHITECTURE], [tensor("a", 16, kind=24)]), "type I8, which gguf cannot read"),
        (made([ARCHITECTURE], [tensor("a", 32, kind=9)]), "type Q8_1, which gguf cannot read"),
    ],
)
def test_a_lying_header_is_refused_at_once_and_without_memory(content, problem):
    block_of(0)  # loads gguf
    began = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(SsdError, match=problem):
            read(content)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert time.monotonic() - began < 5


def test_a_header_of_any_length_is_not_read(monkeypatch):
    monkeypatch.setattr(gguf_header, "LONGEST", 1000)
    long = entry("a", 8, text("x" * 2000))
    with pytest.raises(SsdError, match="longer than"):
        read(made([ARCHITECTURE, long]))


def test_arrays_of_any_length_are_not_read(monkeypatch):
    monkeypatch.setattr(gguf_header, "_MOST_ELEMENTS", 10)
    five = struct.pack("<IQ5B", 0, 5, *range(5))
    assert read(made([ARCHITECTURE, entry("a", 9, five), entry("b", 9, five)])).array("b") == tuple(range(5))
    with pytest.raises(SsdError, match="more than 10 elements"):
        read(made([ARCHITECTURE, *(entry(key, 9, five) for key in "abc")]))


def test_tensors_may_come_in_any_order_and_have_another_alignment():
    wide = entry("general.alignment", 4, struct.pack("<I", 64))
    header = read(made([ARCHITECTURE, wide], [tensor("b", 16, offset=64), tensor("a", 16)], 256))
    assert [(name, found.begin % 64) for name, found in header.tensors.items()] == [("a", 0), ("b", 0)]


def test_every_type_that_gguf_dequantises_is_known():
    known = {kind for kind in GGMLQuantizationType if block_of(kind) is not None}
    assert known >= {
        GGMLQuantizationType[name] for name in ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K")
    }
    for kind in known:
        assert block_of(kind) == gguf.GGML_QUANT_SIZES[kind]


def test_quantised_numbers_are_stored_in_32_bits_and_from_a_size_on_in_16(monkeypatch):
    matrix, norm, half = (
        tensor("a", 64, 4, kind=3),
        tensor("b", 64, offset=160),
        tensor("c", 64, kind=1, offset=160 + 256),
    )
    header = read(made([ARCHITECTURE], [matrix, norm, half], 1024))
    kept = [stored_type(header, found) for found in header.tensors.values()]
    assert (kept, stored_bytes(header)) == (["F32", "F32", "F16"], 256 * 4 + 64 * 4 + 64 * 2)
    assert dequantisation(header) == "dequantised from Q4_1 to float32"
    monkeypatch.setattr(gguf_header, "EXACT", 384 * 4 - 1)
    kept = [stored_type(header, found) for found in header.tensors.values()]
    assert (kept, stored_bytes(header)) == (["BF16", "F32", "F16"], 256 * 2 + 64 * 4 + 64 * 2)
    assert dequantisation(header) == "dequantised from Q4_1 to bfloat16"


def test_plain_numbers_are_not_dequantised(tmp_path):
    write_gguf(tmp_path / "x.gguf", "qwen2", "F16")
    header = read((tmp_path / "x.gguf").read_bytes())
    assert dequantisation(header) == "converted"
    assert {stored_type(header, found) for found in header.tensors.values()} == {"F32", "F16"}
    assert stored_bytes(header) == sum(np.prod(t.shape) * (4 if t.kind == 0 else 2) for t in header.tensors.values())
