"""`ssd generate` on a machine: where models run, what their weights are held in, and what to do without memory."""

from __future__ import annotations

import sys

import pytest
import torch

from ssdcli.api import Placement, Writer, load
from ssdcli.cli import app
from ssdcli.generation import loaded_model
from tests.pulled import add_core
from tests.tiny import add_family, add_tiny


@pytest.fixture
def ssd(capsys, monkeypatch):
    """Runs `ssd generate` in this process, without standard input."""
    monkeypatch.setattr(sys, "stdin", None)

    def run(*arguments):
        code = app.main(["generate", "Dear", "--max-tokens", "8", "--steps", "2", "--seed", "1", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def dtypes(writer: Writer) -> list[torch.dtype]:
    backbones = [member.model.denoiser.backbone for member in writer.members]
    return [next(getattr(one, "model", one).parameters()).dtype for one in backbones]


def test_small_models_keep_float32_unless_a_floating_dtype_is_given():
    add_core("big")
    add_tiny("notes", 2, kind="small", core="big")
    half = [torch.bfloat16, torch.bfloat16]
    assert dtypes(load("big", ["notes"]))[1] == torch.float32
    assert dtypes(load("big", ["notes"], placement=Placement("bfloat16"))) == half
    assert dtypes(load("big", ["notes"], placement=Placement("float32")))[0] == torch.float32


def test_all_canvases_are_where_the_first_model_has_them(monkeypatch):
    add_core("big")
    add_tiny("notes", 2, kind="small", core="big")
    seen = []
    original = loaded_model.load_model
    monkeypatch.setattr(loaded_model, "load_model", lambda *given: seen.append(given[1].device) or original(*given))
    writer = load("big", ["notes"])
    assert seen == ["auto", str(writer.members[0].model.denoiser.backbone.device)]


def test_a_flag_a_variable_and_a_recipe_say_where(ssd, monkeypatch, tmp_path):
    add_core("big")
    whole = ssd("--core", "big", "--dtype", "float32", "--device", "cpu", "--offload")
    assert (whole[0], whole[2]) == (0, "")
    monkeypatch.setenv("SSD_DTYPE", "int5")
    assert ssd("--core", "big", "--dtype", "float32") == whole
    code, out, err = ssd("--core", "big")
    assert (code, out) == (2, "")
    assert err.startswith("ssd: SSD_DTYPE=int5 must be one of auto, float32,")
    monkeypatch.delenv("SSD_DTYPE")
    recipe = tmp_path / "mine.toml"
    recipe.write_text('dtype = "float32"\ndevice = "abacus"\n')
    assert "device = 'abacus' in " in ssd("--core", "big", "--recipe", str(recipe))[2]


def test_8_bits_are_for_pulled_cores(ssd):
    add_family()
    code, out, err = ssd("--core", "big", "--dtype", "int8")
    assert (code, out) == (2, "")
    assert "is for pulled cores" in err


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate"), MemoryError()],
)
def test_memory_that_ends_midway_is_code_5_with_what_helps(ssd, monkeypatch, error):
    add_core("pulled")
    add_tiny("made")

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Writer, "write", fail)
    code, out, err = ssd("--core", "pulled")
    assert (code, out) == (5, "")
    assert err.startswith("ssd: out of memory. ")
    assert "--dtype" in err
    assert "--offload" in err
    code, _, err = ssd("--core", "made")
    assert code == 5
    assert "--offload" not in err
