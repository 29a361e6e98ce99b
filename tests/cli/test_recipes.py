from __future__ import annotations

import re

import pytest

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


def test_recipe_names_are_completed(letters, run_ssd):
    words = {"COMP_WORDS": "ssd recipes show le", "COMP_CWORD": "3", "_SSD_COMPLETE": "complete_bash"}
    assert run_ssd(env=words).stdout.split() == ["letters"]
