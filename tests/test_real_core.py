"""The tests of the real core are found by their fixtures, and come first."""

from __future__ import annotations

from types import SimpleNamespace

from tests.real_core import first


def test_the_tests_of_the_real_core_come_first_and_the_others_keep_their_order():
    items = [SimpleNamespace(name=name, fixturenames=names) for name, names in GIVEN.items()]
    first(items)
    assert [item.name for item in items] == ["c", "d", "a", "b"]


GIVEN = {"a": ["tmp_path"], "b": [], "c": ["real_core", "real_home", "real_gguf"], "d": ["real_gguf"]}


def test_the_core_is_one_of_the_registry(real_core, request):
    assert "real_gguf" in request.fixturenames  # by which the test is moved to the front
    assert (real_core.name, real_core.manifest.kind, real_core.bundled) == ("smollm2", "core", False)
    assert 130e6 < real_core.manifest.parameters < 170e6
