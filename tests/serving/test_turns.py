"""What happens to others while a long prompt is read."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from ssdcli.engine import causal
from ssdcli.models.backbones.core_backbone import CoreBackbone
from tests.pulled import add_causal
from tests.serving.conftest import until

LONG = [7 + place % 30 for place in range(100)]


@pytest.fixture
def chunks(monkeypatch):
    """Makes reading slow, four tokens at a time, by a core that is registered; a list that grows with each chunk."""
    add_causal("core", context=128)
    read, extend = [], CoreBackbone.extend

    def slow(self, *given):
        read.append(1)
        time.sleep(0.05)
        return extend(self, *given)

    monkeypatch.setattr(causal, "_CHUNK", 4)
    monkeypatch.setattr(CoreBackbone, "extend", slow)
    return read


def test_a_client_that_leaves_ends_the_reading_of_its_prompt(serving, chunks):
    with serving(parallel=1) as server:
        server.client().completions.create(model="core", prompt=LONG[:3], max_tokens=4)  # it is loaded
        chunks.clear()
        with pytest.raises(openai.APITimeoutError):
            server.client(timeout=0.3).completions.create(model="core", prompt=LONG, max_tokens=4)
        until(lambda: server.worker.writing == 0)
        assert 0 < len(chunks) < 20
        assert server.client().completions.create(model="core", prompt=LONG[:3], max_tokens=4).choices


def test_other_texts_are_written_while_a_long_prompt_is_read(serving, chunks):
    with serving() as server, ThreadPoolExecutor() as pool:
        given = {"model": "core", "max_tokens": 6, "seed": 1}
        long = pool.submit(server.client().completions.create, prompt=LONG, **given)
        until(lambda: len(chunks) > 2)
        short = server.client().completions.create(prompt=LONG[:3], **given)
        assert not long.done()
        found = long.result().choices[0].text, short.choices[0].text
    with serving() as server:
        alone = [server.client().completions.create(prompt=ids, **given).choices[0].text for ids in (LONG, LONG[:3])]
    assert list(found) == alone


def test_a_text_is_written_while_two_long_prompts_are_read(serving, chunks):
    with serving() as server, ThreadPoolExecutor() as pool:
        given, client = {"model": "core", "max_tokens": 6, "seed": 1}, server.client()
        first = pool.submit(client.completions.create, prompt=LONG, **given)
        until(lambda: len(chunks) > 2)
        second = pool.submit(client.completions.create, prompt=LONG[::-1], **given)
        until(lambda: server.worker.writing == 2)
        assert client.completions.create(prompt=LONG[:3], **given).choices
        assert not first.done()
        assert not second.done()
        assert first.result().choices
        assert second.result().choices


def test_only_so_many_overtake_a_prompt(serving, chunks):
    """It is read in the end, however many come after it."""
    with serving(parallel=2) as server, ThreadPoolExecutor(20) as pool:
        given, client = {"model": "core", "max_tokens": 1, "seed": 1}, server.client()
        long = pool.submit(client.completions.create, prompt=LONG, **given)
        until(lambda: len(chunks) > 2)
        others = [pool.submit(client.completions.create, prompt=LONG[:3], **given) for _ in range(12)]
        assert long.result().choices
        assert not all(other.done() for other in others)
        assert all(other.result().choices for other in others)


def test_whoever_waits_for_a_prompt_to_be_read_hears_of_the_end(serving, chunks):
    with ThreadPoolExecutor() as pool:
        with serving() as server:
            client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=60)
            long = pool.submit(client.completions.create, model="core", prompt=LONG, max_tokens=4)
            until(lambda: len(chunks) > 2)
        with pytest.raises(openai.InternalServerError, match="closing"):
            long.result()
    assert len(chunks) < 20
