"""What the endpoint answers is what the writer writes, to many at once, and to each its own."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
import torch

import ssdcli
from ssdcli.evaluation.code_length import CodeSettings, code_lengths
from ssdcli.evaluation.combinations import Combination
from ssdcli.evaluation.scored_text import ScoredText
from ssdcli.generation.selection import choose
from ssdcli.generation.writer import Writer
from ssdcli.text.messages import Message
from ssdcli.training.job import train_small
from ssdcli.training.settings import TrainSettings
from tests.serving.conftest import until
from tests.tiny import add_family
from tests.trainings import write_text

SAID = "Dear landlord, the boiler"


def test_a_completion_is_what_the_writer_writes(family, server):
    """The text, its end, what it took, and the seed that was drawn."""
    client = server.client()
    answer = client.completions.create(model="core", prompt=SAID, max_tokens=20, seed=3)
    alone = ssdcli.load("core").generate(SAID, max_tokens=20, seed=3, plain=True)
    assert answer.choices[0].text == alone.text
    assert answer.choices[0].finish_reason == {"end": "stop"}.get(alone.finish_reason, alone.finish_reason)
    assert answer.usage.completion_tokens == alone.tokens
    assert answer.usage.prompt_tokens > 1
    drawn = client.completions.create(model="core", prompt=SAID, max_tokens=20).choices[0]
    assert drawn.text == ssdcli.load("core").generate(SAID, max_tokens=20, seed=drawn.seed, plain=True).text


@pytest.mark.parametrize(
    ("model", "extra", "members", "rule"),
    [
        ("notes", {}, {"notes": None}, None),
        ("core+notes=0.6", {}, {"notes": 0.6}, None),
        ("core", {"with": ["notes=0.6"], "rule": "mix"}, {"notes": 0.6}, "mix"),
        ("core", {"with": {"notes": 0.6}, "rule": "average"}, {"notes": 0.6}, "average"),
    ],
)
def test_the_model_names_an_ensemble(family, server, model, extra, members, rule):
    answer = server.client().completions.create(model=model, prompt=SAID, max_tokens=12, seed=5, extra_body=extra)
    writer = ssdcli.load("core", members, blend=ssdcli.Blend(rule=rule))
    assert answer.choices[0].text == writer.generate(SAID, max_tokens=12, seed=5, plain=True).text


def test_a_private_context_is_read_as_elsewhere(family, server):
    """With one, another text is written, as by a writer that has it."""
    texts = [
        server.client()
        .completions.create(model="notes", prompt=SAID, max_tokens=24, seed=5, extra_body={"context": context})
        .choices[0]
        .text
        for context in ("", "The stairs are dark again.")
    ]
    assert texts[0] != texts[1]
    spec = choose("core", ["notes"], context=True)
    alone = spec.open().generate(SAID, context="The stairs are dark again.", max_tokens=24, seed=5, plain=True)
    assert texts[1] == alone.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_is_answered(family, server, stream):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": SAID}]}]
    given = {"model": "notes", "messages": turns, "max_completion_tokens": 20, "seed": 2, "stop": ["zz", "again and"]}
    if stream:
        chunks = list(
            server.client().chat.completions.create(**given, stream=True, stream_options={"include_usage": True})
        )
        assert chunks[0].choices[0].delta.role == "assistant"
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
        assert len([chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]) > 1
        assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]].count(None) == len(chunks) - 2
        assert chunks[-1].usage.completion_tokens > 0
    else:
        text = server.client().chat.completions.create(**given).choices[0].message.content
    messages = (Message("system", "Be brief."), Message("user", SAID))
    options = ssdcli.Options(max_tokens=20, seed=2, stop=("zz", "again and"))
    (alone,) = ssdcli.load("core", ["notes"]).generate_batch([ssdcli.Request(messages=messages)], options)
    assert text == alone.text


def test_several_prompts_and_several_texts_for_each(family, server):
    """They come in the order of OpenAI's indices, with the seeds of a batch."""
    prompts, options = ["Dear", "The boiler"], ssdcli.Options(max_tokens=10, seed=4, n=2, plain=True)
    answer = server.client().completions.create(model="core", prompt=prompts, max_tokens=10, seed=4, n=2)
    alone = ssdcli.load("core").generate_batch([ssdcli.Request(prompt) for prompt in prompts], options)
    assert [choice.text for choice in answer.choices] == [result.text for result in alone]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]


def test_many_clients_at_once_get_each_their_own(family, server):
    """Nothing is lost or mixed up, whatever is written together; the texts are those of the writer alone."""
    writers = {"core": ssdcli.load("core"), "notes": ssdcli.load("core", ["notes"])}
    asked = [(("core", "notes")[k % 2], f"Dear {k}", 3 + k % 3 * 6, k) for k in range(50)]
    client = server.client()

    def ask(one):
        model, prompt, longest, seed = one
        given = {"model": model, "prompt": prompt, "max_tokens": longest, "seed": seed}
        if seed % 4 < 2:
            return client.completions.create(**given).choices[0].text
        return "".join(chunk.choices[0].text for chunk in client.completions.create(**given, stream=True))

    with ThreadPoolExecutor(len(asked)) as pool:
        texts = list(pool.map(ask, asked))
    for (model, prompt, longest, seed), text in zip(asked, texts, strict=True):
        assert text == writers[model].generate(prompt, max_tokens=longest, seed=seed, plain=True).text
    assert server.worker.counts["texts"] == len(asked)
    assert server.worker.counts["batches"] < len(asked)


def test_a_core_is_loaded_once_for_several_ensembles(family, server):
    for model in ("core", "notes"):
        server.client().completions.create(model=model, prompt=SAID, max_tokens=1)
    (_, first), (_, second) = server.worker._ensembles._kept
    assert first.members[0].model is second.members[0].model


def test_a_client_that_leaves_frees_its_row(endless, serving):
    """Also one whose text shares a batch with another's, which is written on."""
    with serving(parallel=2) as server:
        given = {"model": "core", "prompt": SAID, "max_tokens": 10**6}
        first, second = (server.client().completions.create(**given, seed=k, stream=True, n=1) for k in (1, 2))
        next(first), next(second)
        first.close()
        until(lambda: server.worker.writing == 1)
        assert server.client().completions.create(model="core", prompt=SAID, max_tokens=4).choices[0].finish_reason
        assert next(second).choices[0].text is not None
        second.close()
        until(lambda: server.worker.writing == 0)
        impatient = server.client(timeout=1)
        with pytest.raises(openai.APITimeoutError):
            impatient.completions.create(**given)
        until(lambda: server.worker.writing == 0)


def test_a_client_that_reads_slowly_holds_up_no_other(family, server):
    given = {"model": "core", "prompt": SAID, "max_tokens": 100, "seed": 6}
    with server.client().completions.create(**given, stream=True) as unread:
        assert server.client().completions.create(model="core", prompt=SAID, max_tokens=4).choices
        until(lambda: server.worker.counts["texts"] == 2)
        text = "".join(chunk.choices[0].text for chunk in unread)
    assert text == ssdcli.load("core").generate(SAID, max_tokens=100, seed=6, plain=True).text


def test_whoever_waits_hears_of_the_end(endless, serving):
    """A stream ends with an error, and what has not begun is refused."""
    with serving(parallel=1) as server, ThreadPoolExecutor() as pool:
        given = {"model": "core", "prompt": SAID, "max_tokens": 10**6}
        stream = server.client().completions.create(**given, stream=True)
        next(stream)
        waiting = pool.submit(server.client().completions.create, **given)
        until(lambda: server.worker.queued == 1)
        server.worker.close()
        with pytest.raises(openai.APIError, match="the server is closing"):
            list(stream)
        with pytest.raises(openai.InternalServerError, match="the server is closing"):
            waiting.result()


def test_a_full_queue_answers_429(endless, serving):
    with serving(parallel=1, waiting=2) as server:
        given = {"model": "core", "prompt": SAID, "max_tokens": 10**6, "stream": True}
        writing = server.client().completions.create(**given)
        next(writing)
        with ThreadPoolExecutor() as pool:
            short = {"model": "core", "prompt": SAID, "max_tokens": 2}
            waiting = [pool.submit(server.client().completions.create, **short) for _ in range(2)]
            until(lambda: server.worker.queued == 2)
            with pytest.raises(openai.RateLimitError, match="the queue is full"):
                server.client().completions.create(**short)
            writing.close()
            assert all(one.result().usage.completion_tokens <= 2 for one in waiting)
        with pytest.raises(openai.BadRequestError, match="at most 2 texts"):
            server.client().completions.create(**short, n=3)


@pytest.mark.parametrize("model", ["core", "notes"])
def test_echoed_log_probabilities_are_exact(family, server, model):
    """They sum to the code length, and the likeliest token is told."""
    answer = server.client().completions.create(model=model, prompt=SAID, max_tokens=0, echo=True, logprobs=2)
    said, writer = answer.choices[0].logprobs, ssdcli.load("core", ["notes"] if model == "notes" else None)
    ids = writer.codec.encode(SAID)
    assert answer.choices[0].text == SAID == "".join(said.tokens)
    assert said.text_offset == [len("".join(said.tokens[:place])) for place in range(len(ids))]
    how = Combination(writer.ensemble.rule, tuple(one.schedule for one in writer.members))
    text = ScoredText([writer.members[0].model.format.opening, *ids], len(SAID))
    nats = code_lengths(writer.members, [text], [how], CodeSettings()).sums[0, 0]
    assert -sum(said.token_logprobs) == pytest.approx(nats, rel=1e-5)
    for token, log_p, top in zip(said.tokens, said.token_logprobs, said.top_logprobs, strict=True):
        assert top[token] == log_p <= max(top.values())
        assert 2 <= len(top) <= 3


def test_written_tokens_have_the_log_probabilities_that_an_echo_gives_them(family, server):
    """As ids, too; and an id that opens documents is what the rest follows."""
    client, writer = server.client(), ssdcli.load("core")
    given = {"model": "core", "max_tokens": 9, "seed": 8, "logprobs": 0}
    written = client.completions.create(**given, prompt=SAID).choices[0]
    assert "".join(written.logprobs.tokens) == written.text
    opening = writer.members[0].model.format.opening
    ids = [opening, *writer.codec.encode(SAID)]
    both = client.completions.create(**given, prompt=[ids], echo=True).choices[0]
    assert both.logprobs.token_logprobs[0] is None
    assert both.logprobs.token_logprobs[-len(written.logprobs.tokens) :] == written.logprobs.token_logprobs
    again = client.completions.create(model="core", prompt=SAID + written.text, max_tokens=0, echo=True, logprobs=0)
    found = again.choices[0].logprobs.token_logprobs[-len(written.logprobs.tokens) :]
    assert found == pytest.approx(written.logprobs.token_logprobs, abs=1e-4)


def test_a_conversation_has_log_probabilities(family, server):
    turns = [{"role": "user", "content": SAID}]
    given = {"model": "notes", "messages": turns, "max_tokens": 6, "seed": 1, "logprobs": True, "top_logprobs": 1}
    whole = server.client().chat.completions.create(**given).choices[0]
    streamed = list(server.client().chat.completions.create(**given, stream=True))
    tokens = [token for chunk in streamed if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content]
    assert [token.logprob for token in tokens] == [token.logprob for token in whole.logprobs.content]
    assert "".join(token.token for token in tokens) == whole.message.content
    assert all(math.exp(token.logprob) <= 1 and token.top_logprobs for token in tokens)


def test_written_tokens_have_the_likeliest_ones_beside_them(family, server):
    """Those that an echo has in the same places, by their characters or their ids; as many as there are."""
    client, writer = server.client(), ssdcli.load("core")
    given = {"model": "core", "max_tokens": 9, "seed": 8, "logprobs": 3, "prompt": SAID}
    spelled = client.completions.create(**given).choices[0].logprobs
    extra = {"return_tokens_as_token_ids": True}
    by_id = client.completions.create(**given, extra_body=extra).choices[0].logprobs
    assert by_id.token_logprobs == spelled.token_logprobs
    ids = [int(name.removeprefix("token_id:")) for name in by_id.tokens]
    text = [writer.members[0].model.format.opening, *writer.codec.encode(SAID), *ids]
    given |= {"prompt": [text], "max_tokens": 0, "echo": True}
    echoed = client.completions.create(**given, extra_body=extra).choices[0].logprobs
    assert echoed.tokens == [f"token_id:{id}" for id in text]
    for written, known in zip(by_id.top_logprobs, echoed.top_logprobs[-len(ids) :], strict=True):
        assert written == pytest.approx(known, abs=1e-4)
        assert 3 <= len(written) <= 4
    every = client.completions.create(model="core", prompt=SAID, max_tokens=1, logprobs=1000, extra_body=extra)
    assert sum(map(math.exp, every.choices[0].logprobs.top_logprobs[0].values())) == pytest.approx(1, abs=1e-5)


def test_ids_are_read_as_they_are(family, server):
    """Also those that no text would be encoded to, and without an opening of their own."""
    client, extra = server.client(), {"return_tokens_as_token_ids": True}
    odd = [72, 82, 81]  # single characters of a word that is one token
    given = {"model": "core", "max_tokens": 1, "logprobs": 5, "extra_body": extra}
    asked = {
        "as they are": odd,
        "text": client.completions.create(model="core", prompt=[odd], max_tokens=0, echo=True).choices[0].text,
        "after the opening": [0, *odd],
    }
    answers = {how: client.completions.create(**given, prompt=prompt, seed=1) for how, prompt in asked.items()}
    assert [answer.usage.prompt_tokens for answer in answers.values()][::2] == [3, 4]
    states = ssdcli.load("core").members[0].model.denoiser
    for ids, how in ((odd, "as they are"), ([0, *odd], "after the opening")):
        predicted = states.log_p(states.states(torch.tensor([ids]))[0, -1]).topk(5)
        told = answers[how].choices[0].logprobs.top_logprobs[0]
        for id, log_p in zip(predicted.indices.tolist(), predicted.values.tolist(), strict=True):
            assert told[f"token_id:{id}"] == pytest.approx(log_p, abs=1e-4)


def test_an_end_of_text_may_be_written_over(family, server):
    """As vLLM and others name it; otherwise it ends the text."""
    client, given = server.client(), {"model": "core", "prompt": SAID, "max_tokens": 60, "temperature": 2.0}
    ends = [client.completions.create(**given, seed=seed).choices[0].finish_reason for seed in range(12)]
    seed = ends.index("stop")
    extra = {"ignore_eos": True, "return_tokens_as_token_ids": True}
    whole = client.completions.create(**given, seed=seed, logprobs=0, extra_body=extra).choices[0]
    assert (whole.finish_reason, len(whole.logprobs.tokens)) == ("length", 60)
    assert "token_id:0" in whole.logprobs.tokens


def test_no_exact_log_probabilities_are_made_up(server):
    """A simplex model has a bound alone."""
    add_family("simplex")
    with pytest.raises(openai.BadRequestError, match="no exact log-probabilities"):
        server.client().completions.create(model="big", prompt=SAID, max_tokens=0, echo=True, logprobs=1)


def test_a_small_model_that_reads_the_core_may_come_while_that_writes(endless, server, tmp_path):
    """What the core shows to it does not change amid a text."""
    write_text(tmp_path / "notes.txt")
    train_small(TrainSettings((str(tmp_path / "notes.txt"),), core="core", name="side", steps=2, batch_tokens=128))
    given = {"model": "core", "prompt": SAID, "max_tokens": 300, "seed": 1, "extra_body": {"draft": 0}}
    whole = server.client().completions.create(**given).choices[0].text
    stream = server.client().completions.create(**given, stream=True)
    begun = next(iter(stream)).choices[0].text
    assert server.client().completions.create(model="side", prompt=SAID, max_tokens=5).choices[0].text
    assert begun + "".join(chunk.choices[0].text for chunk in stream) == whole


def test_one_prompt_that_cannot_be_written_spoils_no_other(family, serving, monkeypatch):
    """A batch that fails before it has begun is written text by text."""
    prompts = Writer._prompts

    def failing(self, row, encoder):
        if row.request.prompt == "bad":
            raise RuntimeError("secret text")
        return prompts(self, row, encoder)

    monkeypatch.setattr(Writer, "_prompts", failing)
    with serving() as server, ThreadPoolExecutor() as pool:
        given = {"model": "core", "max_tokens": 5, "seed": 1}
        answers = [pool.submit(server.client().completions.create, **given, prompt=p) for p in ("good", "bad", "good")]
        assert answers[0].result().choices[0].text == answers[2].result().choices[0].text
        with pytest.raises(openai.InternalServerError) as caught:
            answers[1].result()
        assert "secret" not in str(caught.value)
        assert "RuntimeError" in str(caught.value)
