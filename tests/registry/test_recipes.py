from __future__ import annotations

import pytest

from ssdcli.errors import UsageError
from ssdcli.registry import recipes
from ssdcli.registry.recipes import describe, find_recipe, load_recipe, recipe_names
from ssdcli.registry.store import home

LETTERS = """# ssd train-small letters/ --recipe letters
# Short letters, on a laptop.
learning-rate = 0.001
steps = 500
data = ["letters", "notes"]
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout's package folder, with recipes beside it."""
    package = tmp_path / "checkout" / "package"
    package.mkdir(parents=True)
    monkeypatch.setattr(recipes, "_PACKAGE", package)
    write(package.parent / "recipes", "letters")
    return package


def write(folder, name, text=LETTERS):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.toml").write_text(text)
    return folder / f"{name}.toml"


def test_recipes_are_found_beside_the_package(checkout):
    assert recipe_names() == ["letters"]
    assert find_recipe("letters") == checkout.parent / "recipes" / "letters.toml"


def test_recipes_inside_the_package_of_a_wheel_come_first(checkout):
    inside = write(checkout / "recipes", "code")
    assert recipe_names() == ["code"]
    assert find_recipe("code") == inside


def test_the_users_own_recipes_hide_bundled_ones_of_the_same_name(checkout):
    own = write(home() / "recipes", "letters")
    write(home() / "recipes", "poems")
    assert recipe_names() == ["letters", "poems"]
    assert find_recipe("letters") == own


def test_a_recipe_is_found_by_path(tmp_path, monkeypatch):
    path = write(tmp_path / "here", "mine")
    assert find_recipe(str(path)) == path
    monkeypatch.chdir(tmp_path / "here")
    assert find_recipe("mine.toml").read_text() == LETTERS
    with pytest.raises(UsageError, match="no recipe file"):
        find_recipe("yours.toml")


def test_a_mistyped_recipe_is_answered_with_the_nearest(checkout):
    with pytest.raises(UsageError) as caught:
        find_recipe("leters")
    assert str(caught.value) == "no recipe named 'leters'. Did you mean 'letters'? See 'ssd recipes list'."


def test_keys_become_names_of_settings(tmp_path):
    values = load_recipe(write(tmp_path, "letters"))
    assert values == {"learning_rate": 0.001, "steps": 500, "data": ["letters", "notes"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps = 1\nrate is 3\n", r"letters\.toml is not valid TOML: .*line 2"),
        ("[steps]\nfew = 1\n", "a recipe is flat"),
        ("learning-rate = 1\nlearning_rate = 2\n", "gives 'learning-rate' twice"),
    ],
)
def test_a_recipe_that_is_not_flat_toml_is_refused(tmp_path, text, said):
    with pytest.raises(UsageError, match=said):
        load_recipe(write(tmp_path, "letters", text))


def test_a_recipe_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        load_recipe(tmp_path / "missing.toml")


def test_the_first_two_comment_lines_describe_a_recipe(tmp_path):
    assert describe(write(tmp_path, "letters")) == (
        "ssd train-small letters/ --recipe letters",
        "Short letters, on a laptop.",
    )
    assert describe(write(tmp_path, "bare", "steps = 1\n")) == ("", "")


def test_a_key_that_only_earlier_versions_knew_is_ignored(tmp_path):
    text = "anneal = 0.2\ndistill_samples = 0\ndistill-samples = 9\nsteps = 3\n"
    assert load_recipe(write(tmp_path, "letters", text)) == {"steps": 3}
