"""I-DLM is SDAR's class with causal attention: a Qwen3, whose parity is tested as that of other causal models."""

from __future__ import annotations

from ssdcli.models.families import recognise
from ssdcli.models.families.idlm import IDLM
from ssdcli.models.families.masked_models import SDAR
from tests.models.families.sdar import CONFIG, END, MASK
from tests.models.families.test_sdar import WORDS

CAUSAL = {**CONFIG, "use_regular_causal": True}


def test_it_is_known_by_causal_attention():
    assert recognise(CAUSAL, WORDS) is IDLM
    assert recognise(CONFIG, WORDS) is recognise({**CONFIG, "use_regular_causal": False}, WORDS) is SDAR


def test_it_is_run_as_the_causal_qwen3_that_it_is():
    expected = {**SDAR.native(CONFIG), "is_causal": True}
    assert (IDLM.native(CAUSAL), IDLM.keys) == (expected, ())
    spec = IDLM.spec(CAUSAL, WORDS)
    assert (spec.attention, spec.shift, spec.constants["mask_id"]) == ("autoregressive", True, MASK)
    assert END in spec.ends
