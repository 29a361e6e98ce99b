"""A family of models, and what its members are given to read."""

from __future__ import annotations

import pytest

from ssdcli.engine.denoiser import Denoiser
from tests.tiny import add_family


@pytest.fixture
def family():
    add_family()


@pytest.fixture
def starts(monkeypatch):
    """The prompts that each denoiser was given."""
    seen = {}
    start = Denoiser.start

    def spy(self, prompts):
        seen[self] = prompts
        return start(self, prompts)

    monkeypatch.setattr(Denoiser, "start", spy)
    return seen
