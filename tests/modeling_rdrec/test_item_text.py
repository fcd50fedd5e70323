"""Item vectors made of words: against a dense computation, there and back, and through a saved checkpoint."""

import pytest
import torch

from modeling_rdrec import RDRecConfig, RDRecForConditionalGeneration
from modeling_rdrec.item_text import ItemText


ROWS = [12, 10, 11, 9]
PIECES = [[3, 5, 7], [], [5], [4, 3, 8, 6]]


def weights_of(text_pieces, rows=ROWS, size=13):
    """Row of the table to pieces, as one dense matrix `[size, size]`: what `composed` adds is this times the table."""
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for row, pieces in zip(rows, text_pieces):
        for piece in pieces:
            matrix[row, piece] += len(pieces) ** -0.5
    return matrix


@pytest.fixture
def text():
    return ItemText(ROWS, PIECES)


@pytest.fixture
def table():
    return torch.randn(13, 6, generator=torch.Generator().manual_seed(0))


def test_composed_is_each_rows_own_part_and_its_texts_over_the_root_of_their_number(text, table):
    wanted = table + (weights_of(PIECES).float() @ table)
    torch.testing.assert_close(text.composed(table), wanted)
    torch.testing.assert_close(text.vectors(table), (weights_of(PIECES).float() @ table)[ROWS])
    assert torch.equal(text.composed(table)[:9], table[:9]) and torch.equal(text.vectors(table)[1], torch.zeros(6))


def test_the_gradient_is_that_of_the_dense_computation(table):
    text = ItemText(ROWS, PIECES).double()
    table = table.double().requires_grad_()
    assert torch.autograd.gradcheck(text.composed, table)
    # Weights are kept in float32, which is as exact as a training needs.
    slope = torch.randn(13, 6, generator=torch.Generator().manual_seed(1)).double()
    (got,) = torch.autograd.grad(text.composed(table), table, slope)
    torch.testing.assert_close(got, slope + weights_of(PIECES).T @ slope, atol=1e-6, rtol=1e-6)


def test_items_without_any_text_are_their_own_rows(table):
    text = ItemText(ROWS, [[]] * 4)
    table = table.requires_grad_()
    assert torch.equal(text.composed(table), table)
    (got,) = torch.autograd.grad(text.composed(table).sum(), table)
    assert torch.equal(got, torch.ones_like(table))


def test_fold_and_unfold_are_each_others_inverse(text, table):
    before = table.clone()
    text.fold(table)
    torch.testing.assert_close(table, text.composed(before))
    text.unfold(table)
    torch.testing.assert_close(table, before)


def test_dropped_items_are_their_text_alone(table):
    text = ItemText(ROWS, PIECES, own_dropout=1.0)
    torch.testing.assert_close(text.composed(table)[ROWS[0]], text.vectors(table)[0])
    assert torch.equal(text.composed(table)[ROWS[1]], table[ROWS[1]])  # nothing would be left of it
    text.eval()
    torch.testing.assert_close(text.composed(table)[ROWS[0]], table[ROWS[0]] + text.vectors(table)[0])
    half = ItemText(list(range(1000, 2000)), [[1]] * 1000, own_dropout=0.5)
    torch.manual_seed(0)
    ones = torch.ones(2000, 1)
    assert float((half.composed(ones)[1000:] == 1).float().mean()) == pytest.approx(0.5, abs=0.05)


# --- in a model ------------------------------------------------------------------------------------------------------


@pytest.fixture
def model():
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "history": "decoder"}
    return RDRecForConditionalGeneration(RDRecConfig(vocab_size=13, ids_are_pieces=True, **sizes)).eval()


BATCH = {
    "input_ids": torch.tensor([[3, 5, 1]]),
    "task_ids": torch.tensor([1]),
    "decoder_input_ids": torch.tensor([[0, 12, 10, 9]]),
}


@torch.no_grad()
def test_composing_changes_nothing_of_what_a_model_computes(model, text):
    before = model(**BATCH).logits
    model.compose_items(text)
    assert not any("item_text" in name for name in model.state_dict())
    with model.folded():
        torch.testing.assert_close(model(**BATCH).logits, before, atol=1e-5, rtol=1e-5)
        assert model.item_text is None
    assert model.item_text is text


@torch.no_grad()
def test_folded_restores_the_weights_bit_for_bit(model, text):
    model.compose_items(text)
    own = model.shared.weight.clone()
    with pytest.raises(RuntimeError, match="while saving"), model.folded():
        assert not torch.equal(model.shared.weight, own)
        raise RuntimeError("while saving")
    assert torch.equal(model.shared.weight, own) and model.item_text is text
    assert model.lm_head.weight is model.shared.weight


def test_a_saved_model_equals_what_was_trained(model, text, tmp_path):
    """The loss of training, composed on the fly, and that of the plain T5 that is saved."""
    model.compose_items(text)
    labels = torch.tensor([[12, 10, 9, 11]])
    trained = {
        "input_ids": BATCH["input_ids"],
        "task_ids": BATCH["task_ids"],
        "labels": labels,
        "target_places": torch.arange(4),
        "negatives": torch.tensor(sorted(ROWS)),
        "num_classes": 4,
    }
    loss = model(**trained).loss
    loss.backward()
    assert model.shared.weight.grad[PIECES[0]].abs().sum() > 0
    with model.folded():
        model.save_pretrained(tmp_path)
    again = RDRecForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert again.item_text is None
    with torch.no_grad():
        torch.testing.assert_close(again(**trained).loss, loss.detach(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(again.shared.weight, text.composed(model.shared.weight))
        logits = again(input_ids=BATCH["input_ids"], task_ids=BATCH["task_ids"], labels=labels).logits[0]
    among = sorted(ROWS)
    plain = torch.nn.functional.cross_entropy(
        logits[:, among], torch.tensor([among.index(token) for token in labels[0].tolist()])
    )
    torch.testing.assert_close(plain, loss.detach(), atol=1e-5, rtol=1e-5)
