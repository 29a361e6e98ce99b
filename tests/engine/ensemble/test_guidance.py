from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ssdcli.engine.ensemble.guidance import ClassifierGuide, guided

B, L, V, H, LABELS = 4, 6, 40, 32, 3
WRITTEN = torch.arange(B * 5).view(B, 5) % V


class Reader(nn.Module):
    """A small classifier that is no linear function of its text, and whose labels depend on the order of tokens."""

    def __init__(self, seed: int = 0, rows: int = V, window: int = 64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn(rows, H, generator=generator)
        self.window = window
        self.opening, self.closing = torch.tensor([7, 8]), torch.tensor([9])
        self.inner = nn.Parameter(torch.randn(H, H, generator=generator) / 4)
        self.head = nn.Parameter(torch.randn(H, LABELS, generator=generator) / 16)
        self.read: list[Tensor] = []

    def log_p(self, embedded: Tensor) -> Tensor:
        self.read.append(embedded.detach())
        place = torch.linspace(0.5, 1.5, embedded.shape[1])[:, None]
        return torch.log_softmax(torch.tanh(embedded * place @ self.inner).sum(1) @ self.head, dim=-1)


def predictions(seed: int = 0, rows: int = B) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(2 * torch.randn(rows, L, V, generator=generator), dim=-1)


def expected_push(reader: Reader, log_p: Tensor, written: Tensor, label: int) -> Tensor:
    """The gradient by the logits as autograd finds it."""
    logits = log_p.clone().requires_grad_()
    canvas = logits.softmax(-1) @ reader.table[:V]
    before = torch.cat([reader.opening.expand(len(written), -1), written], dim=1)
    after = reader.closing.expand(len(written), -1)
    text = torch.cat([reader.table[before], canvas, reader.table[after]], dim=1)
    return torch.autograd.grad(reader.log_p(text)[:, label].sum(), logits)[0]


def exclude(log_p: Tensor) -> Tensor:
    """The same without the tokens 0 to 4, and at the first position with token 5 alone."""
    log_p = log_p.clone()
    log_p[..., :5] = -math.inf
    log_p[:, 0, 6:] = -math.inf
    return log_p.log_softmax(-1)


@given(st.integers(0, 10_000), st.integers(0, LABELS - 1), st.integers(0, 5))
def test_the_push_is_the_gradient_through_the_softmax(seed, label, length):
    reader, log_p, written = Reader(seed), predictions(seed + 1), WRITTEN[:, :length]
    push = ClassifierGuide(reader, label, 1.0).push(log_p, written)
    torch.testing.assert_close(push, expected_push(reader, log_p, written, label), rtol=1e-5, atol=1e-5)
    assert push.abs().max() > 1e-3


def test_a_push_is_what_the_label_gains_by_a_small_step():
    reader, log_p, step = Reader(), predictions(), 1e-2
    before = reader_log_p(reader, log_p)
    for label in range(LABELS):
        push = ClassifierGuide(reader, label, 1.0).push(log_p, WRITTEN)
        for sign in (1, -1):
            gained = (
                reader_log_p(reader, guided(log_p, [ClassifierGuide(reader, label, sign * step)], WRITTEN)) - before
            )
            promised = sign * step * push.square().sum((1, 2))
            torch.testing.assert_close(gained[:, label], promised, rtol=0.1, atol=1e-4)


def reader_log_p(reader: Reader, log_p: Tensor) -> Tensor:
    guide = ClassifierGuide(reader, 0, 1.0)
    guide.push(log_p, WRITTEN)
    return reader.log_p(torch.cat(reader.read[-len(log_p) :]))


def test_an_excluded_token_stays_excluded_and_the_others_stay_a_distribution():
    log_p = exclude(predictions())
    pushed = guided(log_p, [ClassifierGuide(Reader(), 1, 50.0)], WRITTEN)
    assert torch.equal(pushed.isneginf(), log_p.isneginf())
    torch.testing.assert_close(pushed.exp().sum(-1), torch.ones(B, L))
    assert not torch.allclose(pushed[:, 1:], log_p[:, 1:])


def test_where_nobody_predicts_any_token_may_follow_and_nothing_is_pushed():
    reader, log_p = Reader(), predictions()
    silent = torch.arange(L) > 2
    unknown = log_p.masked_fill(silent[:, None], math.nan)
    pushed = guided(unknown, [ClassifierGuide(reader, 1, 4.0)], WRITTEN)
    level = log_p.masked_fill(silent[:, None], -math.log(V))
    assert pushed[:, silent].isnan().all()
    expected = guided(level, [ClassifierGuide(reader, 1, 4.0)], WRITTEN)
    torch.testing.assert_close(pushed[:, ~silent], expected[:, ~silent])


def test_without_a_guide_or_with_a_scale_of_zero_nothing_changes_and_nothing_is_asked():
    log_p, reader = predictions(), Reader()
    assert torch.equal(guided(log_p, [], WRITTEN), log_p)
    assert torch.equal(guided(log_p, [ClassifierGuide(reader, 0, 0.0)] * 2, WRITTEN), log_p)
    assert reader.read == []
    one = ClassifierGuide(Reader(), 1, 3.0)
    both = guided(log_p, [ClassifierGuide(reader, 0, 0.0), one], WRITTEN)
    assert torch.equal(both, guided(log_p, [one], WRITTEN))


def test_guides_add_up_by_their_scales():
    log_p = predictions()
    guides = [
        ClassifierGuide(Reader(1), 0, 3.0),
        ClassifierGuide(Reader(2), 2, -7.0),
        ClassifierGuide(Reader(3), 1, 1.0),
    ]
    total = sum(guide.scale * guide.push(log_p, WRITTEN) for guide in guides)
    torch.testing.assert_close(guided(log_p, guides, WRITTEN), (log_p + total).log_softmax(-1))
    torch.testing.assert_close(guided(log_p, guides[::-1], WRITTEN), guided(log_p, guides, WRITTEN))


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7, 12])
def test_a_row_is_pushed_as_it_is_alone(rows):
    log_p = predictions(rows=12)
    written = torch.arange(12 * 5).view(12, 5) % V
    guide = ClassifierGuide(Reader(), 2, 1.0)
    together = guide.push(log_p[:rows], written[:rows])
    for row in range(rows):
        assert torch.equal(guide.push(log_p[row : row + 1], written[row : row + 1])[0], together[row])


def test_a_guide_works_where_gradients_are_off_and_leaves_none_behind():
    reader, log_p = Reader(), predictions()
    guide = ClassifierGuide(reader, 0, 2.0)
    inside = guide.push(log_p, WRITTEN)
    with torch.no_grad():
        assert torch.equal(guide.push(log_p, WRITTEN), inside)
    assert not inside.requires_grad
    assert [parameter.grad for parameter in reader.parameters()] == [None, None]
    assert log_p.grad is None


def test_no_graph_holds_a_tensor_of_vocabulary_size():
    saved: list[tuple[int, ...]] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        ClassifierGuide(Reader(), 0, 1.0).push(predictions(), WRITTEN)
    assert saved
    assert not [shape for shape in saved if V in shape]


@pytest.mark.parametrize(("window", "kept"), [(64, 5), (L + 3 + 5, 5), (L + 3 + 2, 2), (L + 3, 0)])
def test_the_classifier_reads_the_end_of_what_is_written_and_the_canvas_between_special_tokens(window, kept):
    reader, log_p = Reader(window=window), predictions(rows=1)
    ClassifierGuide(reader, 0, 1.0).push(log_p, WRITTEN[:1])
    (text,) = reader.read
    before, after = text[0, : 2 + kept], text[0, 2 + kept + L :]
    assert torch.equal(before, reader.table[[7, 8, *WRITTEN[0, 5 - kept :].tolist()]])
    assert torch.equal(text[0, 2 + kept : -1], log_p[0].softmax(-1) @ reader.table)
    assert torch.equal(after, reader.table[[9]])


def test_a_canvas_that_does_not_fit_the_window_is_refused():
    with pytest.raises(ValueError, match=f"canvas of {L} tokens does not fit a classifier's window of {L + 2}"):
        ClassifierGuide(Reader(window=L + 2), 0, 1.0).push(predictions(), WRITTEN)


def test_ids_that_only_the_classifier_knows_are_unused():
    wide, narrow, log_p = Reader(rows=V + 9), Reader(), predictions()
    narrow.load_state_dict(wide.state_dict())
    narrow.table = wide.table[:V]
    assert torch.equal(
        ClassifierGuide(wide, 1, 1.0).push(log_p, WRITTEN), ClassifierGuide(narrow, 1, 1.0).push(log_p, WRITTEN)
    )
