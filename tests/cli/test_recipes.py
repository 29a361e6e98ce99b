from __future__ import annotations

import json
import re

import pytest

from ssdcli.cli.recipes import check_recipe, recipe_commands
from ssdcli.registry.recipes import find_recipe, recipe_names
from ssdcli.registry.store import home

TEXT = "# ssd train-small letters/ --recipe letters\n# Short letters, on a laptop.\nsteps = 5  # é\n"


@pytest.fixture
def letters():
    path = home() / "recipes" / "letters.toml"
    path.parent.mkdir(parents=True)
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_list_says_what_each_recipe_is_for(letters, run_ssd):
    done = run_ssd("recipes", "list")
    assert done.returncode == 0
    assert ["letters", "Short letters, on a laptop."] in [re.split(" {2,}", line) for line in done.stdout.splitlines()]


def test_show_writes_the_recipe_as_it_is(letters, run_ssd):
    assert run_ssd("recipes", "show", "letters").stdout == TEXT


def test_a_mistyped_recipe_ends_with_code_2(letters, run_ssd):
    done = run_ssd("recipes", "show", "leters")
    assert done.returncode == 2
    assert done.stderr == "ssd: no recipe named 'leters'. Did you mean 'letters'? See 'ssd recipes list'.\n"


def test_copy_goes_to_a_folder_or_a_file_and_says_where(letters, run_ssd, tmp_path):
    done = run_ssd("recipes", "copy", "letters", str(tmp_path))
    assert done.stdout == f"{tmp_path / 'letters.toml'}\n"
    assert (tmp_path / "letters.toml").read_text(encoding="utf-8") == TEXT
    assert run_ssd("recipes", "copy", "letters", str(tmp_path / "mine.toml")).returncode == 0
    assert (tmp_path / "mine.toml").read_text(encoding="utf-8") == TEXT


def test_copy_replaces_nothing_unasked(letters, run_ssd, tmp_path):
    (tmp_path / "letters.toml").write_text("mine")
    done = run_ssd("recipes", "copy", "letters", str(tmp_path))
    assert done.returncode == 2
    assert "--overwrite" in done.stderr
    assert (tmp_path / "letters.toml").read_text() == "mine"
    assert run_ssd("recipes", "copy", "letters", str(tmp_path), "--overwrite").returncode == 0
    assert (tmp_path / "letters.toml").read_text(encoding="utf-8") == TEXT


def test_copy_to_a_place_that_is_not_there_is_said_in_a_sentence(letters, run_ssd, tmp_path):
    done = run_ssd("recipes", "copy", "letters", str(tmp_path / "nowhere" / "mine.toml"))
    assert done.returncode == 1
    assert "cannot be copied" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["show", "check"])
def test_recipe_names_are_completed(letters, ssd_process, command):
    words = {"COMP_WORDS": f"ssd recipes {command} le", "COMP_CWORD": "3", "_SSD_COMPLETE": "complete_bash"}
    assert ssd_process(env=words).stdout.split() == ["letters"]


def check(folder, text):
    """What is found in a recipe of this text."""
    (folder / "mine.toml").write_text(text, encoding="utf-8")
    return check_recipe(folder / "mine.toml")


def test_every_command_that_takes_a_recipe_is_asked():
    assert recipe_commands().keys() == {"generate", "chat", "train-small", "eval"}


@pytest.mark.parametrize("name", recipe_names())
def test_the_bundled_recipes_are_valid_for_the_commands_of_their_first_lines(name):
    found = check_recipe(find_recipe(name))
    assert found.problems == ()
    assert found.command in found.valid_for


def test_everything_that_is_wrong_with_a_recipe_is_told_at_once(tmp_path):
    found = check(tmp_path, "# ssd train-small x\nlearnin-rate = 1\nheldout = 7\nminutes = 'x'\n[seed]\na = 1\n")
    said = " ".join(map(str, found.problems))
    assert (found.command, found.valid_for, len(found.problems)) == ("train-small", (), 4)
    for part in ("Did you mean 'learning-rate'?", "above 0 and below 1", "must be a number", "has a table [seed]"):
        assert part in said


@pytest.mark.parametrize(
    ("text", "command", "valid_for"),
    [
        ("seed = 1\n", "generate", ("generate", "chat", "train-small", "eval")),
        ("# ssd eval x\nseed = 1\n", "eval", ("generate", "chat", "train-small", "eval")),
        ("# ssd generate x\nheldout = 0.1\n", "generate", ("train-small",)),
        ("temperature = 0.5\ntop_p = 0.5\n", "generate", ("generate", "chat")),
        ("heldout = 0.1\ntemprature = 1\n", "train-small", ()),
        ("minutes = 3\nsteps = 3\n", "train-small", ()),
        ("minutes = \n", None, ()),
    ],
)
def test_a_recipe_is_for_the_command_that_it_names_or_that_knows_most_of_it(tmp_path, text, command, valid_for):
    found = check(tmp_path, text)
    assert (found.command, found.valid_for) == (command, valid_for)
    assert bool(found.problems) == (command not in valid_for)


def test_check_ends_with_code_0_or_2_and_writes_json(letters, run_ssd, tmp_path):
    done = run_ssd("recipes", "check", "letters")
    assert (done.returncode, done.stdout) == (0, f"{letters} is valid for ssd generate, ssd chat, ssd train-small\n")
    letters.write_text("stepz = 5\n")
    done = run_ssd("recipes", "check", str(letters), "--json")
    assert done.returncode == 2
    assert done.stderr == f"ssd: {letters} is not valid for 'ssd generate'. Correct 1 error in it.\n"
    problem = f"{letters} has a key 'stepz' that 'ssd generate' does not know."
    assert json.loads(done.stdout) == {
        "recipe": str(letters),
        "valid": False,
        "command": "generate",
        "valid_for": [],
        "problems": [{"problem": problem, "remedy": "Did you mean 'steps'?"}],
    }
    assert run_ssd("recipes", "check", str(tmp_path / "nowhere.toml")).returncode == 2


def test_a_recipe_for_another_command_is_named_as_such(run_ssd):
    done = run_ssd("train-small", "x", "--name", "x", "--recipe", "letters")
    assert done.returncode == 2
    assert (
        "'ssd train-small' does not know: it is a recipe for 'ssd generate' and 'ssd chat'. Name another recipe;"
        in done.stderr
    )
