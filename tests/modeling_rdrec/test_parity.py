"""The model against the reference implementation's own figures (`../shared/parity`)."""

import json

import numpy as np
import pytest
import torch

from modeling_rdrec import RDRecConfig, RDRecForConditionalGeneration, RDRecTokenizer


@pytest.fixture(scope="module")
def parity(shared_dir):
    return shared_dir / "parity"


@pytest.fixture(scope="module")
def t5_tokenizer(shared_dir):
    return RDRecTokenizer.from_pretrained(shared_dir / "t5_tokenizer")


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def reference_model(parity, request, tmp_path_factory):
    """The tiny model of the parity files, loaded by name through `from_pretrained`."""
    config = RDRecConfig(**json.loads((parity / "tiny_model.json").read_text()))
    folder = tmp_path_factory.mktemp("parity")
    config.save_pretrained(folder)
    (folder / "model.safetensors").symlink_to(parity / "tiny_model.safetensors")
    model, report = RDRecForConditionalGeneration.from_pretrained(
        folder, attn_implementation=request.param, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    return model.eval()


@pytest.fixture(scope="module")
def rows(parity):
    """Task id, row number, arrays and expected figures of every row that was computed alone."""
    arrays = np.load(parity / "forward.npz")
    tasks = json.loads((parity / "forward.json").read_text())

    def array(name):
        return torch.from_numpy(arrays[name])

    return tasks, array


def inputs(array, prefix, batch=False):
    shape = (lambda tensor: tensor.long()) if batch else (lambda tensor: tensor.long().view(1, -1))
    return {name: shape(array(f"{prefix}_{name}")) for name in ("input_ids", "whole_word_ids", "labels")}


def test_whole_word_ids_equal_on_every_row(parity, t5_tokenizer):
    rows = json.loads((parity / "whole_word_ids.json").read_text())
    encoded = t5_tokenizer([row["text"] for row in rows])
    assert encoded["input_ids"] == [row["input_ids"] for row in rows]
    assert encoded["whole_word_ids"] == [row["whole_word_ids"] for row in rows]


@torch.no_grad()
def test_losses_logits_and_states_of_single_rows(reference_model, rows):
    tasks, array = rows
    for task in tasks:
        for number, row in enumerate(task["rows"]):
            prefix = f"t{task['task_id']}_r{number}"
            out = reference_model(**inputs(array, prefix), task_ids=torch.tensor([task["task_id"]]))
            assert out.loss.item() == pytest.approx(row["loss"], abs=1e-5)
            states = array(f"{prefix}_encoder_last_hidden_state")
            torch.testing.assert_close(out.encoder_last_hidden_state[0], states, atol=1e-4, rtol=0)
            chosen = out.logits[0].gather(1, array(f"{prefix}_logits_top32_ids").long())
            torch.testing.assert_close(chosen, array(f"{prefix}_logits_top32_values"), atol=1e-4, rtol=0)
            total = out.logits[0].logsumexp(-1)
            torch.testing.assert_close(total, array(f"{prefix}_logits_logsumexp"), atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_row_in_a_padded_batch_gives_what_it_gives_alone(reference_model, rows):
    tasks, array = rows
    for task in tasks:
        prefix = f"t{task['task_id']}"
        batch = inputs(array, f"{prefix}_batch", batch=True)
        mask = array(f"{prefix}_batch_attention_mask").long()
        labels = batch.pop("labels")
        labels = labels.masked_fill(labels == reference_model.config.pad_token_id, -100)
        task_ids = torch.full((len(mask),), task["task_id"])
        out = reference_model(**batch, labels=labels, attention_mask=mask, task_ids=task_ids)
        for number, row in enumerate(task["rows"]):
            loss = torch.nn.functional.cross_entropy(out.logits[number], labels[number])
            assert loss.item() == pytest.approx(row["loss"], abs=1e-5)


@torch.no_grad()
def test_reference_padding_gives_the_reference_loss_of_a_padded_batch(reference_model, rows):
    tasks, array = rows
    reference_model.config.reference_padding = True
    try:
        for task in tasks:
            batch = inputs(array, f"t{task['task_id']}_batch", batch=True)
            mask = array(f"t{task['task_id']}_batch_attention_mask").long()
            pads = batch["labels"] == reference_model.config.pad_token_id
            task_ids = torch.full((len(mask),), task["task_id"])
            for labels in (batch["labels"], batch["labels"].masked_fill(pads, -100)):
                out = reference_model(**{**batch, "labels": labels}, attention_mask=mask, task_ids=task_ids)
                assert out.loss.item() == pytest.approx(task["batch_loss_published"], abs=1e-5)
    finally:
        reference_model.config.reference_padding = False


@pytest.mark.slow
def test_beams_equal(parity, reference_model, t5_tokenizer):
    for case in json.loads((parity / "beam_search.json").read_text()):
        sequences = reference_model.generate(
            **t5_tokenizer(case["prompt"], return_tensors="pt"),
            task_ids=torch.tensor([case["task_id"]]),
            num_beams=case["num_beams"],
            num_return_sequences=case["num_return_sequences"],
            max_length=case["max_length"],
            early_stopping=True,
            do_sample=False,
        )
        assert sequences.tolist() == case["sequences"]
