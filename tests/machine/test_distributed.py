from __future__ import annotations

from ssdcli.machine.distributed import from_rank_zero, is_rank_zero


def test_one_process_is_the_first_and_agrees_with_itself():
    assert is_rank_zero()
    assert from_rank_zero(lambda: 7) == 7
