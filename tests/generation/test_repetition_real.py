"""The real core without repeated n-grams, against transformers."""

from __future__ import annotations

import torch

from ssdcli.api import Options, load

PROMPT = "The boiler is cold. The boiler is cold. The"
TOKENS = 40


def test_without_repeated_n_grams_the_core_writes_what_transformers_generates(real_core):
    writer = load(real_core.name)
    options = Options(max_tokens=TOKENS, temperature=0, explain=True, plain=True)
    for n in (0, 3):
        result = writer.generate(PROMPT, options, no_repeat=n)
        ids = torch.tensor([writer.codec.encode(PROMPT)])
        generated = writer.members[0].model.denoiser.backbone.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False, no_repeat_ngram_size=n
        )
        expected = generated[0, ids.shape[1] :].tolist()
        written = [shares.token for shares in result.explain]
        assert written == expected[: len(written)]
        assert len(written) > TOKENS // 2
