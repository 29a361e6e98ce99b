"""Calls to a server that is slow, busy, wrong or away, and what is told of each."""

from __future__ import annotations

import json
import threading

import pytest

from ssdcli.errors import RemoteFailed
from ssdcli.models.remote import client as module
from ssdcli.models.remote.address import Address
from ssdcli.models.remote.client import WAITS, Client
from tests.pulled import add_causal
from tests.remote_server import MODEL, hang_up, remote_server
from tests.tiny import VOCABULARY, tiny_tokenizer

TOKEN = "sk-verySecret"
PROMPT = (0, 70, 71)


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    """One that every test may ask."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSD_HOME", str(tmp_path_factory.mktemp("home")))
        add_causal("core")
        with remote_server("core") as server:
            assert server.model
            yield server


@pytest.fixture
def server(core):
    core.heard.clear()
    core.failures.clear()
    core.token, core.dialect, core.shift = "", "vllm", 0
    return core


@pytest.fixture
def waits(monkeypatch):
    """The seconds that are waited for, without waiting."""
    found = []
    monkeypatch.setattr(module.time, "sleep", found.append)
    return found


def named(text: str) -> int | None:
    spelled = [tiny_tokenizer().decode([token], skip_special_tokens=False) for token in range(VOCABULARY)]
    return spelled.index(text) if spelled.count(text) == 1 else None


def place(log_p: bytes) -> bytes:
    """A completion of a token with this log-probability."""
    told = b'{"tokens": ["token_id:9"], "token_logprobs": [%b], "top_logprobs": [{"token_id:9": %b}]}' % (log_p, log_p)
    return b'{"choices": [{"text": "a", "logprobs": %b}]}' % told


def asking(server, top=4, url=None) -> Client:
    return Client(Address(url or server.url, MODEL, "SSD_CORE_TOKEN", top), VOCABULARY, named)


def test_places_are_told_with_the_likeliest_tokens_in_every_dialect(server):
    answers = []
    for server.dialect in ("vllm", "llama.cpp"):
        answers.append(asking(server).complete(PROMPT, 5))
    assert answers[0] == answers[1]
    assert [len(guess.ids) for guess in answers[0].guesses] == [4] * 5
    assert all(guess.token == guess.ids[0] for guess in answers[0].guesses)
    assert answers[0].read == len(PROMPT)


def test_tokens_that_are_spelled_alike_are_not_taken_for_each_other(server):
    """Where only characters are told, a token that shares its own is left out, and the others stay."""
    exact = asking(server, 20).complete(PROMPT, 6)
    server.dialect = "sglang"
    spelled = asking(server, 20).complete(PROMPT, 6)
    shared = 0
    for one, other in zip(exact.guesses, spelled.guesses, strict=True):
        likely = dict(zip(one.ids, one.log_p, strict=True))
        assert dict(zip(other.ids, other.log_p, strict=True)).items() <= likely.items()
        assert other.token in (one.token, -1)
        shared += len(one.ids) - len(other.ids)
    assert shared > 0


def test_connections_are_kept_and_made_anew(server):
    client = asking(server)
    for _ in range(3):
        client.complete(PROMPT, 1)
    assert len(client._idle) == 1
    kept = client._idle[0]
    kept.sock.shutdown(2)  # as a server does with one that is idle
    client.complete(PROMPT, 1)
    assert client._idle[0] is not kept


def test_several_prompts_are_asked_at_once_and_answered_in_order(server):
    client = asking(server)
    prompts = [((0, 70 + place), 1 + place) for place in range(5)]
    at_once = list(client.complete_all(prompts))
    assert at_once == [client.complete(*one) for one in prompts]
    assert [len(one.guesses) for one in at_once] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("failure", "why"),
    [
        ((503, b'{"error": {"message": "Loading model."}}', {}), "answered with status 503: Loading model"),
        ((429, b"", {}), "answered with status 429"),
        (hang_up, "cannot be reached"),
        (lambda _: threading.Event().wait(0.5), "gave no answer within 0.2 seconds"),
    ],
)
def test_a_server_that_is_busy_or_away_is_asked_again_and_then_given_up(server, waits, monkeypatch, failure, why):
    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    server.failures = [failure] * 100
    with pytest.raises(RemoteFailed, match=f"{why}.*, 6 times in a row. Check the server") as caught:
        asking(server).complete(PROMPT, 2)
    assert caught.value.exit_code == 4
    assert len(server.asked) == len(WAITS) + 1
    assert tuple(waits) == WAITS
    server.failures = [failure] * len(WAITS)
    assert asking(server).complete(PROMPT, 2).guesses


@pytest.mark.parametrize(("asked", "waited"), [("7", 7.0), ("1e9", 60.0), ("soon", 0.5), ("-3", 0.5)])
def test_a_busy_server_says_how_long_to_wait(server, waits, asked, waited):
    server.failures = [(429, b"{}", {"Retry-After": asked})]
    assert asking(server).complete(PROMPT, 1).guesses
    assert waits == [waited]


def test_nobody_listens(waits):
    with pytest.raises(RemoteFailed, match=r"127.0.0.1:9 cannot be reached \(Connection refused\), 6 times"):
        asking(None, url="http://127.0.0.1:9/v1").complete(PROMPT, 1)


@pytest.mark.parametrize(
    ("status", "data", "said"),
    [
        (200, b"<html>Welcome</html>", "answered with something else than JSON. Check the address"),
        (200, b"[" * 100_000, "something else than JSON"),
        (200, b'{"choices": []}', "a completion that cannot be read"),
        (200, b'{"choices": [{"text": "a", "logprobs": {"tokens": ["a"], "top_logprobs": []}}]}', "cannot be read"),
        (200, b"null", "a completion that cannot be read"),
        (200, place(b"NaN"), "a completion that cannot be read"),
        (200, place(b"0.5"), "a completion that cannot be read"),
        (200, place(b"1e9"), "a completion that cannot be read"),
        (200, b'{"choices": [{"text": "a"}]}', "gave no log-probabilities for a token that it wrote"),
        (404, b'{"error": {"message": "no such model\\u001b[31m"}}', r"answered with status 404: no such model\[31m."),
        (302, b"", "answered with status 302. Check the address"),
        (400, b'{"message": "too long."}', "refused the call: too long. See docs/remote.md"),
    ],
)
def test_an_answer_that_is_none_is_not_asked_for_again(server, waits, status, data, said):
    server.failures = [(status, data, {})] * 2
    with pytest.raises(RemoteFailed, match=said):
        asking(server).complete(PROMPT, 1)
    assert not waits


def test_a_token_comes_from_the_environment_and_is_shown_nowhere(server, waits, monkeypatch):
    server.token = TOKEN
    with pytest.raises(RemoteFailed, match="needs a token, and the variable SSD_CORE_TOKEN is not set"):
        asking(server).complete(PROMPT, 1)
    monkeypatch.setenv("SSD_CORE_TOKEN", "sk-other")
    with pytest.raises(RemoteFailed, match="does not take the token in SSD_CORE_TOKEN"):
        asking(server).complete(PROMPT, 1)
    monkeypatch.setenv("SSD_CORE_TOKEN", f"{TOKEN}\n")
    assert asking(server).complete(PROMPT, 1).guesses
    server.failures = [(401, json.dumps({"error": {"message": f"Incorrect key: {TOKEN}"}}).encode(), {})]
    with pytest.raises(RemoteFailed, match="Incorrect key: ") as caught:
        asking(server).complete(PROMPT, 1)
    assert TOKEN not in str(caught.value)
    monkeypatch.setenv("SSD_CORE_TOKEN", f"{TOKEN}\r\nX-Evil: 1")
    with pytest.raises(RemoteFailed, match="is no token") as caught:
        asking(server).complete(PROMPT, 1)
    assert TOKEN not in str(caught.value)
    assert not waits


def test_a_token_that_the_vocabulary_lacks_is_no_token(server):
    server.shift = VOCABULARY
    with pytest.raises(RemoteFailed, match=f"told of a token [0-9]+, but the vocabulary has {VOCABULARY} tokens"):
        asking(server).complete(PROMPT, 1)


def test_a_token_that_is_not_told_ends_what_is_foretold(server):
    """llama.cpp tells nothing of a part of a character: then the first place alone is asked for."""
    complete, server.dialect = server.complete, "llama.cpp"

    def lacking(body):
        status, answer = complete(body)
        if body["max_tokens"] > 1:
            del answer["choices"][0]["logprobs"]["content"][1]
        return status, answer

    server.complete = lacking
    try:
        assert asking(server).complete(PROMPT, 4) == asking(server).complete(PROMPT, 1)
        assert [body["max_tokens"] for body in server.asked] == [4, 1, 1]
    finally:
        del server.complete
