"""Items are right where the text has the same words, and an error is how far confidence is from being right."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pytest

from ssdcli.data.documents import Document
from ssdcli.engine.ensemble.confidence import Confidence
from ssdcli.errors import UsageError
from ssdcli.evaluation.calibration import BINS, Item, Place, calibration, calibration_error, items, places_of
from ssdcli.evaluation.eval_settings import EvalSettings
from ssdcli.evaluation.evaluate import evaluate
from ssdcli.generation.types import Options, Request, Result, TokenShares
from ssdcli.registry.manifest import write_manifest
from ssdcli.registry.store import Registry
from ssdcli.text.messages import Message
from tests.memories import CORE, GATES, OF_ALL, add_notes
from tests.tiny import add_family

TEXT = "Dear landlord, the boiler is cold again.\n\nThe stairs are dark, too, and the lift does not move."
AFTER = "boiler is cold again. The stairs"


def test_places_are_between_words_of_plain_documents_and_a_seed_draws_the_same() -> None:
    said = Document.conversation((Message("user", TEXT), Message("assistant", TEXT)), "chat")
    documents = [Document(TEXT, "a"), said, Document(TEXT * 9, "b")]
    found = places_of(documents, 12, 3)
    assert len(found) == 12
    assert found == places_of(documents, 12, 3) != places_of(documents, 12, 4)
    assert {place.document for place in found} == {0, 2}
    for place in found:
        words = documents[place.document].text.split()
        before, after = place.before.split(), place.after.split()
        assert not place.before[-1:].isspace()
        assert not place.after[:1].isspace()
        assert any(words[i : i + len(before) + 2] == before + after[:2] for i in range(len(words)))
    assert 10 < len(places_of(documents[:1], 1000, 0)) < len(TEXT.split())


@dataclass(frozen=True)
class Author:
    """Writes the same tokens after each prompt, each with its probability."""

    tokens: Sequence[tuple[str, float]]
    finish_reason: Any = "length"

    def results(self, requests: Sequence[Request], options: Options) -> Iterator[Result]:
        assert (options.temperature, options.explain) == (0, True)
        told = tuple(TokenShares(0, text, p, {}) for text, p in self.tokens)
        text = "".join(text for text, _ in self.tokens)
        for request in requests:
            assert request.plain
            yield Result(0, "", text, self.finish_reason, 0, None, (), 0, 0, 0.0, 0.0, True, explain=told)


def written(*tokens: tuple[str, float], ends: str = "length") -> dict[str, Item]:
    (place,) = places = [Place(7, "the", AFTER)]
    author: Any = Author(tokens, ends)
    found = items(author, places, lambda share: None)
    assert {item.document for item in found} <= {place.document}
    return {item.unit: item for item in found}


def test_units_are_right_where_the_text_has_the_same_words() -> None:
    tokens = (" boil", 0.5), ("er", 0.9), (" is", 0.8), (" warm", 0.2), (" again", 0.5), (".", 0.6), (" The", 0.3)
    found = written(*tokens)
    assert (found["word"].right, found["phrase"].right, found["sentence"].right) == (True, False, False)
    assert found["word"].p == (0.5, 0.9)
    assert found["phrase"].p == (0.5, 0.9, 0.8, 0.2)
    assert found["sentence"].p == (0.5, 0.9, 0.8, 0.2, 0.5, 0.6)
    found = written(*[(" cold" if text == " warm" else text, p) for text, p in tokens])
    assert found["phrase"].right
    assert found["sentence"].right


def test_a_word_that_may_go_on_is_no_part_of_a_unit_and_one_that_ends_the_text_is() -> None:
    tokens = (" boiler", 0.5), (" is", 0.8), (" co", 0.2)
    assert written(*tokens)["sentence"].p == (0.5, 0.8)
    assert written(*tokens, ends="end")["sentence"].p == (0.5, 0.8, 0.2)
    assert written(*tokens[:1])["word"].right
    assert written(ends="end") == {}


def test_white_space_before_a_word_counts_with_its_probability() -> None:
    assert written(("\n", 0.1), ("\n", 0.3), ("boiler", 0.5), ("\n", 0.2))["word"].p == (0.1, 0.3, 0.5)


def test_the_error_is_the_mean_distance_of_confidence_and_right_share() -> None:
    sure, documents = np.repeat([0.05, 0.95], 20), np.arange(40) % 8
    half = np.tile([0.0, 1.0], 20)
    assert calibration_error(sure, half, documents).value == pytest.approx(0.45)
    exact = np.concatenate([np.arange(20) == 0, np.arange(20) > 0]).astype(float)
    assert calibration_error(sure, exact, documents).value == pytest.approx(0)
    assert calibration_error(np.full(8, 1.0), np.ones(8), documents[:8]).value == 0
    assert math.isnan(calibration_error(sure, half, np.zeros(40)).margin)


def test_an_interval_is_of_documents_and_shrinks_with_their_number() -> None:
    random = np.random.default_rng(0)
    sure = np.full(4000, 0.5)
    margins = []
    for count in (10, 1000):
        documents = np.arange(4000) % count
        right = (random.random(count) < 0.7)[documents].astype(float)  # the items of a document are alike
        margins.append(calibration_error(sure, right, documents).margin)
    assert margins[0] > 5 * margins[1] > 0


def test_items_as_right_as_they_are_sure_have_no_error_and_a_fitted_confidence_mends_others() -> None:
    random = np.random.default_rng(1)
    p = random.random(6000)
    mends = Confidence(-0.5, 0.6)
    for fitted, sure in ((None, Confidence()), (mends, mends)):
        right = [bool(random.random() < sure.of([one])) for one in p]
        found = [
            Item(number % 50, "word", (float(one),), hit)
            for number, (one, hit) in enumerate(zip(p, right, strict=True))
        ]
        (result,) = calibration("notes", found, fitted)
        best = result.fitted or result.plain
        assert (result.name, result.unit, result.count) == ("notes", "word", 6000)
        assert best.value < 0.03
        assert result.confidence == pytest.approx(result.right, abs=0.02)
        assert len(result.bins) <= BINS
        assert sum(count for *_, count in result.bins) == 6000
        assert fitted is None or result.plain.value > 0.1


QUICK = EvalSettings(rules=("average",), schedules=("constant",), calibration=6)


@pytest.fixture
def text(tmp_path) -> str:
    file = tmp_path / "text.jsonl"
    lines = [json.dumps({"text": f"{n}: {TEXT} Again and again, {n} of us are cold."}) + "\n" for n in range(6)]
    file.write_text("".join(lines))
    return str(file)


def test_core_small_model_and_ensemble_write_and_the_ensembles_confidence_is_the_fitted_one(text, monkeypatch) -> None:
    monkeypatch.setattr("ssdcli.evaluation.calibration._TOKENS", 6)
    sure = replace(OF_ALL, confidence=Confidence(-3.0, 0.5))
    add_notes(gates=(sure, *GATES[1:]))
    found = evaluate([text], members=["notes"], settings=QUICK).calibration
    assert list(dict.fromkeys(one.name for one in found)) == [CORE, "notes", "ensemble"]
    assert all((one.fitted is None) == (one.name != "ensemble") for one in found)
    (told,) = [one.to_json() for one in found if (one.name, one.unit) == ("ensemble", "word")]
    assert list(told) == ["name", "unit", "count", "right", "error", "fitted_error", "bins"]
    assert 0 < told["count"] <= 6
    entry = Registry().find("notes")
    write_manifest(entry.folder, replace(entry.manifest, gates=tuple(map(asdict, GATES))))
    assert all(one.fitted is None for one in evaluate([text], members=["notes"], settings=QUICK).calibration)


def test_only_text_that_is_written_from_the_left_has_a_probability(text) -> None:
    add_family()
    with pytest.raises(UsageError, match="exact only beside a causal"):
        evaluate([text], members=["notes"], settings=QUICK)
