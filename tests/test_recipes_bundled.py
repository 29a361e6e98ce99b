"""The recipes that come with ssd: each can be run as its first line says."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from ssdcli.cli.flags import resolve
from ssdcli.cli.generate import GenerateSettings
from ssdcli.registry.recipes import describe, find_recipe, recipe_names
from ssdcli.training.settings import TrainSettings

SETTINGS = {"train-small": TrainSettings, "generate": GenerateSettings}
EXPECTED = {"adapter", "base", "answers", "starter", "starter-simplex", "notes", "code", "overnight", "letters"}


def words(name):
    return shlex.split(describe(find_recipe(name))[0])


def resolved(recipe, **flags):
    return resolve(SETTINGS[words(recipe)[1]], flags, find_recipe(recipe))


def test_the_recipes_are_there():
    assert set(recipe_names()) >= EXPECTED


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_the_first_line_runs_the_recipe_and_the_second_says_what_it_is_for(name):
    command, purpose = words(name), describe(find_recipe(name))[1]
    assert command[0] == "ssd"
    assert command[command.index("--recipe") + 1] == name
    assert purpose.endswith(".")


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_recipe_resolves_for_its_command(name):
    settings = resolved(name)
    assert settings != SETTINGS[words(name)[1]]()  # it says something


@pytest.mark.parametrize("name", sorted(EXPECTED - {"letters"}))
def test_every_training_recipe_is_a_training_that_can_be_right(name):
    resolved(name, name="mine", data=["text"]).check_complete()


def test_the_options_of_letters_can_be_right():
    assert resolved("letters").options.temperature < 1


def test_the_twins_differ_in_process_alone():
    starter, twin = resolved("starter"), resolved("starter-simplex")
    assert (starter.process, twin.process) == ("masked", "simplex")
    assert replace(twin, process=starter.process) == starter
