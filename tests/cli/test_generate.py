"""`ssd generate`: its streams, its input, its flags and its codes."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time

import pytest

from ssdcli.api import Blend, Options, load
from ssdcli.cli import console, explanation, inputs
from ssdcli.models.core_config import completed
from ssdcli.registry.manifest import CONFIG
from ssdcli.registry.store import Registry
from tests.pulled import add_causal
from tests.terminal import Terminal
from tests.tiny import ROOM

FAST = ["--max-tokens", "10", "--steps", "2", "--seed", "5"]


def text_of(prompt, core="big", members=None, **changes):
    return load(core, members).generate(prompt, max_tokens=10, steps=2, **{"seed": 5, **changes}).text


# The answer


def test_standard_output_is_the_text_and_a_line_end(family, ssd):
    assert ssd("Dear", "--with", "notes", *FAST) == (0, text_of("Dear", None, ["notes"]) + "\n", "")


def test_text_is_written_as_it_is_committed(family, ssd, monkeypatch):
    written = []
    monkeypatch.setattr("ssdcli.cli.console.write", lambda text, end="\n": written.append(text + end))
    assert ssd("Dear", "--core", "big", *FAST) == (0, "", "")
    assert len(written) > 2
    assert "".join(written) == text_of("Dear") + "\n"


def test_json_has_the_shape_that_is_promised(answer):
    (told,) = answer("Dear", "--with", "notes=0.4", *FAST)
    seconds, speed = told.pop("seconds"), told.pop("tokens_per_second")
    assert seconds > 0
    assert speed == pytest.approx(10 / seconds)
    assert all(member.pop("flops") > 0 for member in told["members"])
    assert told == {
        "id": 0,
        "prompt": "Dear",
        "text": text_of("Dear", "big", {"notes": 0.4}),
        "finish_reason": "length",
        "seed": 5,
        "core": "big",
        "members": [
            {"name": "big", "role": "core", "weight": 0.6, "forward_passes": 4},
            {"name": "notes", "role": "small", "weight": 0.4, "forward_passes": 4},
        ],
        "tokens": 10,
        "steps": 4,
        "flops_saved": 0.0,
        "plain": True,
        "drafted": None,
        "accepted": None,
    }


def test_several_texts_are_parted_by_dashes_or_are_lines_of_json(family, ssd, answer):
    texts = [text_of("Dear", seed=seed) for seed in (5, 6)]
    assert ssd("Dear", "--core", "big", "--n", "2", *FAST)[1] == f"{texts[0]}\n---\n{texts[1]}\n"
    told = answer("Dear", "--core", "big", "--n", "2", *FAST)
    assert [(one["text"], one["seed"]) for one in told] == [(texts[0], 5), (texts[1], 6)]


def test_a_drawn_seed_is_told_and_reproduces_the_text(answer, ssd):
    (told,) = answer("Dear", "--core", "big", "--max-tokens=10", "--steps=2")
    again = ssd("Dear", "--core=big", "--max-tokens=10", "--steps=2", f"--seed={told['seed']}")
    assert again == (0, told["text"] + "\n", "")


def test_no_tokens_are_an_empty_answer(answer, ssd):
    assert ssd("Dear", "--core", "big", "--max-tokens", "0") == (0, "\n", "")
    (told,) = answer("Dear", "--core", "big", "--max-tokens", "0")
    assert (told["text"], told["finish_reason"], told["tokens"]) == ("", "length", 0)


def test_stop_strings_end_the_text(answer):
    (whole,) = answer("Dear", "--core", "big", *FAST)
    character = whole["text"][1]
    (told,) = answer("Dear", "--core", "big", "--stop", character, "--stop", "never", *FAST)
    assert told["finish_reason"] == "stop"
    assert told["text"] == whole["text"].partition(character)[0]


def test_stats_tell_seed_passes_and_speed_on_standard_error(family, ssd):
    code, out, err = ssd("Dear", "--with", "notes", "--stats", *FAST)
    assert (code, out) == (0, text_of("Dear", None, ["notes"]) + "\n")
    said = r"seed 5; 10 tokens in \S+ s \(\S+ a second\); forward passes: big \(0\.7\) 4, notes \(0\.3\) 4; about big "
    pattern = said + r"\d+\.\d+ MFLOP, notes \d+\.\d+ MFLOP"
    assert re.fullmatch(pattern + r"\n", err)
    _, _, err = ssd("Dear", "--with", "notes", "--stats", "--schedule", "sandwich:0.5", *FAST, "--steps", "4")
    assert re.search(r"big \(0 to 0\.7\) 4, notes \(0\.3\) 8; .* [1-4]\d\.\d% saved by the schedule\n", err)


def test_stats_tell_the_weights_of_a_schedule_in_a_file(family, ssd, tmp_path):
    (tmp_path / "mine.toml").write_text("notes = [[1, 0.9], [0, 0.1]]\nbig = [[1, 0.5]]\n")
    _, _, err = ssd("Dear", "--with", "notes", "--stats", "--schedule", str(tmp_path / "mine.toml"), *FAST)
    assert "forward passes: big (0.5) 4, notes (0.1 to 0.9) 4;" in err


def test_a_text_is_coloured_where_a_terminal_shows_it(family, ssd, monkeypatch):
    text = text_of("Dear", None, ["notes"])
    why = (
        "ssd: warning: --explain shows no colours, since standard output is not a terminal; add --json for the numbers."
    )
    assert ssd("Dear", "--with", "notes", "--explain", *FAST) == (0, text + "\n", why + "\n")
    assert ssd("Dear", "--with", "notes", "--explain", "--json", *FAST)[2] == ""
    monkeypatch.setattr(explanation, "_colourful", lambda: True)
    monkeypatch.setattr(console, "is_lively", lambda: True)
    _, out, err = ssd("Dear", "--with", "notes", "--explain", *FAST)
    assert re.sub(r"\x1b\[\d+m", "", out) == text + "\n"
    assert {"\x1b[36m", "\x1b[33m"} >= set(re.findall(r"\x1b\[3\dm", out)) != set()
    assert re.fullmatch(r"attribution: big: \d+%, notes: \d+%\n", re.sub(r"\x1b\[\d+m", "", err))


def test_what_stands_around_a_gap_has_no_colour(family, ssd, monkeypatch):
    flags = ["Dear ____ is dark.", "--core", "big", "--infill", "--gap", "3", *FAST]
    plain = ssd(*flags)
    monkeypatch.setattr(explanation, "_colourful", lambda: True)
    assert ssd(*flags, "--explain") == plain


def test_a_core_that_is_not_run_is_owed_nothing(family, ssd, monkeypatch):
    monkeypatch.setattr(console, "is_lively", lambda: True)
    _, _, err = ssd("Dear", "--with", "notes=1", "--explain", *FAST)
    assert err.endswith("\nattribution: big: 0%, notes: 100%\n")


def test_no_colour_is_obeyed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert explanation._colourful()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not explanation._colourful()


def test_the_gaps_of_a_prompt_are_filled(answer, ssd):
    (told,) = answer("Dear ____ is dark.", "--core", "big", "--infill", "--gap", "3", *FAST)
    assert re.fullmatch(r"(?s)Dear.* is dark\.", told["text"])
    assert told["tokens"] <= 3
    assert ssd("Dear ____ is dark.", "--core", "big", "--infill", "--gap=3", *FAST) == (0, told["text"] + "\n", "")


def test_rules_schedules_and_samplers_are_the_writers_own(answer, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text("big = [[1, 0.2], [0, 0.9]]\n")
    flags = ["--rule", "average", "--schedule", str(plan), "--sampler", "threshold=0.3", "--remask", "0.1"]
    (told,) = answer("Dear", "--with", "notes", *flags, *FAST)
    writer = load(None, ["notes"], blend=Blend("average", str(plan)))
    options = Options(max_tokens=10, steps=2, seed=5, sampler="threshold=0.3", remask=0.1)
    assert told["text"] == writer.generate("Dear", options).text


def test_a_cut_prompt_is_warned_of(family, ssd):
    code, _, err = ssd(" dark" * 100, "--core", "big", *FAST)
    assert code == 0
    assert err.startswith(f"ssd: warning: 'big' has room for {ROOM} tokens before its answer and leaves out")


@pytest.fixture
def packed():
    """The causal core `packed`, with the complete config.json that `ssd pull` writes, so that it loads fast."""
    add_causal("packed")
    config = Registry().find("packed").folder / CONFIG
    told = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps(completed(told)), encoding="utf-8")


def test_a_closed_pipe_ends_quietly(packed):
    command = [sys.executable, "-m", "ssdcli", "generate", "Dear", "--core", "packed", "--plain"]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*command, "--max-tokens", "4000", "--dtype", "bfloat16"], **streams)
    assert process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=120) in (0, 141)


# The input


@pytest.mark.parametrize(
    ("argument", "stdin", "prompt"),
    [
        (["Dear"], None, "Dear"),
        (["Dear"], b"", "Dear"),
        ([], b"Dear\n", "Dear"),
        ([], b"Dear\n\n", "Dear\n"),
        ([], b"Dear\r\n", "Dear"),
        (["Dear"], b"the boiler\n", "the boiler\n\nDear"),
        ([], "\ufeffé\n".encode(), "é"),
        ([], None, ""),
        ([], b"", ""),
    ],
)
def test_the_prompt_is_standard_input_and_then_the_argument(answer, argument, stdin, prompt):
    (told,) = answer(*argument, "--core", "big", *FAST, stdin=stdin)
    assert told["prompt"] == prompt
    assert told["text"] == text_of(prompt)


def test_a_closed_standard_input_is_none(answer, monkeypatch):
    monkeypatch.setattr(inputs.sys, "stdin", None)
    assert inputs.read_prompt("Dear") == "Dear"
    assert inputs.read_requests(None, "-", ()) == []


def test_a_silent_standard_input_is_waited_for_with_a_word(monkeypatch, capsys):
    ours, theirs = os.pipe()
    monkeypatch.setattr(inputs, "PATIENCE", 0.01)
    monkeypatch.setattr(sys, "stdin", os.fdopen(ours))
    said = []

    def say(sentence):
        said.append(sentence)
        os.write(theirs, b"Dear\n")
        os.close(theirs)

    monkeypatch.setattr("ssdcli.cli.console.warn", say)
    assert inputs.read_prompt(None) == "Dear"
    assert said == ["waiting for standard input; ^D or '< /dev/null' ends it."]
    sys.stdin.close()


def test_a_quick_standard_input_is_read_without_a_word(monkeypatch):
    monkeypatch.setattr(inputs, "PATIENCE", 0.2)
    said = []
    monkeypatch.setattr("ssdcli.cli.console.warn", said.append)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Dear")))
    inputs.read_prompt(None)
    time.sleep(0.3)
    assert said == []


def test_input_in_another_encoding_is_read_with_a_warning(family, ssd):
    code, out, err = ssd("--core", "big", "--json", *FAST, stdin=b"caf\xe9\n")
    assert (code, json.loads(out)["prompt"]) == (0, "café")
    assert err == "ssd: warning: standard input is not in UTF-8; it was read as windows-1252.\n"
    code, out, err = ssd("--core", "big", "--json", *FAST, stdin="é ü\ufffd".encode() + b"\xff ")
    assert (code, json.loads(out)["prompt"]) == (0, "é ü\ufffd\ufffd ")
    assert err == "ssd: warning: 1 invalid character of standard input had to be replaced.\n"


def test_context_files_are_put_before_the_prompt_for_small_models(answer, tmp_path):
    (tmp_path / "one").write_text("the boiler\n")
    (tmp_path / "two").write_text("is cold\n")
    files = ["--context", str(tmp_path / "one"), "--context", str(tmp_path / "two")]
    (told,) = answer("Dear", "--core", "none", "--with", "notes", *files, *FAST)
    assert told["prompt"] == "Dear"
    assert told["text"] == text_of("the boiler\n\nis cold\n\nDear", "none", ["notes"])


# The flags


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--top-p", "0"], "--top-p 0 must be above 0 and at most 1. Write --top-p 0.95, for example."),
        (["--top-p", "2"], "--top-p 2 must be above 0 and at most 1. Write --top-p 0.95, for example."),
        (["--min-p", "2"], "--min-p 2 must be between 0 and 1. Write --min-p 0, for example."),
        (
            ["--repetition-penalty", "0"],
            "--repetition-penalty 0 must be above 0. Write --repetition-penalty 1, for example.",
        ),
        (["--no-repeat=-1"], "--no-repeat -1 must be at least 0. Write --no-repeat 0, for example."),
        (["--no-repeat", "2.5"], "--no-repeat 2.5 must be a whole number. Write --no-repeat 1, for example."),
        (["--max-tokens", "many"], "--max-tokens many must be a whole number. Write --max-tokens 128, for example."),
        (["--temperature", "cold"], "--temperature cold must be a number. Write --temperature 1, for example."),
        (["--temperature=-1"], "--temperature -1 must be at least 0. Write --temperature 1, for example."),
        (["--temperature", "nan"], "--temperature nan must be a number. Write --temperature 1, for example."),
        (["--steps", "0"], "--steps 0 must be at least 1. Write --steps 1, for example."),
        (["--n", "0"], "--n 0 must be at least 1. Write --n 1, for example."),
        (["--max-tokens=-1"], "--max-tokens -1 must be at least 0. Write --max-tokens 128, for example."),
        (["--stop", ""], "--stop '' must be text that is not empty. Write --stop END, for example."),
        (
            ["--rule", "blend"],
            "--rule blend must be one of mix, average, contrast, gated, switching. Write --rule mix, for example.",
        ),
        (
            ["--schedule", "never"],
            "the schedule 'never' cannot be read (No such file or directory). "
            "Write constant, leaning[:S], sandwich[:F], core-last[:F], or name a file.",
        ),
        (
            ["--schedule", "sandwich"],
            "a sandwich needs a core and a small model that both run. "
            "Name both (an adapter of the core with its weight), or omit it.",
        ),
        (
            ["--rule", "contrast"],
            "the rule contrast needs a core and a small model. Name both, as in --core starter --with notes.",
        ),
        (
            ["--with", "notes", "--rule", "contrast"],
            "the rule contrast needs private context, or a small model trained with --base. "
            "Give --context FILE, or use --rule mix.",
        ),
        (["--remask", "1"], "--remask 1 must be at least 0 and below 1. Write --remask 0, for example."),
        (["--early-stop=-1"], "--early-stop -1 must be at least 0. Write --early-stop 0, for example."),
        (["--gap", "0"], "--gap 0 must be at least 1. Write --gap 16, for example."),
        (["Dear", "--gap", "4"], "--gap was given, and no gaps are filled. Add --infill."),
        (["Dear", "--candidates", "4"], "--candidates was given, and no gaps are filled. Add --infill."),
        (
            ["Dear", "--pick"],
            "--pick keeps passages of the private context, and there is none. Name it with --context, or omit --pick.",
        ),
        (["Dear", "--infill"], "the prompt has no gap to fill. Write ____ where text is missing."),
        (
            ["--guide", "tone"],
            "the guide 'tone' does not name a model and a label. "
            "Write MODEL:LABEL or MODEL:LABEL=SCALE, as in ./tone:friendly=4.",
        ),
        (["--with", "notes=x"], "--with notes=x: 'x' is not a weight. Give a number, as in --with notes=0.3."),
        (["--with", "notes="], "--with notes=: '' is not a weight. Give a number, as in --with notes=0.3."),
        (["--with", "notes", "--with", "notes=1"], "--with names 'notes' twice. Name each small model once."),
        (
            ["--with", "notes=0"],
            "the weight of 'notes' must be above 0 and at most 1, not 0. Write --with notes=0.3, for example.",
        ),
        (
            ["--with", "notes=0.6", "--with", "mail"],
            "the weights of the small models sum to 1.1, which is more than 1: 0.6 (notes) + 0.5 (mail). "
            "Give smaller ones, as in --with NAME=0.3.",
        ),
        (
            ["--context", "x"],
            "only small models and memories see --context, and none is named. Name one, as in --with notes.",
        ),
        (
            ["--with", "notes", "--context", "gone"],
            "the context file 'gone' cannot be read (No such file or directory). Name a text file.",
        ),
        (["--batch", "gone"], "the batch file 'gone' cannot be read (No such file or directory). Name a text file."),
        (["Dear", "--batch", "-"], "with --batch the prompts come from its lines. Omit the PROMPT."),
    ],
)
def test_what_cannot_be_right_is_one_line_and_code_2(family, refused, arguments, problem):
    Registry().set_default("big")
    assert refused(*arguments) == problem


def test_a_mistyped_model_ends_with_code_3_before_anything_is_read(family, ssd, monkeypatch):
    monkeypatch.setattr(inputs, "read_prompt", None)
    said = "ssd: no model named 'note'. Did you mean 'notes'? See 'ssd models list'.\n"
    assert ssd("Dear", "--with", "note") == (3, "", said)


def test_flags_win_over_variables_and_those_over_a_recipe(answer, tmp_path, monkeypatch):
    (tmp_path / "mine.toml").write_text('core = "big"\nmax-tokens = 3\nseed = 1\nsteps = 2\nstats = false\n')
    monkeypatch.setenv("SSD_SEED", "2")
    monkeypatch.setenv("SSD_MAX_TOKENS", "4")
    (told,) = answer("Dear", "--recipe", str(tmp_path / "mine.toml"), "--max-tokens", "5")
    assert (told["core"], told["seed"], told["tokens"], told["steps"]) == ("big", 2, 5, 2)


def test_small_models_may_be_named_by_a_recipe_or_a_variable(answer, tmp_path, monkeypatch):
    (tmp_path / "mine.toml").write_text('with = ["notes=0.2", "mail"]\nmax-tokens = 1\nsteps = 1\n')
    (told,) = answer("Dear", "--recipe", str(tmp_path / "mine.toml"))
    assert {use["name"]: use["weight"] for use in told["members"]} == {"big": 0.3, "notes": 0.2, "mail": 0.5}
    monkeypatch.setenv("SSD_WITH", "mail=0.4,notes")
    (told,) = answer("Dear", "--recipe", str(tmp_path / "mine.toml"))
    assert {use["name"]: use["weight"] for use in told["members"]} == {"big": 0.3, "mail": 0.4, "notes": 0.3}


def test_the_first_help_panel_has_ten_flags_at_most(ssd):
    code, out, _ = ssd("--help")
    panel = out.partition("Options:")[2].partition("More:")[0]
    assert code == 0
    assert 5 < len(re.findall(r"^ +(?:-h, )?--", panel, re.MULTILINE)) <= 10
    assert out.index("More:") < out.index("--top-p")


def test_help_and_errors_import_no_torch(family):
    probe = (
        "import sys; from ssdcli.cli.app import main; "
        "codes = [main(['generate', '--help']), main(['generate', 'a', '--with', 'nots'])]; "
        "sys.exit('torch' in sys.modules or codes != [0, 3])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0


def test_a_packed_core_writes_without_libraries_of_models(packed):
    probe = (
        "import sys; from ssdcli.cli.app import main; "
        "code = main(['generate', 'a', '--core', 'packed', '--plain', '--max-tokens', '2', '--dtype', 'bfloat16']); "
        "sys.exit(code or bool({'transformers', 'peft', 'torch._dynamo'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(("flag", "offered"), [("--core", ["big"]), ("--with", ["mail", "notes"])])
def test_names_are_completed(family, ssd_process, flag, offered):
    words = {"COMP_WORDS": f"ssd generate {flag} ", "COMP_CWORD": "3", "_SSD_COMPLETE": "complete_bash"}
    completed = ssd_process(env=words).stdout.split()
    bundled = [entry.name for entry in Registry().entries() if entry.bundled]
    assert [name for name in completed if name not in bundled] == offered
