from __future__ import annotations

import re
from dataclasses import replace

from ssdcli.data.token_store import SideInfo
from ssdcli.reports.rendering import model_card
from tests.reports.descriptions import ADAPTED, CORE, DESCRIPTION, EXACT, UNMEASURED, UNWEIGHED, modelled


def row(card: str, name: str) -> str:
    found = re.search(rf"^\| {re.escape(name)} \| (.*) \|$", card, re.MULTILINE)
    assert found is not None, name
    return found[1]


class TestModelCard:
    def test_the_front_matter_names_a_license_only_if_it_is_known(self):
        unknown, known = model_card(DESCRIPTION), model_card(replace(DESCRIPTION, license="apache-2.0"))
        assert unknown.startswith("---\nlibrary_name: ssd\ntags: [diffusion, ssd]\n---\n\n# notes\n")
        assert known.startswith('---\nlicense: "apache-2.0"\nlibrary_name: ssd\n')

    def test_a_small_model_is_used_beside_its_core_and_a_core_by_itself(self):
        assert 'ssd generate "Dear reader," --with notes' in model_card(DESCRIPTION)
        assert "`starter`" in model_card(DESCRIPTION)
        assert "ssd generate --core tiny" in model_card(CORE)
        assert "--with" not in model_card(CORE)

    def test_the_tuned_weight_is_told_or_how_to_find_one(self):
        assert "tuned weight is 0.3" in model_card(DESCRIPTION)
        assert "`--with notes=W` sets one" in model_card(UNWEIGHED)

    def test_an_adapter_of_a_causal_core_takes_its_place_and_has_no_weight_unless_one_is_given(self):
        card = model_card(ADAPTED)
        assert "an adapter to the language model `starter`" in card
        assert "in the place of that model" in card
        assert "tuned weight" not in card

    def test_a_small_model_is_called_what_it_is(self):
        assert "`notes` is a small diffusion language model" in model_card(DESCRIPTION)
        assert "`notes` is a small causal language model" in model_card(modelled(attention="autoregressive"))

    def test_the_makings_are_all_there(self):
        card = model_card(DESCRIPTION)
        assert DESCRIPTION.command in card
        assert f"- {DESCRIPTION.data_lines[0]}\n" in card
        assert "weights kept" not in card
        assert row(card, "parameters") == "5,012,480, of which 1,769,472 beyond the embeddings"
        assert row(card, "noise process") == "simplex (K = 5, s = 0.0001)"
        assert row(card, "seen in training") == "4,120,000 tokens, 10.0 passes"
        assert row(card, "time") == "1 h 2 min on cpu"
        expected = {"size": "mini", "made for": "starter", "block": "32 tokens", "context": "512 tokens"}
        expected |= {"vocabulary": "8,192 tokens", "training split": "412,000 tokens", "steps": "1,700"}
        expected |= {"data fingerprint": "ab12cd"}
        assert {name: row(card, name) for name in expected} == expected

    def test_what_is_not_known_is_left_out(self):
        card = model_card(replace(modelled(core=None, constants={}), size=None, train=SideInfo(0, 0, 0, 0, 0)))
        assert "| size |" not in card
        assert "| made for |" not in card
        assert row(card, "noise process") == "simplex"
        assert "passes" not in card
        assert "None" not in card

    def test_held_out_losses_are_a_table_or_a_sentence(self):
        assert row(model_card(DESCRIPTION), "small, nats per token") == "4.151"
        assert row(model_card(DESCRIPTION), "ensemble, bits per byte") == "1.500 ± 0.090"
        assert row(model_card(DESCRIPTION), "gain of the ensemble, bits per byte") == "+0.090 ± 0.020"
        assert "mean denoising loss, which does not bound a code length" in model_card(DESCRIPTION)
        assert "exact code length" in model_card(EXACT)
        assert "gain" not in model_card(UNWEIGHED)
        assert "Nothing was measured." in model_card(replace(DESCRIPTION, quality=UNMEASURED))

    def test_the_privacy_of_the_weights_is_told(self):
        limits = model_card(DESCRIPTION).partition("## Limits and privacy")[2]
        assert "carry what it was trained on: share it as you would share the text" in limits

    def test_names_of_files_and_fields_do_not_leave_the_data(self):
        lines = [
            "skipped 2 files: empty (first: letters/divorce (draft).txt)",
            "skipped 1 row: no 'text', nor 'prompt' and 'response' (first: a.jsonl:1, fields: diagnosis)",
        ]
        card = model_card(replace(DESCRIPTION, data_lines=lines))
        assert "- skipped 2 files: empty\n" in card
        assert "divorce" not in card
        assert "diagnosis" not in card

    def test_odd_words_cannot_break_the_markdown(self):
        card = model_card(replace(DESCRIPTION, device="a|b <i>\n# c", command="ssd `x` ```\n\x1b[2J"))
        assert row(card, "time").endswith(r"on a\|b \<i\> # c")
        assert "````sh\nssd `x` ```\n\ufffd[2J\n````\n" in card

    def test_the_step_whose_weights_were_kept_is_told(self):
        assert row(model_card(replace(DESCRIPTION, kept=1200)), "weights kept") == "those of step 1,200"

    def test_what_stays_with_the_report_is_not_in_the_card(self):
        card = model_card(DESCRIPTION)
        for sample in DESCRIPTION.samples:
            assert sample.opening not in card
            assert sample.real not in card
            assert not any(text in card for text in sample.written.values())
        assert DESCRIPTION.settings["data"] not in card
