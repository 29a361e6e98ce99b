"""A core behind `ssd serve`, with the private side elsewhere: the text is that of both in one place."""

from __future__ import annotations

import openai
import pytest

import ssdcli
from ssdcli.errors import SsdError
from ssdcli.models.remote import client
from ssdcli.registry.store import Registry
from tests.remote_server import pull
from tests.tiny import VOCABULARY

OPTIONS = ssdcli.Options(max_tokens=19, seed=4, n=2, plain=True)
REQUESTS = [ssdcli.Request("Dear landlord, the boiler"), ssdcli.Request("the stairs")]


@pytest.mark.parametrize("members", [None, ["notes"]])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_with_all_of_the_vocabulary_the_text_is_that_of_the_core_here(
    family, server, monkeypatch, members, temperature
):
    """Of several rows at once, which the server writes together."""
    monkeypatch.setattr("ssdcli.hub.remote._ALTERNATIVES", (VOCABULARY,))
    pull(server.url, "core", model="core")
    options = ssdcli.Options(**{**vars(OPTIONS), "temperature": temperature})
    here, there = (ssdcli.load(core, members).generate_batch(REQUESTS, options) for core in ("core", "far"))
    assert [(one.text, one.finish_reason) for one in there] == [(one.text, one.finish_reason) for one in here]
    assert server.worker.counts["texts"] > len(REQUESTS)


def test_a_server_can_hand_on_what_runs_elsewhere(family, server, serving):
    """The second asks the first, and scores no text that it would have to send there."""
    pull(server.url, "core", model="core")
    given = {"prompt": "Dear", "max_tokens": 8, "temperature": 0}
    with serving() as second:
        texts = [
            one.client().completions.create(model=name, **given) for one, name in ((server, "core"), (second, "far"))
        ]
        assert texts[0].choices[0].text == texts[1].choices[0].text
        with pytest.raises(openai.BadRequestError, match="no exact log-probabilities"):
            second.client().completions.create(model="far", prompt="Dear", max_tokens=0, echo=True, logprobs=1)


def test_a_server_that_wants_a_token_gets_it(family, serving, monkeypatch):
    monkeypatch.setattr(client.time, "sleep", lambda _: None)
    with serving(token="secret") as server:
        with pytest.raises(SsdError, match="needs a token, and the variable SSD_CORE_TOKEN is not set"):
            pull(server.url, "core", model="core")
        monkeypatch.setenv("SSD_CORE_TOKEN", "secret")
        pull(server.url, "core", model="core")
        assert Registry().find("far").manifest.is_remote
