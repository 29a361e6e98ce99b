"""The real core without repeated n-grams, against transformers."""

from __future__ import annotations

import torch

from ssdcli.api import Options, Placement, load

PROMPT = "The boiler is cold. The boiler is cold. The"
TOKENS = 10


def test_without_repeated_n_grams_the_core_writes_what_transformers_generates(real_core):
    writer = load(real_core.name, placement=Placement("float32"))  # transformers' own layers
    options = Options(max_tokens=TOKENS, temperature=0, explain=True, plain=True)
    core = writer.members[0].model
    ids = torch.tensor([[core.format.opening, *core.codec.encode(PROMPT)]])
    written = {n: [shares.token for shares in writer.generate(PROMPT, options, no_repeat=n).explain] for n in (0, 3)}
    settings = {"max_new_tokens": TOKENS, "do_sample": False, "no_repeat_ngram_size": 3}
    expected = core.denoiser.backbone.model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    assert written[3] == expected[0, ids.shape[1] :].tolist()
    assert written[0] != written[3]
