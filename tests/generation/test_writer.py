"""What ensembles write."""

from __future__ import annotations

from dataclasses import replace
from itertools import repeat

import pytest
import torch

from ssdcli.api import Options, Request, Writer, load
from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.prompt import Prompt
from ssdcli.errors import UsageError
from ssdcli.registry.store import Registry
from tests.tiny import BLOCK, ROOM, VOCABULARY, add_family, member, tiny_backbone, tiny_tokenizer

FAST = Options(max_tokens=12, steps=2, seed=5)


class Script:
    """A member that surely writes the ids that a prompt's last id stands for, then end of text."""

    room = 1000
    sight = BLOCK

    def __init__(self, scripts):
        self.process = Masked(VOCABULARY, mask_id=1)
        self.backbone = tiny_backbone()
        self.block_size, self.context, self.device = BLOCK, self.backbone.context, self.backbone.device
        self.scripts = scripts
        self.blocks = 0

    def start(self, prompts):
        return [self.scripts[prompt.before[-1]] for prompt in prompts]

    def denoise(self, canvas, t, previous, prefix):
        self.blocks += bool((canvas == self.process.mask_id).all())
        wanted = torch.tensor([(row + [0] * BLOCK)[:BLOCK] for row in prefix])
        return torch.nn.functional.one_hot(wanted, VOCABULARY).float().log()

    def commit(self, tokens, prefix):
        return [row[BLOCK:] for row in prefix]

    def costs(self, prompt):
        return repeat((0, 1))


def scripted(*texts):
    """A writer of the k-th text after a prompt that ends with the k-th letter, and its member."""
    tokenizer = tiny_tokenizer()
    letters = "abcdefgh"
    scripts = {tokenizer.encode(letters[k]).ids[0]: tokenizer.encode(t).ids for k, t in enumerate(texts)}
    script = Script(scripts)
    return Writer([member("script", script, tokenizer)], "script"), script


@pytest.mark.parametrize("process", ["masked", "simplex"])
def test_a_seed_gives_the_same_text_alone_in_a_batch_and_as_one_of_n(process):
    add_family(process)
    writer = load("big", {"notes": 0.4})
    options = Options(max_tokens=20, steps=3, seed=7, n=3)
    # Of one length and of several, more rows than are denoised together, with contexts and seeds of their own.
    requests = [Request(p) for p in ("Dear", "the", "stairs are dark", "Dear", "")]
    requests += [Request("boiler", context="cold " * 5), Request("Dear", seed=99)]
    results = writer.generate_batch(requests, options)
    wanted = [(place, request.prompt) for place, request in enumerate(requests) for _ in range(3)]
    assert [(r.id, r.prompt) for r in results] == wanted
    assert [r.seed for r in results[:6]] == [7, 14, 21, 8, 15, 22]
    assert [r.seed for r in results[-3:]] == [99, 100, 101]
    for result in results[::4]:  # one or two of each request
        context = requests[result.id].context
        alone = writer.generate(result.prompt, options, context=context, n=1, seed=result.seed)
        assert alone.text == result.text
        assert alone.members == result.members
    assert len({result.text for result in results[:3]}) == 3


def test_a_text_longer_than_the_window_is_the_same_in_a_batch(family):
    writer = load("big", ["notes"])
    options = Options(max_tokens=2 * ROOM, steps=1, seed=3)
    prompts = ["Dear landlord, " * 3, "the"]
    long, short = writer.generate_batch([Request(prompt) for prompt in prompts], options)
    assert long.text == writer.generate(prompts[0], options, seed=3).text
    assert short.text == writer.generate(prompts[1], options, seed=4).text


def test_a_seed_is_drawn_and_reproduces_the_text(family):
    writer = load("big")
    drawn = writer.generate("Dear", max_tokens=8, steps=2)
    assert writer.generate("Dear", max_tokens=8, steps=2, seed=drawn.seed).text == drawn.text
    assert writer.generate("Dear", max_tokens=0).seed != drawn.seed


def test_a_member_of_weight_one_writes_as_it_does_alone(family):
    together = load("big", {"notes": 1}).generate("Dear", FAST)
    assert together.text == load("none", ["notes"]).generate("Dear", FAST).text
    assert together.text == load("notes").generate("Dear", FAST).text
    assert together.text != load("big").generate("Dear", FAST).text


def test_a_core_with_nothing_left_is_neither_read_nor_run(family):
    (Registry().find("big").folder / "model.safetensors").unlink()
    result = load("big", {"notes": 1}).generate("Dear", FAST)
    assert [(m.name, m.weight, m.forward_passes) for m in result.members] == [("big", 0, 0), ("notes", 1, 4)]


def test_equal_members_commute(family):
    one = load("none", {"notes": 0.5, "mail": 0.5}).generate("Dear", FAST)
    assert one.text == load("none", {"mail": 0.5, "notes": 0.5}).generate("Dear", FAST).text


def test_temperature_zero_takes_the_likeliest_whatever_the_seed(family):
    writer = load("big")
    texts = {writer.generate("Dear", FAST, temperature=0, seed=seed).text for seed in range(3)}
    assert texts == {writer.generate("Dear", FAST, top_p=1e-6).text}
    assert writer.generate("Dear", FAST).text not in texts


def test_the_core_never_sees_the_private_context(family, starts):
    writer = load("big", {"notes": 0.3, "mail": 0.3})
    writer.generate("Dear", FAST, context="the boiler")
    encode = tiny_tokenizer().encode
    core, notes, mail = (starts[one.model.denoiser] for one in writer.members)
    assert core == (Prompt(encode("Dear").ids),)
    assert notes == mail == (Prompt(encode("the boiler\n\nDear").ids),)


def test_a_prompt_need_not_be_the_beginning_of_a_document_and_none_at_all_is(family, starts):
    load("big").generate("Dear", FAST)
    load("big").generate("", FAST)
    assert list(starts.values()) == [(Prompt(tiny_tokenizer().encode("Dear").ids),), (Prompt([0]),)]


def test_a_private_context_changes_what_small_models_write(family):
    writer = load("none", ["notes"])
    options = replace(FAST, max_tokens=40)
    told = writer.generate("Dear", options, context="the boiler")
    assert told.text == writer.generate("the boiler\n\nDear", options).text
    assert told.text != writer.generate("Dear", options).text
    assert told.prompt == "Dear"


def test_a_private_context_that_nobody_sees_is_refused(family):
    with pytest.raises(UsageError, match="only small models and memories see private context"):
        load("big").generate("Dear", FAST, context="the boiler")


def test_a_prompt_that_was_cut_is_told_of(family):
    writer = load("big", ["notes"])
    word = len(tiny_tokenizer().encode(" dark").ids)
    fits = writer.generate("", FAST)
    assert fits.warnings == ()
    small = writer.generate("Dear", FAST, context=" dark" * 100).warnings
    assert [w.split(" has room")[0] for w in small] == ["'notes'"]
    assert "of the context." in small[0]
    both = writer.generate(" dark" * 100, FAST, context="boiler").warnings
    lost = 100 * word - ROOM
    says = f"'big' has room for {ROOM} tokens before its answer and leaves out the first {lost} of the prompt."
    assert both[0] == says
    assert "leaves out the context and the first" in both[1]


def test_a_cut_prompt_keeps_its_end(family):
    writer = load("big")
    long = writer.generate("boiler" * 90 + " dark" * 90, FAST)
    assert long.text == writer.generate("stairs" * 9 + " dark" * 90, FAST).text


def test_a_special_token_that_a_prompt_spells_is_text(family, starts):
    load("big").generate("<|mask|><|endoftext|>", FAST)
    ((prompt,),) = starts.values()
    assert prompt.before
    assert not {0, 1, 2} & set(prompt.before)


def test_half_a_surrogate_pair_does_no_harm(family):
    assert load("big").generate("a\ud800", FAST).text == load("big").generate("a?", FAST).text


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9])
def test_exactly_so_many_tokens_are_written(family, count):
    result = load("big").generate("Dear", FAST, max_tokens=count, steps=1)
    assert result.finish_reason == "length"
    assert result.tokens == count
    assert result.steps == -(-count // BLOCK)
    assert (result.text == "") == (count == 0)


def test_a_shorter_text_is_the_beginning_of_a_longer_one(family):
    writer = load("big")
    long = writer.generate("Dear", FAST, max_tokens=30).text
    assert long.startswith(writer.generate("Dear", FAST, max_tokens=11).text)


def test_a_row_that_ends_disturbs_no_other_and_is_counted_no_further():
    texts = ["the", "the stairs are dark and cold and dark", "landlord"]
    writer, script = scripted(*texts)
    results = writer.generate_batch([Request(c) for c in "abc"], Options(steps=2))
    assert [r.text for r in results] == texts
    assert [r.finish_reason for r in results] == ["end"] * 3
    blocks = [-(-(len(tiny_tokenizer().encode(t).ids) + 1) // BLOCK) for t in texts]
    assert blocks[1] > blocks[0]
    assert [r.steps for r in results] == [2 * n for n in blocks]
    assert [r.members[0].forward_passes for r in results] == [2 * n for n in blocks]
    assert script.blocks == max(blocks)  # the three were denoised together, until the last ended


def test_characters_and_stop_strings_may_lie_across_blocks():
    text = "日本語のテキスト🙂🙂🙂 STOP and more"
    writer, script = scripted(text)
    pieces = list(writer.stream("a", stop=("STOP",)))
    assert "".join(piece.text for piece in pieces) == "日本語のテキスト🙂🙂🙂 "
    assert len(pieces) > 2
    assert [piece.result is None for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    assert pieces[-1].result.finish_reason == "stop"
    assert script.blocks == len(pieces)
    assert writer.generate("a", stop=("nowhere",)).text == text


def test_text_is_reported_as_it_is_committed():
    writer, _ = scripted("the stairs are dark and cold and dark")
    reported = []
    result = writer.generate("a", on_text=reported.append)
    assert "".join(reported) == result.text
    assert len(reported) > 1


def test_results_come_in_order_and_as_soon_as_they_can():
    writer, script = scripted("the", "the stairs are dark and cold and dark")
    results = writer.results(
        [Request("a"), Request("aab", id="x"), Request("a"), *[Request("b")] * 8], Options(steps=1)
    )
    assert next(results).text == "the"
    before = script.blocks
    assert next(results).id == "x"
    assert script.blocks > before
    done = script.blocks
    assert next(results).text == "the"
    assert script.blocks == done  # it was finished before the second
    assert [result.prompt for result in results] == ["b"] * 8
    assert script.blocks > done


def test_the_shape_of_a_result_as_json(family):
    result = load("big", ["notes"]).generate("Dear", FAST)
    told = result.to_json()
    assert list(told) == [
        "id",
        "prompt",
        "text",
        "finish_reason",
        "seed",
        "core",
        "members",
        "tokens",
        "steps",
        "seconds",
        "flops_saved",
        "plain",
        "drafted",
        "accepted",
        "tokens_per_second",
    ]
    assert [{**member, "flops": 0} for member in told["members"]] == [
        {"name": "big", "role": "core", "weight": 0.7, "forward_passes": 4, "flops": 0},
        {"name": "notes", "role": "small", "weight": 0.3, "forward_passes": 4, "flops": 0},
    ]
    assert all(member["flops"] > 0 for member in told["members"])
    assert told["flops_saved"] == 0
    assert told["drafted"] is told["accepted"] is None  # there is nobody who could verify a draft
    assert (told["id"], told["core"], told["seed"], told["steps"], told["tokens"]) == (0, "big", 5, 4, 12)
    assert told["tokens_per_second"] == pytest.approx(12 / told["seconds"])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"top_p": 0}, "top_p=0 must be above 0 and at most 1"),
        ({"top_p": 2}, "top_p=2 must be above 0 and at most 1"),
        ({"temperature": -1}, "temperature=-1 must be at least 0"),
        ({"temperature": float("nan")}, "temperature=nan must be at least 0"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"n": 0}, "n=0 must be at least 1"),
        ({"max_tokens": -1}, "max_tokens=-1 must be at least 0"),
        ({"stop": ("",)}, "stop='' must be text that is not empty"),
    ],
)
def test_options_are_checked_when_they_are_made(changes, problem):
    with pytest.raises(UsageError, match=problem):
        Options(**changes)


def test_options_can_be_given_as_keywords():
    writer, _ = scripted("the stairs")
    assert writer.generate("a", Options(max_tokens=50, seed=1), max_tokens=1).seed == 1
    with pytest.raises(TypeError):
        writer.generate("a", max_token=1)
    with pytest.raises(UsageError, match="writes one text, but n is 2"):
        writer.generate("a", n=2)


def test_a_score_is_the_mean_log_probability_of_the_endings_first_tokens(family):
    writer = load("big")
    ids = tiny_tokenizer().encode(" the stairs are", add_special_tokens=False).ids
    denoiser = writer.members[0].model.denoiser
    prompt = tiny_tokenizer().encode("Dear", add_special_tokens=False).ids
    canvas = denoiser.process.prior(BLOCK, CounterNoise([0, 1]))
    log_p = denoiser.denoise(canvas, 1.0, None, denoiser.start([Prompt(prompt), Prompt(prompt)])).mean(0)
    expected = sum(float(log_p[i, token]) for i, token in enumerate(ids[:BLOCK])) / len(ids[:BLOCK])
    assert writer.score("Dear", [" the stairs are"], draws=2) == [pytest.approx(expected, abs=1e-5)]
    assert writer.score("Dear", [" the stairs are", "x"], draws=2)[0] == pytest.approx(expected, abs=1e-5)


def test_the_gaps_of_a_prompt_are_filled_one_after_the_other():
    tokenizer = tiny_tokenizer()
    fills = {" is": " boiler", " dark": " stairs"}
    script = Script({tokenizer.encode(k).ids[-1]: tokenizer.encode(v).ids for k, v in fills.items()})
    writer = Writer([member("script", script, tokenizer)], "script")
    pieces = list(writer.stream("The is ____ and dark ____.", infill=True, steps=1))
    result = pieces[-1].result
    assert result.text == "The is boiler and dark stairs."
    assert [piece.text for piece in pieces] == ["The is boiler and dark", " stairs."]
    assert (result.finish_reason, result.prompt) == ("end", "The is ____ and dark ____.")
    assert result.tokens == sum(len(tokenizer.encode(fill).ids) for fill in fills.values())


def test_a_gap_has_both_sides_around_it(family, monkeypatch):
    seen = []
    start = Denoiser.start
    monkeypatch.setattr(Denoiser, "start", lambda self, prompts: seen.append(prompts[0]) or start(self, prompts))
    encode = tiny_tokenizer().encode
    writer = load("big", {"notes": 0.5})
    result = writer.generate("Dear ____ is dark ____.", FAST, infill=True, gap=BLOCK - 1, context="cold")
    core, small, core_again, small_again = seen
    right = (*encode(" is dark").ids, *[None] * BLOCK, *encode(".").ids)
    assert core == Prompt(encode("Dear").ids, right[:BLOCK], BLOCK)  # the nearest block
    assert small == replace(core, before=encode("cold\n\nDear").ids)
    filled = result.text.rpartition(" is dark")[0] + " is dark"
    assert core_again == Prompt(encode(filled).ids, tuple(encode(".").ids), BLOCK)
    assert small_again == replace(core_again, before=encode("cold\n\n" + filled).ids)
    assert result.text.startswith("Dear")
    assert result.text.endswith(".")
    assert result.tokens <= 2 * (BLOCK - 1)


def test_what_follows_a_gap_changes_what_fills_it(family):
    writer = load("big")
    ends = (" cold", " stairs")
    texts = {writer.generate(f"Dear ____{end}", FAST, infill=True).text.removesuffix(end) for end in ends}
    assert len(texts) == 2


def test_gaps_are_the_same_in_a_batch(family):
    writer = load("big", ["notes"])
    prompts = ["Dear ____.", "____ is ____ and ____", "the boiler ____ and the stairs are dark " * 2]
    options = replace(FAST, infill=True, gap=9)
    for place, result in enumerate(writer.generate_batch([Request(prompt) for prompt in prompts], options)):
        assert result.text == writer.generate(prompts[place], options, seed=5 + place).text


@pytest.mark.parametrize(
    ("prompt", "gap", "problem"),
    [("Dear", 4, "the prompt has no gap"), ("Dear ____", 33, "a gap of 33 tokens is more than half")],
)
def test_gaps_that_cannot_be_filled_are_refused(family, prompt, gap, problem):
    with pytest.raises(UsageError, match=problem):
        load("big").generate(prompt, infill=True, gap=gap)


@pytest.mark.parametrize("process", ["masked", "simplex", "uniform"])
def test_the_shares_of_every_token_sum_to_one(process):
    add_family(process)
    result = load("big", {"notes": 0.4}).generate("Dear", FAST, explain=True)
    assert len(result.explain) == result.tokens
    assert "".join(token.text for token in result.explain) == result.text
    for token in result.explain:
        assert sum(token.by.values()) == pytest.approx(1, abs=1e-5)
        assert set(token.by) == {"big", "notes"}
        assert 0 < token.p <= 1
    assert list(result.to_json()["explain"][0]) == ["token", "text", "p", "by", "source"]
    assert "explain" not in load("big").generate("Dear", FAST).to_json()


def test_a_sampler_of_the_process_is_chosen_by_name(family):
    writer = load("big")
    known = {name: writer.generate("Dear", FAST, sampler=name).text for name in ("top-k", "ancestral")}
    assert known["top-k"] == writer.generate("Dear", FAST).text != known["ancestral"]
    with pytest.raises(UsageError, match="the masked process has no sampler 'nucleus'"):
        writer.generate("Dear", FAST, sampler="nucleus")
    with pytest.raises(
        UsageError, match=r"the sampler 'top-k=many' is not possible here: 'many' is not a number\. Omit"
    ):
        writer.generate("Dear", FAST, sampler="top-k=many")


def test_fewer_steps_are_counted_where_a_text_is_clean_early(family):
    result = load("big").generate("Dear", FAST, sampler="top-k=4", steps=8, max_tokens=BLOCK)
    assert (result.steps, result.members[0].forward_passes) == (2, 2)


def test_an_early_stop_ends_the_steps_of_a_settled_text():
    add_family("simplex")
    writer = load("big")
    options = replace(FAST, steps=6, temperature=0.5)
    settled = writer.generate("Dear", options, steps=60, early_stop=100.0)
    assert settled.steps < writer.generate("Dear", options, steps=60, early_stop=0.0).steps
