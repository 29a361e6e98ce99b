from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from ssdcli.cli.flags import resolve
from ssdcli.errors import UsageError


@dataclass(frozen=True)
class Settings:
    steps: int = 100
    learning_rate: float = 0.5
    quick: bool = False
    rule: Literal["mix", "average"] = "mix"
    stop: tuple[str, ...] = ()
    folders: tuple[Path, ...] = ()
    seed: int | None = None
    report: Path | None = None
    length: int | Literal["auto"] = "auto"


@dataclass(frozen=True)
class Named:
    name: str


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "letters.toml"

    def write(text):
        path.write_text(text)
        return path

    return write


def test_defaults_are_the_dataclasss():
    assert resolve(Settings, {}, None) == Settings()
    assert resolve(Settings, {"steps": None, "stop": []}, None) == Settings()


def test_flag_wins_over_variable_over_recipe_over_default(monkeypatch, recipe):
    path = recipe("steps = 3\nlearning-rate = 0.3\nseed = 3\n")
    monkeypatch.setenv("SSD_STEPS", "2")
    monkeypatch.setenv("SSD_LEARNING_RATE", "0.2")
    found = resolve(Settings, {"steps": 1}, path)
    assert found == Settings(steps=1, learning_rate=0.2, seed=3)


def test_a_flag_that_is_false_or_zero_was_given(monkeypatch):
    monkeypatch.setenv("SSD_QUICK", "1")
    monkeypatch.setenv("SSD_STEPS", "2")
    assert resolve(Settings, {"quick": False, "steps": 0}, None) == Settings(steps=0, quick=False)


def test_an_empty_variable_was_not_given(monkeypatch):
    monkeypatch.setenv("SSD_STEPS", "")
    assert resolve(Settings, {}, None).steps == 100


def test_values_are_converted_by_annotation(monkeypatch, recipe):
    monkeypatch.setenv("SSD_QUICK", "Yes")
    monkeypatch.setenv("SSD_STOP", "a, b")
    monkeypatch.setenv("SSD_SEED", "7")
    monkeypatch.setenv("SSD_LENGTH", "auto")
    found = resolve(Settings, {"report": "out.md"}, recipe('learning-rate = 1\nfolders = ["x", "y"]\n'))
    assert found == Settings(
        learning_rate=1.0,
        quick=True,
        stop=("a", "b"),
        folders=(Path("x"), Path("y")),
        seed=7,
        report=Path("out.md"),
    )
    assert isinstance(found.learning_rate, float)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("SSD_STEPS", "x", "SSD_STEPS=x must be a whole number. Write SSD_STEPS=100, for example."),
        (
            "SSD_LEARNING_RATE",
            "fast",
            "SSD_LEARNING_RATE=fast must be a number. Write SSD_LEARNING_RATE=0.5, for example.",
        ),
        (
            "SSD_LEARNING_RATE",
            "nan",
            "SSD_LEARNING_RATE=nan must be a number. Write SSD_LEARNING_RATE=0.5, for example.",
        ),
        ("SSD_QUICK", "2", "SSD_QUICK=2 must be true or false. Write SSD_QUICK=false, for example."),
        ("SSD_RULE", "sum", "SSD_RULE=sum must be one of mix, average. Write SSD_RULE=mix, for example."),
        ("SSD_SEED", "x", "SSD_SEED=x must be a whole number. Write SSD_SEED=1, for example."),
    ],
)
def test_an_error_names_the_variable(monkeypatch, variable, value, said):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError) as caught:
        resolve(Settings, {}, None)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    "line",
    ["steps = 'x'", "steps = 2.5", "steps = true", "quick = 1", "stop = [1]", "report = 3", "seed = []"],
)
def test_an_error_names_the_line_of_the_recipe(recipe, line):
    path = recipe(line + "\n")
    with pytest.raises(UsageError) as caught:
        resolve(Settings, {}, path)
    assert caught.value.problem.startswith(f"{line} in {path} must be ")


def test_an_error_names_the_flag():
    with pytest.raises(UsageError, match=r"--learning-rate x must be a number"):
        resolve(Settings, {"learning_rate": "x"}, None)


def test_a_setting_without_default_is_asked_for():
    with pytest.raises(UsageError, match=r"--name is needed\. Pass --name\."):
        resolve(Named, {}, None)
    assert resolve(Named, {"name": "notes"}, None) == Named("notes")


def test_an_unknown_key_of_the_recipe_is_refused(recipe):
    with pytest.raises(UsageError, match=r"Did you mean 'steps'\?"):
        resolve(Settings, {}, recipe("step = 1\n"))


def test_a_flag_that_no_setting_has_is_a_mistake_of_the_caller():
    with pytest.raises(TypeError, match="no setting 'stpes'"):
        resolve(Settings, {"stpes": 1}, None)
