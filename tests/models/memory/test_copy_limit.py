"""A limit on copies forbids exactly what would copy one token more than is allowed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ssdcli.models.memory.copy_limit import MemoryCopyLimit
from ssdcli.models.memory.text_index import Index

TEXTS = st.lists(st.lists(st.integers(0, 2), max_size=12), max_size=4)


@given(TEXTS, TEXTS, st.lists(st.integers(0, 2), max_size=8), st.integers(1, 10))
def test_what_is_forbidden_is_what_a_plain_search_finds(
    one: list[list[int]], other: list[list[int]], written: list[int], most: int
) -> None:
    limit = MemoryCopyLimit((Index.of(one, depth=3), Index.of(other, depth=3)), most)

    def copies(id: int) -> bool:
        tail = [*written[len(written) - most :], id]
        starts = ((text, i) for text in [*one, *other] for i in range(len(text)))
        return len(written) >= most and any(text[i : i + most + 1] == tail for text, i in starts)

    assert limit.forbidden(written) == [id for id in range(3) if copies(id)]
