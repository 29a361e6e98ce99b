"""Text beside a core on another machine: what is written, and what that machine sees of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ssdcli.api import Blend, Options, Request, choose, load
from ssdcli.errors import RemoteFailed, UsageError
from ssdcli.models.remote import client
from ssdcli.models.remote.address import Address
from ssdcli.registry.store import Registry
from tests.memories import CORE, add_notes
from tests.pulled import add_causal
from tests.remote_server import MODEL, RemoteServer, hang_up, remote_server
from tests.remote_server import pull as pull_from
from tests.tiny import BLOCK, CONTEXT, VOCABULARY, tiny_tokenizer

OPTIONS = Options(max_tokens=2 * BLOCK + 3, seed=3, plain=True)
PROMPT = "Dear landlord, the boiler"
PRIVATE = "The safe opens with 7391."
BODY = {"model", "prompt", "max_tokens", "temperature", "logprobs", "ignore_eos", "return_tokens_as_token_ids"}
HEADERS = {"Host", "Accept-Encoding", "Content-Length", "Content-Type", "User-Agent"}


@pytest.fixture(autouse=True)
def notes(monkeypatch):
    """A small model with a memory, made for the causal core that a server runs; nobody waits between tries."""
    add_notes()
    monkeypatch.setattr(client.time, "sleep", lambda _: None)


@pytest.fixture
def server():
    with remote_server(CORE, most=VOCABULARY) as running:
        yield running


@pytest.fixture
def whole(monkeypatch):
    """All of the vocabulary is asked for."""
    monkeypatch.setattr("ssdcli.hub.remote._ALTERNATIVES", (VOCABULARY,))


def pull(server: RemoteServer) -> None:
    """Register the server's core, and forget what that took."""
    pull_from(server.url, CORE)
    server.heard.clear()


def ids_of(text: str) -> list[int]:
    ids: list[int] = tiny_tokenizer().encode(text).ids
    return ids


@pytest.mark.parametrize(
    ("dialect", "members", "changes"),
    [
        ("vllm", None, {}),
        ("llama.cpp", ["notes"], {"n": 2}),
        ("vllm", {"notes": 0.3, "notes:memory": 0.3}, {"temperature": 0.0}),
        ("vllm", ["notes"], {"temperature": 0.7, "repetition_penalty": 1.3, "no_repeat": 3, "stop": ("a",)}),
        ("vllm", ["notes:memory"], {"max_tokens": CONTEXT + 9}),  # so that the window slides
        ("vllm", ["notes"], {"draft": 0}),
    ],
)
def test_with_all_of_the_vocabulary_the_text_is_that_of_the_core_here(server, whole, dialect, members, changes):
    """Alone, as one of a batch, and as one of n."""
    server.dialect = dialect
    pull(server)
    requests = [Request(prompt) for prompt in (PROMPT, "")]
    options = replace(OPTIONS, **changes)
    here, there = (load(core, members).generate_batch(requests, options) for core in (CORE, "far"))
    assert [(one.text, one.seed, one.finish_reason) for one in there] == [
        (one.text, one.seed, one.finish_reason) for one in here
    ]
    assert server.asked
    assert load("far", members).generate(PROMPT, replace(options, n=1)).text == here[0].text


@pytest.mark.parametrize("rule", ["mix", "average", "gated", "contrast"])
def test_members_combine_by_any_rule_as_beside_the_core_here(server, whole, rule):
    pull(server)
    texts = [
        load(core, ["notes"], blend=Blend(rule=rule)).generate(PROMPT, OPTIONS, context=PRIVATE).text
        for core in (CORE, "far")
    ]
    assert texts[0] == texts[1]


def test_one_call_serves_as_long_as_the_text_is_what_was_foretold(whole):
    """Of a core that writes no bytes that are no characters, which would be replaced here."""
    letters = {token for token in range(VOCABULARY) if tiny_tokenizer().decode([token]).isascii()} - {0, 1, 2}
    add_causal(CORE, suppressed=tuple({*range(VOCABULARY)} - letters))
    with remote_server(CORE, most=VOCABULARY) as server:
        pull(server)
        result = load("far").generate(PROMPT, OPTIONS, temperature=0.0, max_tokens=24)
        assert (len(server.asked), result.tokens) == (2, 24)
        assert result.drafted == result.accepted > 12
        assert server.asked[0]["max_tokens"] < server.asked[1]["max_tokens"]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_goes_out_is_the_prompt_and_a_beginning_of_the_text(server, temperature):
    """Of three texts at once, one of which stops early, with a private context, a memory, weights and a rule."""
    server.most = 20
    pull(server)
    writer = choose("far", {"notes": 0.3, "notes:memory": 0.4}, context=True).open()
    options = replace(OPTIONS, temperature=temperature, explain=True, max_tokens=4 * BLOCK)
    requests = [Request(prompt, PRIVATE) for prompt in (PROMPT, "the stairs", "Dear")]
    free = writer.generate_batch(requests, options)
    stop = (free[1].text[3:6],)
    server.heard.clear()
    results = writer.generate_batch(requests, replace(options, stop=stop))
    opening = writer.members[0].model.format.opening
    texts = [[opening, *ids_of(one.prompt), *(token.token for token in one.explain)] for one in results]
    lengths = [1 + len(ids_of(one.prompt)) for one in results]
    prompts = [body["prompt"] for body in server.asked]
    for prompt in prompts:
        beginnings = [text[: len(prompt)] for text, least in zip(texts, lengths, strict=True) if len(prompt) >= least]
        assert prompt in beginnings
    assert len(prompts) > len(results)
    assert results[1].tokens < options.max_tokens
    for method, path, headers, body in server.heard:
        assert (method, path) == ("POST", "/v1/completions")
        assert set(headers) <= HEADERS
        assert set(json.loads(body)) == BODY
        sent = json.dumps(headers) + body.decode()
        assert not [word for word in ("notes", "far", "gated", "0.3", "7391", "seed") if word in sent]
        assert all(isinstance(id, int) for id in json.loads(body)["prompt"])
    assert {body["model"] for body in server.asked} == {MODEL}


def test_a_private_context_is_looked_up_and_never_sent(server):
    """By a memory of it; the core itself, which would have to be sent it, does not read it."""
    pull(server)
    spec = choose("far", None, context=True)
    assert [(one.name, one.role) for one in spec.members] == [("far", "core"), ("context:memory", "memory")]
    result = spec.open().generate("The safe", OPTIONS, context=PRIVATE, explain=True)
    assert any(token.by["context:memory"] > 0 for token in result.explain)
    text = [0, *ids_of("The safe"), *(token.token for token in result.explain)]
    assert all(body["prompt"] == text[: len(body["prompt"])] for body in server.asked)
    with pytest.raises(UsageError, match="would be sent the private context"):
        choose("far", ["context"], context=True)


def test_gaps_are_filled_without_sending_fills_that_are_not_chosen(server):
    pull(server)
    result = load("far", ["notes"]).generate("The ____ is cold.", OPTIONS, infill=True, gap=6, plain=None)
    assert result.text.endswith("is cold.")
    known = [0, *ids_of("The")]
    for prompt in (body["prompt"] for body in server.asked):
        assert prompt[: len(known)] == known
        assert tiny_tokenizer().decode(prompt[len(known) :]).rstrip("\ufffd") in result.text


@pytest.mark.parametrize(
    ("blend", "changes", "obstacle"),
    [
        (Blend(schedule="leaning"), {}, "the schedule changes"),
        (Blend(), {"sampler": "top-k"}, "only text that is written from the left"),
    ],
)
def test_text_that_is_not_written_from_the_left_is_refused_before_anything_is_sent(server, blend, changes, obstacle):
    pull(server)
    with pytest.raises(UsageError, match=obstacle):
        load("far", ["notes"], blend=blend).generate(PROMPT, OPTIONS, **changes)
    assert not server.heard


def test_fewer_likely_tokens_are_enough_to_write(server):
    """What others are told of is shared out, and the text stays close."""
    server.most = 5
    pull(server)
    assert Address.of(Registry().find("far").folder).top == 5
    greedy = replace(OPTIONS, temperature=0.0)
    assert load("far").generate(PROMPT, greedy).text == load(CORE).generate(PROMPT, greedy).text
    assert load("far", ["notes"]).generate(PROMPT, OPTIONS).tokens


@pytest.mark.parametrize("failure", [(503, b"", {}), hang_up])
def test_what_was_written_before_a_server_went_away_is_not_lost(server, whole, failure):
    """Each of its tokens is told before the error, which says what to do."""
    pull(server)
    expected = load(CORE, ["notes"]).generate(PROMPT, OPTIONS).text
    written = []

    def write() -> None:
        for piece in load("far", ["notes"]).stream(PROMPT, OPTIONS):
            written.append(piece.text)
            server.failures = server.failures or [failure] * 100

    with pytest.raises(RemoteFailed, match=r"6 times in a row\. Check the server and the network") as caught:
        write()
    assert caught.value.exit_code == 4
    sent = server.asked[-1]["prompt"][1 + len(ids_of(PROMPT)) :]
    assert "".join(written)
    assert expected.startswith("".join(written))
    assert tiny_tokenizer().decode(sent).startswith("".join(written))
    assert len(tiny_tokenizer().decode(sent)) - len("".join(written)) <= 1  # at most half a character


def test_a_server_that_was_away_for_a_while_changes_nothing(server, whole):
    pull(server)
    expected = load(CORE, ["notes"]).generate(PROMPT, OPTIONS).text
    server.failures = [(502, b"", {}), (429, b"{}", {"Retry-After": "7"}), hang_up]
    assert load("far", ["notes"]).generate(PROMPT, OPTIONS).text == expected


def test_a_server_that_tells_less_than_it_did_is_not_believed(server):
    server.dialect = "llama.cpp"  # which tells what it likes
    pull(server)
    server.most = 3
    with pytest.raises(RemoteFailed, match="told 3 of the likeliest tokens, not 100 as when it was pulled"):
        load("far").generate(PROMPT, OPTIONS)


def test_offline_only_a_server_on_this_machine_is_asked(server, monkeypatch):
    pull(server)
    assert load("far").generate(PROMPT, OPTIONS).tokens
    path = Path(Registry().find("far").folder) / "config.json"
    path.write_text(path.read_text().replace("127.0.0.1", "core.example"))
    with pytest.raises(RemoteFailed, match=r"runs at core\.example:[0-9]+, and ssd is offline"):
        load("far")
