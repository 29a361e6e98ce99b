from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ssdcli.errors import SsdError
from ssdcli.models.families.family import Drop, Rename, Split, Stack
from ssdcli.models.weights.convert import rearranged
from ssdcli.models.weights.safetensors_stream import read_safetensors, write_safetensors

EXPERTS = Stack(
    (r"layers\.(\d+)\.experts\.(?P<n>\d+)\.gate", r"layers\.(\d+)\.experts\.(?P<n>\d+)\.up"), r"layers.\1.gate_up"
)
QKV = Split(r"(\w+)\.qkv", (r"\1.q", r"\1.k", r"\1.v"), lambda config: (config["q"], config["k"], config["k"]))
CONFIG = {"q": 4, "k": 2}


@pytest.fixture
def native(tmp_path):
    """What rules make of tensors, read back by the library."""

    def apply(tensors, *rules):
        save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "in.safetensors")
        write_safetensors(
            tmp_path / "out.safetensors", rearranged(read_safetensors(tmp_path / "in.safetensors"), rules, CONFIG)
        )
        return load_file(tmp_path / "out.safetensors")

    return apply


def number(value: int) -> torch.Tensor:
    return torch.full((2, 3), value)


def test_a_tensor_that_no_rule_matches_keeps_its_name_and_a_pattern_must_match_it_whole(native):
    found = native({"a.weight": number(1), "xa.weight": number(2), "a.weights": number(3)}, Rename(r"a\.weight", "b"))
    assert {name: int(value[0, 0]) for name, value in found.items()} == {"b": 1, "xa.weight": 2, "a.weights": 3}


def test_the_first_rule_that_matches_decides_alone(native):
    rules = Rename("a", "b"), Rename("b", "c"), Drop("a"), Drop(r"d.*"), Rename("d1", "e")
    found = native({"a": number(1), "b": number(2), "d1": number(3)}, *rules)
    assert {name: int(value[0, 0]) for name, value in found.items()} == {"b": 1, "c": 2}


def test_groups_of_a_pattern_go_into_the_new_name(native):
    found = native({"blocks.3.ff_out": number(1), "ff_out": number(2)}, Rename(r"blocks\.(\d+)\.ff_out", r"l.\1.down"))
    assert sorted(found) == ["ff_out", "l.3.down"]


def test_a_split_cuts_rows_by_the_sizes_of_the_configuration(native):
    fused = torch.randn(8, 3)
    found = native({"x.qkv": fused}, QKV)
    for name, part in zip(("x.q", "x.k", "x.v"), fused.split([4, 2, 2]), strict=True):
        assert torch.equal(found[name], part)


@given(count=st.integers(1, 12), order=st.randoms(use_true_random=False))
def test_a_stack_joins_by_pattern_and_stacks_by_number_in_whatever_order_the_parts_are_stored(
    tmp_path_factory, count, order
):
    folder = tmp_path_factory.mktemp("parts")
    parts = {
        f"layers.{layer}.experts.{n}.{part}": torch.randn(2, 3)
        for layer in range(2)
        for n in range(count)
        for part in ("gate", "up")
    }
    names = order.sample(sorted(parts), len(parts))
    stored = {}
    for file in range(3):
        share = {name: parts[name] for name in names[file::3]}
        save_file(share, folder / f"{file}.safetensors")
        stored |= read_safetensors(folder / f"{file}.safetensors")
    write_safetensors(folder / "out.safetensors", rearranged(stored, (EXPERTS,), CONFIG))
    found = load_file(folder / "out.safetensors")
    assert sorted(found) == ["layers.0.gate_up", "layers.1.gate_up"]
    for layer in range(2):
        each = [
            torch.cat([parts[f"layers.{layer}.experts.{n}.{part}"] for part in ("gate", "up")]) for n in range(count)
        ]
        assert torch.equal(found[f"layers.{layer}.gate_up"], torch.stack(each))


def experts(*places: tuple[int, str]) -> dict[str, torch.Tensor]:
    return {f"layers.0.experts.{n}.{part}": number(n) for n, part in places}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (experts((0, "gate"), (0, "up"), (1, "gate")), r"part 1 of layers\.0\.gate_up .*up"),
        (experts((0, "gate"), (0, "up"), (2, "gate"), (2, "up")), r"part 1 of layers\.0\.gate_up .*gate"),
        (experts((10**9, "gate")), r"part 0 of layers\.0\.gate_up"),
        (experts((0, "gate")) | {"layers.0.experts.0.up": torch.ones(2, 4)}, r"parts of layers\.0\.gate_up"),
        ({name: torch.tensor(1.0) for name in experts((0, "gate"), (0, "up"))}, r"parts of layers\.0\.gate_up"),
        (experts((0, "gate")) | {"layers.0.experts.00.gate": number(0)}, r"experts\.00\.gate twice"),
    ],
)
def test_a_stack_without_one_of_its_parts_or_with_parts_of_other_shapes_is_refused(native, parts, message):
    with pytest.raises(SsdError, match=message):
        native(parts, EXPERTS)


@pytest.mark.parametrize("rows", [7, 9])
def test_a_tensor_that_cannot_be_split_as_the_configuration_says_is_named_with_both(native, rows):
    with pytest.raises(SsdError, match=rf"x\.qkv cannot be divided: .*\({rows}, 3\) has no 4 \+ 2 \+ 2 rows"):
        native({"x.qkv": torch.zeros(rows, 3)}, QKV)


def test_two_tensors_that_would_get_one_name_are_refused(native):
    with pytest.raises(SsdError, match="twice"):
        native({"a": number(1), "b": number(2)}, Rename("a", "b"))
