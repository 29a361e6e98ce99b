from __future__ import annotations

import json

import torch

from ssdcli.machine.placement import Placement
from ssdcli.models.core_checkpoint import load_core
from ssdcli.models.core_config import read_config
from ssdcli.models.core_spec import KEY, CoreSpec
from ssdcli.registry.manifest import read_manifest
from tests.models.native_checkpoints import LLAMA
from tests.pulled import write_core


def test_a_core_that_an_earlier_version_pulled_is_read_as_before(tmp_path):
    write_core(tmp_path, LLAMA, attention="causal", shift=True, late_ends=True, format="chat", ends=(0, 3))
    config, manifest = read_config(tmp_path), read_manifest(tmp_path)
    spec = CoreSpec.of(manifest, config[KEY])
    assert (spec.shift, spec.late_ends, spec.attention, spec.ends) == (True, True, "causal", (0, 3))
    earlier = {"family": "toy", **spec.to_json()}  # all of it in config.json
    assert CoreSpec.of(manifest, earlier) == CoreSpec.from_json(earlier) == spec
    (tmp_path / "config.json").write_text(json.dumps({**config, KEY: earlier}))
    core = load_core(tmp_path, Placement("float32"), None)
    assert (core.reading_block, core.shift, core.context) == (1, True, manifest.context)
    assert torch.equal(core._suppressed, torch.tensor(spec.suppressed))


def test_config_and_manifest_repeat_nothing(tmp_path):
    folder = write_core(tmp_path, LLAMA)
    assert not read_config(folder)[KEY].keys() & json.loads((folder / "ssd.json").read_text()).keys()
