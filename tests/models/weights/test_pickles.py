from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import load_file

from ssdcli.errors import SsdError
from ssdcli.models.weights.pickles import read_pickle
from ssdcli.models.weights.safetensors_stream import write_safetensors


def values(stored, folder):
    write_safetensors(folder / "out.safetensors", stored)
    return load_file(folder / "out.safetensors")


@pytest.mark.parametrize("zipped", [True, False])
def test_every_tensor_comes_back_under_its_prefix_without_the_wrapper_of_parallel_training(tmp_path, zipped):
    table = {
        "module.weight": torch.randn(4, 3),
        "bias": torch.randn(4).bfloat16(),
        "count": torch.tensor(7),
        "module.module.x": torch.ones(2),
        "last.module.y": torch.zeros(0, 2),
    }
    torch.save(table, tmp_path / "layer.pt", _use_new_zipfile_serialization=zipped)
    read = values(read_pickle(tmp_path / "layer.pt", "layer."), tmp_path)
    names = ["layer.weight", "layer.bias", "layer.count", "layer.module.x", "layer.last.module.y"]
    assert sorted(read) == sorted(names)
    for name, value in zip(names, table.values(), strict=True):
        assert read[name].dtype == value.dtype
        assert torch.equal(read[name], value)


def test_views_are_written_as_they_read_and_not_as_they_lie_in_the_file(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    table = {"base": base, "turned": base.T, "column": base[:, 2], "wide": base[0, :1].expand(3), "tail": base[2:]}
    table["one"] = base[:1, 2]
    torch.save(table, tmp_path / "views.pt")
    read = read_pickle(tmp_path / "views.pt", "")
    for name, value in values(read, tmp_path).items():
        assert torch.equal(value, table[name])
    first, second = read["turned"].cut([2, 4])
    assert torch.equal(values({"x": first}, tmp_path)["x"], base.T[:2])
    assert torch.equal(values({"x": second}, tmp_path)["x"], base.T[2:])


class Harmful:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    "content",
    [
        {"weight": torch.zeros(2), "epoch": 3},
        {"state_dict": {"weight": torch.zeros(2)}},
        [torch.zeros(2)],
        torch.zeros(2),
        {"weight": torch.zeros(2).to_sparse()},
        {"weight": torch.zeros(2, dtype=torch.complex64)},
        torch.nn.Linear(2, 2),
        {"weight": torch.zeros(2), "module.weight": torch.ones(2)},
        {"weight": Harmful()},
    ],
)
def test_a_pickle_with_anything_but_tensors_is_refused_and_nothing_in_it_runs(tmp_path, content, capsys):
    torch.save(content, tmp_path / "layer.pt")
    with pytest.raises(SsdError, match=r"layer\.pt is damaged or holds something other than plain tensors"):
        read_pickle(tmp_path / "layer.pt", "")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps({"a": Harmful()}), b"PK\x03\x04"])
def test_a_file_that_torch_did_not_write_is_refused(tmp_path, content, capsys):
    (tmp_path / "layer.pt").write_bytes(content)
    with pytest.raises(SsdError, match=r"layer\.pt is damaged"):
        read_pickle(tmp_path / "layer.pt", "")
    assert "executed" not in capsys.readouterr().out


def test_a_pickle_that_is_cut_off_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(1000)}, tmp_path / "layer.pt")
    content = (tmp_path / "layer.pt").read_bytes()
    (tmp_path / "layer.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(SsdError, match=r"layer\.pt is damaged"):
        read_pickle(tmp_path / "layer.pt", "")
