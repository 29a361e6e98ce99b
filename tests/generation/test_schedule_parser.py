"""What a user writes as a schedule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ssdcli.engine.ensemble.members import Member, Role
from ssdcli.engine.ensemble.schedules import Constant, Leaning, Piecewise, Sandwich, sharing
from ssdcli.errors import UsageError
from ssdcli.generation.blend import Blend
from ssdcli.generation.schedule_parser import schedules


def shared(name: str, weight: float, role: Role) -> Member[None]:
    return Member(name, None, Constant(weight), role, weight)


PAIR = [shared("big", 0.7, "core"), shared("notes", 0.3, "small")]


def test_constant_weights_are_the_members_own():
    assert schedules(Blend(schedule="constant"), PAIR, "simplex") == [Constant(0.7), Constant(0.3)]


def test_small_models_lean_beside_a_simplex_core_unless_another_schedule_is_named():
    assert schedules(Blend(), PAIR, "simplex") == [Constant(0.7), Leaning(0.3, 2.0)] == list(sharing(0.3, "simplex"))
    assert schedules(Blend("average"), PAIR, "simplex") == schedules(Blend(), PAIR, "simplex")


@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_they_lean_where_it_was_found_to_help_alone(process):
    assert schedules(Blend(), PAIR, process) == [Constant(0.7), Constant(0.3)] == list(sharing(0.3, process))


@pytest.mark.parametrize("members", [PAIR[:1], PAIR[1:], [shared("notes", 0.3, "small"), shared("mail", 0.7, "small")]])
def test_models_of_one_kind_keep_their_weights(members):
    assert schedules(Blend(), members, "simplex") == [Constant(one.weight) for one in members]


@pytest.mark.parametrize(("text", "light"), [("sandwich", 0.25), ("sandwich:0.5", 0.5), ("sandwich:0", 0.0)])
def test_a_sandwich_leaves_the_core_out_at_both_ends(text, light):
    assert schedules(Blend(schedule=text), PAIR, "simplex") == [Sandwich(0.7, light), Constant(0.3)]


@pytest.mark.parametrize("text", ["sandwich:", "sandwich:x", "sandwich:-1", "sandwich:1.5", "sandwich:nan"])
def test_a_share_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="light of the sandwich must be between 0 and 1"):
        schedules(Blend(schedule=text), PAIR, "simplex")


@pytest.mark.parametrize(("text", "slope"), [("leaning", 2.0), ("leaning:0.5", 0.5), ("leaning:-3", -3.0)])
def test_a_leaning_gives_small_models_more_weight_in_more_noise(text, slope):
    assert schedules(Blend(schedule=text), PAIR, "simplex") == [Constant(0.7), Leaning(0.3, slope)]


@pytest.mark.parametrize("text", ["leaning:", "leaning:x", "leaning:21", "leaning:-inf", "leaning:nan"])
def test_a_slope_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="slope of the leaning must be between -20 and 20"):
        schedules(Blend(schedule=text), PAIR, "simplex")


@pytest.mark.parametrize("name", ["sandwich", "leaning"])
@pytest.mark.parametrize("members", [PAIR[:1], PAIR[1:]])
def test_some_schedules_need_two_kinds_of_members(members, name):
    with pytest.raises(UsageError, match=f"a {name} needs a core and a small model"):
        schedules(Blend(schedule=name), members, "simplex")


def test_a_contrast_is_no_sandwich():
    with pytest.raises(UsageError, match="a contrast needs the core at every step"):
        schedules(Blend(rule="contrast", schedule="sandwich"), PAIR, "simplex")


@pytest.fixture
def file(tmp_path):
    """Writes a schedule and gives the blend that names it."""

    def write(text: str) -> Blend:
        path = tmp_path / "plan.toml"
        path.write_text(text, encoding="utf-8")
        return Blend(schedule=str(path))

    return write


def test_a_file_gives_members_weights_on_straight_lines_and_leaves_the_others(file):
    big, notes = schedules(file("big = [[1.0, 0.0], [0.5, 1], [0, 0.5]]"), PAIR, "simplex")
    assert big == Piecewise(((1.0, 0.0), (0.5, 1.0), (0.0, 0.5)))
    assert [big(t) for t in (1.0, 0.75, 0.5, 0.25)] == [0.0, 0.5, 1.0, 0.75]
    assert notes == Constant(0.3)


CONTRASTED = [shared("big", 1.0, "core"), shared("notes", 0.3, "small"), shared("base", 0.3, "base")]


def scheduled(blend: Blend) -> list[Member[None]]:
    chosen = schedules(blend, CONTRASTED, "simplex")
    return [replace(one, schedule=schedule) for one, schedule in zip(CONTRASTED, chosen, strict=True)]


def test_a_contrast_is_constant_unless_another_schedule_is_named():
    assert schedules(Blend("contrast"), CONTRASTED, "simplex") == [Constant(one.weight) for one in CONTRASTED]


def test_a_base_has_the_weight_of_its_small_model_negated(file):
    _, notes, base = scheduled(file("notes = [[1, 0.2], [0, 0.4]]"))
    for t in (1.0, 0.7, 0.0):
        assert base.weight_at(t) == -notes.weight_at(t) != 0
    with pytest.raises(UsageError, match="names 'base', which is not a member"):
        schedules(file("base = [[1, 0.2]]"), CONTRASTED, "simplex")


def test_a_base_leans_with_its_small_model():
    core, notes, base = scheduled(Blend(rule="contrast", schedule="leaning"))
    assert core.schedule == Constant(1.0)
    for t in (1.0, 0.7, 0.0):
        assert base.weight_at(t) == -notes.weight_at(t) != 0


def test_a_contrast_keeps_its_core(file):
    blend = file("big = [[1, 1], [0.5, 0], [0, 0]]")
    with pytest.raises(UsageError, match="leaves out 'big', and a contrast needs the core"):
        schedules(Blend(rule="contrast", schedule=blend.schedule), CONTRASTED, "simplex")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("big = 3", "no list of pairs for 'big'"),
        ("big = [[1, 2, 3]]", "no list of pairs for 'big'"),
        ("big = []", "no list of pairs for 'big'"),
        ("big = [[0, 1], [1, 1]]", "levels that fall from 1 to 0"),
        ("big = [[1, -0.1]]", "outside \\[0, 1\\] for 'big'"),
        ("big = [[2, 0.1]]", "outside \\[0, 1\\] for 'big'"),
        ("bog = [[1, 1]]", "names 'bog', which is not a member"),
        ("big = [[", "is not valid TOML"),
        ("big = [[1, 0]]\nnotes = [[1, 1], [0.5, 0], [0, 0]]", "lets no member run at noise level 0.5"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(file, text, problem):
    with pytest.raises(UsageError, match=problem):
        schedules(file(text), PAIR, "simplex")


@pytest.mark.parametrize(("name", "said"), [("sandwhich", "'sandwhich'"), ("", r"'\.'")])
def test_a_file_that_is_missing_is_refused(name, said):
    with pytest.raises(UsageError, match=f"the schedule {said} cannot be read"):
        schedules(Blend(schedule=name), PAIR, "simplex")
