"""An option is declared once: its flag, variable, recipe key, help and check all come from the field."""

from __future__ import annotations

from dataclasses import MISSING, dataclass

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from ssdcli.cli import app
from ssdcli.cli.flags import convert, resolve, with_flags
from ssdcli.cli.help import use_panels
from ssdcli.errors import UsageError
from ssdcli.options.checks import above, at_least, between, each, multiple_of, one_of
from ssdcli.options.declare import ValueSource, build, check_options, check_value, group, option, settings_of

COMMANDS = get_command(app.app).commands.values()
SETTINGS = [found for command in COMMANDS if (found := getattr(command.callback, "settings", None))]


@dataclass(frozen=True)
class Oven:
    heat: float = option(180.0, "Degrees.", between(50, 250), metavar="C", common=True)
    fan: bool | None = option(None, "Whether air moves.", negatable=True)
    inner: str = "steel"

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class Baking:
    loaves: tuple[str, ...] = option((), "What to bake.", each(one_of(("rye", "spelt"))), flag="loaf")
    hours: int | None = option(None, "How long.", at_least(1), default="until it is brown")
    oven: Oven = group(Oven(), without=())


@dataclass(frozen=True)
class Cold:
    oven: Oven = group(Oven(), without=("fan",))


@dataclass(frozen=True)
class Warm:
    oven: Oven = group(Oven(90.0, inner="copper"))


@dataclass(frozen=True)
class Twice:
    heat: int = option(1, "Of the room.")
    oven: Oven = group(Oven())


def run(*arguments: str) -> tuple[str, list[Baking]]:
    """What a command with a flag for every setting writes, and what it is told."""
    app, told = typer.Typer(rich_markup_mode=None), []

    def bake(flags: dict[str, object], quick: bool = False) -> None:
        """Bake."""
        told.append(resolve(Baking, flags, None))

    app.command()(with_flags(Baking, bake))
    use_panels(app)
    return CliRunner().invoke(app, list(arguments), terminal_width=200).output, told


def test_a_field_is_a_flag_a_variable_and_a_key_of_recipes(monkeypatch, tmp_path):
    _, told = run("--loaf", "rye", "--loaf", "spelt", "--heat", "90", "--no-fan")
    assert told == [Baking(("rye", "spelt"), None, Oven(90.0, False))]
    monkeypatch.setenv("SSD_HEAT", "100")
    recipe = tmp_path / "bread.toml"
    recipe.write_text('loaf = ["rye"]\nheat = 120\nfan = true\n')
    assert resolve(Baking, {}, recipe) == Baking(("rye",), None, Oven(100.0, True))


def test_help_tells_what_a_field_declares_and_its_default():
    shown = " ".join(run("--help")[0].split())
    for said in ("--heat", "Degrees.", "180", "--no-fan", "How long.", "until it is brown", "--loaf", "--quick"):
        assert said in shown
    assert "inner" not in shown  # a group's field that declares no option is none


def test_a_field_has_the_default_that_its_group_has_for_it():
    assert settings_of(Warm)["heat"][0].default == 90
    assert settings_of(Cold)["heat"][0].default == 180
    assert resolve(Warm, {}, None) == Warm(Oven(90.0, inner="copper"))


def test_a_value_that_fails_its_check_is_quoted_as_python_has_it():
    with pytest.raises(UsageError, match=r"heat=300 must be between 50 and 250. Write heat=180.0, for example."):
        Oven(heat=300)
    with pytest.raises(UsageError, match=r"loaves='corn' must be one of rye, spelt. Write loaves='rye', for example."):
        check_options(Baking(("corn",)))
    check_options(Baking(hours=None))


@pytest.mark.parametrize(
    ("flags", "variable", "line", "said"),
    [
        ({"heat": 300.0}, "", "", "--heat 300 must be between 50 and 250. Write --heat 180, for example."),
        ({}, "300", "", "SSD_HEAT=300 must be between 50 and 250. Write SSD_HEAT=180, for example."),
        ({}, "", "heat = 300", "heat = 300.0 in {recipe} must be between 50 and 250. Write heat = 180.0, for example."),
        ({"loaves": ["rye", "corn"]}, "", "", "--loaf corn must be one of rye, spelt. Write --loaf rye, for example."),
        ({"hours": 0}, "", "", "--hours 0 must be at least 1. Write --hours 1, for example."),
    ],
)
def test_a_value_that_fails_its_check_is_quoted_as_its_source_has_it(
    flags, variable, line, said, monkeypatch, tmp_path
):
    recipe = tmp_path / "bread.toml"
    recipe.write_text(f"{line}\n")
    monkeypatch.setenv("SSD_HEAT", variable)
    with pytest.raises(UsageError) as caught:
        resolve(Baking, flags, recipe)
    assert str(caught.value) == said.format(recipe=recipe)


def test_a_group_keeps_its_own_defaults():
    assert build(Warm, {"fan": True}) == Warm(Oven(90.0, True, "copper"))
    assert build(Warm, {}) == Warm()


@pytest.mark.parametrize("cls", [*SETTINGS, Oven, Baking], ids=lambda cls: cls.__name__)
def test_every_default_is_what_its_annotation_and_its_check_allow(cls):
    for member, kind in settings_of(cls).values():
        default = member.default
        if default is not None and default is not MISSING:
            assert convert(default, kind) == default
            check_value(member, default, ValueSource(f"{member.name}="))


def test_a_group_may_leave_options_out_and_none_is_there_twice():
    assert resolve(Cold, {"heat": 60}, None) == Cold(Oven(60.0))
    with pytest.raises(TypeError, match="no setting 'fan'"):
        resolve(Cold, {"fan": True}, None)
    with pytest.raises(TypeError, match="two settings 'heat'"):
        resolve(Twice, {}, None)


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (at_least(1), (1, 2.5), (0, float("inf"), float("nan"))),
        (above(0), (0.1, 7), (0, -1, float("inf"), float("nan"))),
        (between(0, 1), (0, 0.5, 1), (-0.1, 1.1, float("nan"))),
        (multiple_of(4), (4, 8), (0, -4, 6)),
        (one_of(("a", "b")), ("a",), ("c", "")),
        (each(at_least(0)), ((), (0, 1)), ((-1,), (1, -1))),
    ],
)
def test_checks_say_what_is_right(check, good, bad):
    assert not any(map(check.misfits, good))
    assert all(map(check.misfits, bad))
