from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ssdcli.errors import SsdError
from ssdcli.models.weights.safetensors_stream import joined, read_safetensors, stacked, write_safetensors

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8]
tensors = st.dictionaries(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
    st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 5), max_size=3)),
    min_size=1,
    max_size=6,
)


def made(dtype: torch.dtype, shape: list[int]) -> torch.Tensor:
    return (torch.arange(torch.Size(shape).numel()).reshape(shape) + 1).to(dtype)


def written(tensor, folder):
    """What one tensor from the stream holds when it is written and read by the library."""
    write_safetensors(folder / "out.safetensors", {"x": tensor})
    return load_file(folder / "out.safetensors")["x"]


@given(tensors)
def test_the_library_reads_from_the_writer_what_it_saved_itself(tmp_path_factory, described):
    folder = tmp_path_factory.mktemp("files")
    saved = {name: made(dtype, shape) for name, (dtype, shape) in described.items()}
    save_file(saved, folder / "in.safetensors")
    write_safetensors(folder / "out.safetensors", read_safetensors(folder / "in.safetensors"))
    again = load_file(folder / "out.safetensors")
    assert again.keys() == saved.keys()
    for name, value in saved.items():
        assert again[name].dtype == value.dtype
        assert torch.equal(again[name], value)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.lists(st.integers(1, 3), max_size=2))
def test_a_cut_is_that_of_torch_and_joining_its_parts_undoes_it(tmp_path_factory, rows, rest):
    folder = tmp_path_factory.mktemp("files")
    whole = made(torch.bfloat16, [sum(rows), *rest])
    save_file({"x": whole}, folder / "in.safetensors")
    parts = read_safetensors(folder / "in.safetensors")["x"].cut(rows)
    for part, expected in zip(parts, whole.split(rows), strict=True):
        assert torch.equal(written(part, folder), expected)
    assert torch.equal(written(joined(parts), folder), whole)


def test_stacking_is_that_of_torch_whichever_files_the_parts_are_in(tmp_path):
    values = [torch.randn(3, 2) for _ in range(3)]
    for number, value in enumerate(values):
        save_file({"x": value, "other": torch.zeros(5)}, tmp_path / f"{number}.safetensors")
    parts = [read_safetensors(tmp_path / f"{number}.safetensors")["x"] for number in range(3)]
    assert torch.equal(written(stacked(parts), tmp_path), torch.stack(values))
    pairs = [joined([parts[0], parts[1]]), joined([parts[2], parts[0]])]
    expected = torch.stack([torch.cat(values[:2]), torch.cat([values[2], values[0]])])
    assert torch.equal(written(stacked(pairs), tmp_path), expected)


def test_what_does_not_fit_is_neither_cut_nor_joined_nor_stacked(tmp_path):
    save_file(
        {"a": torch.zeros(4, 2), "b": torch.zeros(4, 3), "c": torch.zeros(4, 2).half(), "scalar": torch.zeros(())},
        tmp_path / "in.safetensors",
    )
    stored = read_safetensors(tmp_path / "in.safetensors")
    for rows in ([3, 2], [4, 0], [5, -1]):
        with pytest.raises(ValueError, match="rows"):
            stored["a"].cut(rows)
    with pytest.raises(ValueError, match="rows"):
        stored["scalar"].cut([1])
    with pytest.raises(ValueError, match="rows"):
        joined([stored["scalar"], stored["scalar"]])
    for other in ("b", "c"):
        with pytest.raises(ValueError, match="fit"):
            joined([stored["a"], stored[other]])
        with pytest.raises(ValueError, match="fit"):
            stacked([stored["a"], stored[other]])


@pytest.fixture
def file(tmp_path):
    save_file({"a": torch.zeros(4, 2), "b": torch.ones(3)}, tmp_path / "model-1.safetensors")
    return tmp_path / "model-1.safetensors"


def rewritten(file, change) -> None:
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


@pytest.mark.parametrize("kept", [0, 5, 40, -1])
def test_a_file_that_is_cut_off_is_named(file, kept):
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(SsdError, match=r"model-1\.safetensors is cut off or damaged"):
        read_safetensors(file)


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header["a"].update(data_offsets=[0, 2**62]),
        lambda header: header["a"].update(data_offsets=[4, 36]),
        lambda header: header["b"].update(data_offsets=[0, 12]),
        lambda header: header["a"].update(shape=[4, 3]),
        lambda header: header["a"].update(shape=[-4, -2]),
        lambda header: header["a"].update(dtype="F17"),
        lambda header: header["a"].pop("shape"),
        lambda header: header.update(c={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}),
    ],
)
def test_a_header_that_lies_is_refused_by_the_name_of_its_file(file, change):
    rewritten(file, change)
    with pytest.raises(SsdError, match=r"model-1\.safetensors is cut off or damaged"):
        read_safetensors(file)


@pytest.mark.parametrize("length", [0, 3, 10**8 + 1, 2**63])
def test_a_header_that_lies_about_its_own_length_is_refused(file, length):
    file.write_bytes(length.to_bytes(8, "little") + file.read_bytes()[8:])
    with pytest.raises(SsdError, match=r"model-1\.safetensors is cut off or damaged"):
        read_safetensors(file)


def test_a_file_that_shrinks_between_its_header_and_its_tensors_is_refused(file, tmp_path):
    stored = read_safetensors(file)
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(SsdError, match="ends before"):
        write_safetensors(tmp_path / "out.safetensors", stored)
