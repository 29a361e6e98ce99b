from __future__ import annotations

import numpy as np
import pytest

from benchmarks.calibration import _columns, _errors, _joined, report
from ssdcli.engine.ensemble.confidence import Confidence

SURE = np.random.default_rng(0).random(2000)


def line(notes: str, author: str, right: np.ndarray) -> dict[str, object]:
    return {
        "notes": notes,
        "author": author,
        "documents": [number % 9 for number in range(len(right))],
        "units": ["word"] * len(right),
        "p": [[float(p)] for p in SURE],
        "right": right.tolist(),
    }


def test_notes_of_two_kinds_are_different_documents() -> None:
    right = SURE > 0.5
    joined = _joined([_columns(line(name, "ensemble", right), Confidence(0.0, 2.0)) for name in "ab"])
    assert len(np.unique(joined["document"])) == 18
    assert joined["plain"] == pytest.approx(np.concatenate([SURE, SURE]))
    assert (joined["fitted"] > joined["plain"]).tolist() == (joined["plain"] > 0.5).tolist()


def test_beside_an_error_stands_that_of_items_that_are_right_as_often_as_is_said() -> None:
    right = (np.random.default_rng(1).random(2000) < SURE).astype(float)
    documents = np.arange(2000) % 9
    found, exact = _errors(SURE, right, documents)
    assert float(found.split()[0]) == pytest.approx(float(exact), abs=0.02)
    sure_of_all, _ = _errors(np.full(2000, 0.95), right, documents)
    assert float(sure_of_all.split()[0]) > 0.4


def test_the_table_has_a_row_for_each_author_and_one_for_all_ensembles() -> None:
    right = SURE > 0.5
    found = [line(name, author, right) for name in ("nb", "til") for author in ("core", "ensemble")]
    found += [
        {"notes": name, "of": author, "confidence": [0.0, 2.0]}
        for name in ("nb", "til")
        for author in ("core", "ensemble")
    ]
    rows = [row.split(" | ") for row in report(found).splitlines()[2:]]
    assert [row[0].strip("| ") for row in rows[::2]] == [
        "nb: core",
        "nb: ensemble",
        "til: core",
        "til: ensemble",
        "all notes: ensemble",
    ]
    assert [row[2] for row in rows[-2:]] == ["4,000", "4,000"]
