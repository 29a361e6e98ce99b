from __future__ import annotations

from benchmarks.lib.tables import signed, spread, table


def test_floats_have_three_digits_and_integers_separators() -> None:
    assert table(["a", "b", "c"], [[1234, 0.12345, "x"]]) == "| a | b | c |\n| --- | --- | --- |\n| 1,234 | 0.123 | x |"


def test_a_difference_has_its_sign_and_its_error() -> None:
    assert signed(0.5) == "+0.5000"
    assert signed(-0.25, 0.125) == "-0.2500 ± 0.1250"


def test_a_spread_is_the_standard_deviation_where_there_are_several_values() -> None:
    assert spread([1200]) == "1,200"
    assert spread([1.5]) == "1.500"
    assert spread([1.0, 2.5]) == "1.750 ± 1.061"
