"""Calls that are refused, who is let in, and what is told of the server."""

from __future__ import annotations

import openai
import pytest

from ssdcli.errors import OutOfMemory
from ssdcli.serving import endpoint
from ssdcli.serving.asking import Ask, Refused

CALL = {"model": "core", "prompt": "Dear", "max_tokens": 2}


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "not JSON"),
        (b"\xff", 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
        ([], 400, "must be a JSON object"),
        ({"prompt": "Dear"}, 400, "provide a model"),
        (CALL | {"model": 3}, 400, "'model' must be text"),
        (CALL | {"prompt": [1, "a"]}, 400, "'prompt' must be"),
        (CALL | {"prompt": [10**9]}, 400, "vocabulary"),
        (CALL | {"temperature": "hot"}, 400, "'temperature' must be a number"),
        (CALL | {"temperature": -1}, 400, "temperature=-1 must be at least 0"),
        (CALL | {"n": True}, 400, "'n' must be a whole number"),
        (CALL | {"n": 0}, 400, "n=0 must be at least 1"),
        (CALL | {"n": 10**9}, 400, "at most 64 texts"),
        (CALL | {"stop": [1]}, 400, "'stop' must be"),
        (CALL | {"logprobs": 9999}, 400, "at most 1000"),
        (CALL | {"logit_bias": {"5": 1}}, 400, "'logit_bias' is not supported"),
        (CALL | {"frequency_penalty": 0.5}, 400, "'frequency_penalty' is not supported"),
        (CALL | {"suffix": "Yours"}, 400, "'suffix' is not supported"),
        (CALL | {"temprature": 0}, 400, "'temprature'"),
        (CALL | {"rule": "magic"}, 400, "rule"),
        (CALL | {"model": "../core"}, 400, "not a model name"),
        (CALL | {"model": "cor"}, 404, "no model named 'cor'"),
        (CALL | {"with": ["mail"]}, 404, "no model named 'mail'"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_openais_form(family, server, body, status, said):
    found, answer = server.raw("/v1/completions", body)
    assert (found, answer["error"]["type"]) == (status, "invalid_request_error")
    assert said in answer["error"]["message"]


@pytest.mark.parametrize(
    "extra", [{"user": "me", "metadata": {"a": "b"}}, {"logit_bias": {}, "best_of": 1, "seed": None}]
)
def test_fields_that_change_nothing_are_ignored(family, server, extra):
    assert server.raw("/v1/completions", CALL | extra)[0] == 200


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ([], "must be a list of messages"),
        ([{"role": "user"}], "needs a 'role'"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "of text"),
        ([{"role": "tool", "content": "x"}], "role of a message"),
        ([{"role": "assistant", "content": "x"}], "no user message"),
    ],
)
def test_odd_conversations_are_refused(family, server, turns, said):
    status, answer = server.raw("/v1/chat/completions", {"model": "core", "messages": turns})
    assert status == 400
    assert said in answer["error"]["message"]


def test_a_refusal_is_no_stream(family, server):
    """Though one was asked for, the status says it."""
    with pytest.raises(openai.NotFoundError):
        server.client().completions.create(model="none-such", prompt="Dear", stream=True)


def test_a_huge_body_and_other_content_are_refused(family, server):
    assert server.raw("/v1/completions", b" " * (17 << 20))[0] == 413
    assert server.raw("/v1/completions", CALL, Content_Type="text/plain")[0] == 415
    assert server.raw("/v1/completions")[0] == 405
    status, answer = server.raw("/v1/elsewhere")
    assert (status, answer["error"]["message"]) == (404, "Not Found.")


def test_only_who_has_the_token_is_let_in(family, serving):
    with serving(token="sesame") as server:
        assert server.client("sesame").completions.create(**CALL).choices
        for wrong in ("Sesame", "sesam", "é".encode().decode("latin-1")):
            status, answer = server.raw("/v1/completions", CALL, Authorization=f"Bearer {wrong}")
            assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
        assert server.raw("/v1/models")[0] == server.raw("/metrics")[0] == 401
        assert server.raw("/health") == (200, {"status": "ok"})
        assert server.raw("/health", Host="elsewhere.example")[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "localhost.evil.example", "[::1", ""])
def test_without_a_token_a_page_that_leads_here_by_its_own_name_is_refused(family, server, host):
    assert server.raw("/v1/models", Host=host)[0] == 403
    assert server.raw("/v1/models", Host="localhost:8080")[0] == server.raw("/v1/models", Host="[::1]:80")[0] == 200


def test_models_are_listed_and_found(family, server):
    client = server.client()
    assert {"core", "notes"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("core+notes=0.5").id == "core+notes=0.5"
    with pytest.raises(openai.NotFoundError, match="no model named 'nots'"):
        client.models.retrieve("core+nots")


def test_the_metrics_count(family, server):
    server.client().completions.create(**CALL | {"max_tokens": 0})
    server.raw("/v1/completions", CALL | {"model": "nots"})
    status, text = server.raw("/metrics")
    assert status == 200
    assert 'ssd_calls_total{path="/v1/completions",status="200"} 1' in text
    assert 'ssd_calls_total{path="/v1/completions",status="404"} 1' in text
    assert "ssd_texts_total 1" in text
    assert "ssd_texts_writing 0" in text
    assert all(line.startswith("# ") or len(line.rsplit(" ", 1)) == 2 for line in text.splitlines())


def test_nothing_of_a_prompt_is_written_anywhere(family, serving, capfd, caplog, monkeypatch):
    """Not even by errors that nobody expects, on either side of the queue."""

    def fail(*_, **__):
        raise ValueError("very private")

    with serving() as server:
        server.raw("/v1/completions", CALL | {"prompt": "very private", "n": 2})
        server.raw("/v1/completions", CALL | {"very private": 1})
        for place, name in ((Ask, "requests"), (endpoint, "read_ask")):
            with monkeypatch.context() as patch:
                patch.setattr(place, name, fail)
                status, answer = server.raw("/v1/completions", CALL)
                assert (status, answer["error"]["message"]) == (500, "unexpected ValueError.")
    assert "very private" not in caplog.text + "".join(capfd.readouterr())


def test_memory_that_runs_out_is_no_fault_of_the_call():
    assert Refused.because(OutOfMemory("out of memory.")).status == 503
