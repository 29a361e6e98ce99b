from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ssdcli.engine.ensemble.guidance import CANDIDATES, ClassifierGuide, guided, guided_from_left, guided_next

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
    """What log p(label) gains, to first order, as a token takes over a share of a position: as autograd finds it."""
    p = log_p.exp().requires_grad_()
    before = torch.cat([reader.opening.expand(len(written), -1), written], dim=1)
    after = reader.closing.expand(len(written), -1)
    text = torch.cat([reader.table[before], p @ reader.table[:V], reader.table[after]], dim=1)
    by_p = torch.autograd.grad(reader.log_p(text)[:, label].sum(), p)[0]
    return by_p - (log_p.exp() * by_p).sum(-1, keepdim=True)


def exclude(log_p: Tensor) -> Tensor:
    """The same without the tokens 0 to 4, and at the first position with token 5 alone."""
    log_p = log_p.clone()
    log_p[..., :5] = -math.inf
    log_p[:, 0, 6:] = -math.inf
    return log_p.log_softmax(-1)


@given(st.integers(0, 10_000), st.integers(0, LABELS - 1), st.integers(0, 5))
def test_the_push_is_the_gradient_by_the_tokens_probabilities(seed, label, length):
    reader, log_p, written = Reader(seed), predictions(seed + 1), WRITTEN[:, :length]
    push = ClassifierGuide(reader, label, 1.0).push(log_p, written)
    torch.testing.assert_close(push, expected_push(reader, log_p, written, label), rtol=1e-4, atol=1e-4)
    assert push.abs().max() > 1e-3


class Linear(Reader):
    """Scores a text by the sum of what its embeddings are worth to each label."""

    def log_p(self, embedded: Tensor) -> Tensor:
        return embedded.sum(1) @ self.head


@pytest.mark.parametrize("scale", [0.5, 3.0, -2.0])
def test_under_a_linear_classifier_a_canvas_is_drawn_from_p_times_c_to_the_scale(scale):
    reader, log_p = Linear(), predictions()
    c = (reader.table @ reader.head[:, 1]).detach()
    expected = torch.log_softmax(log_p + scale * c, -1)
    torch.testing.assert_close(guided(log_p, [ClassifierGuide(reader, 1, scale)], WRITTEN), expected)


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


def test_the_likeliest_next_tokens_are_weighed_by_the_classifier_and_keep_their_mass():
    reader, log_p, before = Reader(), predictions()[0, 0], WRITTEN[0]
    guides = [ClassifierGuide(reader, 1, 3.0), ClassifierGuide(reader, 2, -2.0)]
    weighed = guided_next(log_p, guides, before)
    ids = log_p.topk(CANDIDATES).indices
    texts = torch.cat([torch.tensor([7, 8]), before, torch.tensor([0]), torch.tensor([9])]).repeat(CANDIDATES, 1)
    texts[:, -2] = ids
    says = reader.log_p(reader.table[texts])
    expected = torch.softmax(log_p[ids] + 3 * says[:, 1] - 2 * says[:, 2], 0) * log_p[ids].exp().sum()
    torch.testing.assert_close(weighed[ids].exp(), expected)
    others = torch.ones(V, dtype=torch.bool).index_fill(0, ids, False)
    assert torch.equal(weighed[others], log_p[others])
    assert len(ids) < V


def test_from_the_left_the_first_hidden_position_of_each_row_is_weighed_after_what_is_known():
    log_p, guides = predictions(), [ClassifierGuide(Reader(), 1, 3.0)]
    tokens = torch.arange(B * L).view(B, L) % V
    shown = torch.arange(L) < torch.tensor([[0], [2], [L - 1], [L]])
    weighed = guided_from_left(log_p, guides, WRITTEN, (tokens, shown))
    for row, place in enumerate([0, 2, L - 1]):
        before = torch.cat([WRITTEN[row], tokens[row, :place]])
        expected = log_p[row].clone()
        expected[place] = guided_next(expected[place], guides, before)
        assert torch.equal(weighed[row], expected)
        assert not torch.equal(weighed[row], log_p[row])
    assert torch.equal(weighed[3], log_p[3])


def test_where_nobody_predicts_the_next_token_nothing_is_asked():
    reader, nothing = Reader(), torch.full((V,), math.nan)
    assert guided_next(nothing, [ClassifierGuide(reader, 1, 3.0)], WRITTEN[0]).isnan().all()
    assert reader.read == []
