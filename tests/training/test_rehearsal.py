from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ssdcli.data.windows import Windows, WindowShape
from ssdcli.training.rehearsal import CachedTeacher, Recollection, Rehearsal
from ssdcli.training.teacher import Noised, Teacher
from tests.packed import texts_of
from tests.tiny import VOCABULARY, tiny_tokenizer
from tests.training.test_teacher import noise, taught, texts

ROWS = tiny_tokenizer().get_vocab_size() - 2  # tokens that are text
PROCESSES = pytest.mark.parametrize("process", ["masked", "simplex", "uniform"])


def online(process: str = "masked") -> Teacher:
    teacher = taught(process, 1.0).teacher
    assert isinstance(teacher, Teacher)
    return teacher


def cached(path: Path, kept: int, process: str = "masked") -> CachedTeacher:
    return CachedTeacher(online(process), Recollection(path, 40, kept), VOCABULARY)


def samples(process: str = "masked", *indices: int) -> tuple[Noised, Tensor]:
    """Samples whose text and noise come from their names, and the places that are asked about."""
    each = [noise(texts(i, i + 100), process) for i in indices]
    packed = type(each[0].packed)(*(torch.cat([getattr(n.packed, f) for n in each]) for f in vars(each[0].packed)))
    canvas, t = torch.cat([n.canvas for n in each]), torch.cat([n.t for n in each])
    return Noised(packed, canvas, t, torch.tensor(indices)), torch.cat(
        [torch.arange(40 * row, 40 * row + 40, 3) for row in range(len(indices))]
    )


def expected(teacher: Teacher | CachedTeacher, asked: tuple[Noised, Tensor]) -> Tensor:
    lesson = teacher.lesson(*asked)
    with torch.no_grad():
        return torch.cat([lesson.expected(slice(0, 7)), lesson.expected(slice(7, None))])


@PROCESSES
def test_whole_predictions_that_were_kept_are_what_the_teacher_says(process, tmp_path):
    asked = samples(process, 3, 8)
    direct = expected(online(process), asked)
    teacher = cached(tmp_path / "kept", ROWS, process)
    for _ in range(2):
        torch.testing.assert_close(expected(teacher, asked), direct, rtol=1e-2, atol=1e-6)


def test_what_was_not_kept_of_a_prediction_is_spread_evenly_over_other_text(tmp_path):
    asked = samples("masked", 3, 8)
    direct, kept = expected(online(), asked), expected(cached(tmp_path / "kept", 5), asked)
    top = direct.topk(5)
    torch.testing.assert_close(kept.gather(-1, top.indices), top.values, rtol=1e-2, atol=1e-6)
    rest = kept.scatter(-1, top.indices, 0)
    assert (kept[:, 1:3] == 0).all()
    share = (1 - top.values.sum(-1, keepdim=True)) / (ROWS - 5)
    some = rest > 0
    torch.testing.assert_close(rest[some], share.expand_as(rest)[some], rtol=1e-2, atol=1e-5)
    torch.testing.assert_close(kept.sum(-1), torch.ones(len(kept)))


def test_a_teacher_is_asked_once_about_each_sample_even_across_an_interruption(tmp_path, monkeypatch):
    asked: list[int] = []
    hidden = Teacher.hidden

    def noting(self: Teacher, noised: Noised) -> Tensor:
        asked.extend(noised.index.tolist())
        return hidden(self, noised)

    monkeypatch.setattr(Teacher, "hidden", noting)
    path = tmp_path / "kept"
    before = expected(cached(path, 20), samples("masked", 3, 8))
    again = cached(path, 20)
    assert torch.equal(expected(again, samples("masked", 3, 8)), before)
    assert asked == [3, 8]
    expected(again, samples("masked", 8, 2, 3))
    assert asked == [3, 8, 2]


def test_the_order_in_which_samples_are_met_does_not_matter(tmp_path):
    one, other = cached(tmp_path / "one", 20), cached(tmp_path / "other", 20)
    expected(other, samples("masked", 8))
    both = [expected(teacher, samples("masked", 3, 8)) for teacher in (one, other)]
    torch.testing.assert_close(*both, rtol=1e-2, atol=1e-6)


def test_a_sample_that_was_half_written_is_asked_about_anew(tmp_path):
    path = tmp_path / "kept"
    whole = expected(cached(path, 20), samples("masked", 0, 1))
    content = path.read_bytes()
    for damage in (content[:-9], content[:500] + b"\0" * 64 + content[564:]):
        path.write_bytes(damage)
        assert torch.equal(expected(cached(path, 20), samples("masked", 0, 1)), whole)
        assert path.read_bytes() == content


def test_nobody_else_may_read_what_is_kept(tmp_path):
    cached(tmp_path / "kept", 20)
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o600


def test_tokens_and_share_are_those_of_the_teacher(tmp_path):
    asked = samples("masked", 1)
    teacher = cached(tmp_path / "kept", 20)
    teacher = replace(teacher, teacher=replace(teacher.teacher, share=0.3))
    one, other = teacher.lesson(*asked), teacher.teacher.lesson(*asked)
    assert torch.equal(one.tokens, other.tokens)
    assert one.share == other.share == 0.3


def test_a_rehearsal_repeats_the_first_samples_with_their_names():
    texts = texts_of([list(range(3, 3 + n)) for n in (30, 50, 21)], end=0)
    shape = WindowShape(16, 4)
    ever_new, again = Windows(texts, shape, 0, 100), Rehearsal(texts, shape, 0, 100, 5)
    assert len(again) == 100
    for index in (0, 4, 5, 13, 99):
        one, other = again[index], ever_new[index % 5]
        assert torch.equal(one["index"], torch.tensor(index % 5))
        assert all(torch.equal(one["columns"][name], column) for name, column in other["columns"].items())
