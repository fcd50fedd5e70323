"""The model as a transformers model: inputs, generation, saving, and what else of the library must work on it."""

import json
import shutil
import subprocess
import sys
import textwrap

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig, TaskType, get_peft_model
from transformers import (
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
)

from modeling_rdrec import RDRecConfig, RDRecForConditionalGeneration


@pytest.fixture
def batch(tokenizer):
    texts = ["user_3 item_10 item_20 item_30", "user_4 item_11"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    batch["task_ids"] = torch.tensor([1, 1])
    labels = tokenizer(["40", "7 8 9"], padding=True, return_tensors="pt")
    batch["labels"] = labels["input_ids"].masked_fill(labels["attention_mask"] == 0, -100)
    return dict(batch)


def without(batch, *names):
    return {name: value for name, value in batch.items() if name not in names}


@torch.no_grad()
def test_inputs_of_rdrec_may_be_absent(model, batch):
    bare = model(**without(batch, "whole_word_ids"))
    zeros = model(**{**batch, "whole_word_ids": torch.zeros_like(batch["whole_word_ids"])})
    torch.testing.assert_close(bare.logits, zeros.logits)
    assert not torch.allclose(model(**batch).logits, bare.logits)
    length = batch["input_ids"].shape[1]
    assert model(**batch).encoder_last_hidden_state.shape[1] == length + model.config.prompt_length
    assert model(**without(batch, "task_ids")).encoder_last_hidden_state.shape[1] == length
    other = model(**{**batch, "task_ids": torch.tensor([2, 2])})
    assert not torch.allclose(other.logits, model(**batch).logits)


@pytest.mark.parametrize(("name", "value"), [("whole_word_ids", 512), ("task_ids", 5), ("task_ids", -1)])
def test_ids_outside_their_table_are_named(model, batch, name, value):
    batch[name] = torch.full_like(batch[name], value)
    for mode in (model.train, model.eval):
        mode()
        with pytest.raises(ValueError, match=f"{name} must lie in .*got {value}"):
            model(**batch)


@torch.no_grad()
def test_losses_of_parts_add_up(model, batch):
    """`num_items_in_batch` makes a batch's mean loss the sum of its rows' losses."""
    total = int((batch["labels"] != -100).sum())
    parts = [
        model(**{name: value[row : row + 1] for name, value in batch.items()}, num_items_in_batch=total).loss
        for row in range(2)
    ]
    torch.testing.assert_close(sum(parts), model(**batch).loss)


@torch.no_grad()
@pytest.mark.parametrize("mode", [{}, {"num_beams": 3, "num_return_sequences": 2}, {"do_sample": True}])
def test_generate_modes_see_all_inputs(model, batch, mode):
    inputs = without(batch, "labels")
    settings = {"max_new_tokens": 6, **mode}

    def run(inputs):
        torch.manual_seed(1)
        return model.generate(**inputs, **settings, return_dict_in_generate=True, output_logits=True)

    out = run(inputs)
    assert out.sequences.shape[0] == 2 * mode.get("num_return_sequences", 1)
    for missing in ("whole_word_ids", "task_ids"):
        assert not torch.allclose(run(without(inputs, missing)).logits[0], out.logits[0])
    # A row alone gives what it gives in the padded batch.
    alone = {name: value[1:, :5] if value.ndim == 2 else value[1:] for name, value in inputs.items()}
    assert alone["attention_mask"].sum() == inputs["attention_mask"][1].sum()
    beams = mode.get("num_beams", 1)
    torch.testing.assert_close(run(alone).logits[0], out.logits[0][beams:], atol=1e-4, rtol=1e-4)


def test_greedy_generation_equals_teacher_forcing(model, batch):
    inputs = without(batch, "labels")
    sequence = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    with torch.no_grad():
        logits = model(**inputs, decoder_input_ids=sequence[:, :-1]).logits
    for row in range(2):
        for place, token in enumerate(sequence[row, 1:]):
            assert token == logits[row, place].argmax()
            if token == model.config.eos_token_id:
                break


def test_generate_from_encoder_outputs_and_positional_inputs(model, batch):
    inputs = without(batch, "labels")
    want = model.generate(**inputs, max_new_tokens=5)
    states, mask = model.encode(**inputs)
    assert torch.equal(model.generate(encoder_outputs=states, attention_mask=mask, max_new_tokens=5), want)
    rest = without(inputs, "input_ids")
    assert torch.equal(model.generate(inputs["input_ids"], **rest, max_new_tokens=5), want)
    with pytest.raises(ValueError, match="tokenize a prompt first"):
        model.generate(max_new_tokens=5)


@torch.no_grad()
def test_sdpa_uses_the_position_bias(model, batch):
    model.set_attn_implementation("eager")
    eager = model(**batch).logits
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(model(**batch).logits, eager, atol=1e-5, rtol=1e-5)
    model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.mul_(50)
    assert not torch.allclose(model(**batch).logits, eager, atol=1e-3)


def test_starts_from_a_plain_t5(tmp_path):
    config = T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=50, decoder_start_token_id=0)
    t5 = T5ForConditionalGeneration(config)
    t5.save_pretrained(tmp_path)
    model, report = RDRecForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == {"prompt_embeddings.weight", "whole_word_embeddings.weight"}
    torch.testing.assert_close(model.shared.weight, t5.shared.weight)
    torch.testing.assert_close(model.lm_head.weight, t5.shared.weight)
    prompts = model.prompt_embeddings.weight
    assert prompts.shape == (15, 16) and prompts.abs().max() <= 0.1 and prompts.std() > 0.04
    assert 0.9 < model.whole_word_embeddings.weight.std() < 1.1


def test_config_refuses_empty_tables():
    with pytest.raises(StrictDataclassError, match="num_tasks=0 is too small"):
        RDRecConfig(num_tasks=0)


def test_prompts_and_marks_of_whole_words_can_be_left_out(model, tokenizer, batch, tmp_path):
    """For studies of what they are worth: neither then changes anything, also in a model that was saved."""
    config = RDRecConfig(**{**model.config.to_dict(), "prompt_length": 0, "marks_whole_words": False})
    bare = RDRecForConditionalGeneration(config).eval()
    said = bare(**batch)
    other = {"task_ids": torch.tensor([2, 2]), "whole_word_ids": torch.zeros_like(batch["whole_word_ids"])}
    torch.testing.assert_close(bare(**{**batch, **other}).logits, said.logits)
    assert said.encoder_last_hidden_state.shape[1] == batch["input_ids"].shape[1]
    bare.save_pretrained(tmp_path)
    loaded = RDRecForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.whole_word_embeddings is None
    torch.testing.assert_close(loaded(**batch).logits, said.logits)
    assert loaded.generate(**without(batch, "labels"), max_new_tokens=3).shape[0] == 2


def test_resized_vocabulary_still_runs(model, batch):
    model.resize_token_embeddings(model.config.vocab_size + 8)
    assert model(**batch).logits.shape[-1] == model.config.vocab_size == model.shared.num_embeddings


def test_gradient_checkpointing_gives_the_same_gradients(model, batch):
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "relative_attention_num_buckets"):
            module.dropout = 0.0
    model(**batch).loss.backward()
    want = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(**batch).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, want[name], msg=name)


@pytest.mark.slow
def test_torch_compile(model, batch):
    want = model(**batch)
    compiled = torch.compile(model, backend="aot_eager", dynamic=True)
    got = compiled(**batch)
    torch.testing.assert_close(got.logits, want.logits, atol=1e-5, rtol=1e-5)
    got.loss.backward()


def test_lora(model, batch, tmp_path):
    config = LoraConfig(
        task_type=TaskType.SEQ_2_SEQ_LM,
        r=2,
        target_modules=["q", "v"],
        modules_to_save=["prompt_embeddings", "whole_word_embeddings"],
    )
    torch.manual_seed(0)
    peft_model = get_peft_model(model, config)
    optimizer = torch.optim.SGD([p for p in peft_model.parameters() if p.requires_grad], lr=0.1)
    before = peft_model(**batch).loss
    for _ in range(3):
        loss = peft_model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < before
    peft_model.eval()
    peft_model.save_pretrained(tmp_path)
    tokens = peft_model.generate(**without(batch, "labels"), max_new_tokens=4)
    assert tokens.shape[0] == 2
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
def test_seq2seq_trainer(model, tokenizer, tmp_path):
    def feature(user):
        encoded = tokenizer(f"user_{user} item_{user + 5}")
        return {**encoded, "task_ids": 1, "labels": tokenizer(str(user))["input_ids"]}

    features = [feature(user) for user in range(1, 9)]
    trainer = Seq2SeqTrainer(
        model,
        Seq2SeqTrainingArguments(
            output_dir=str(tmp_path),
            max_steps=2,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            predict_with_generate=True,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            use_cpu=True,
        ),
        train_dataset=features,
        eval_dataset=features,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        processing_class=tokenizer,
    )
    assert trainer.train().training_loss > 0
    assert trainer.predict(features).predictions.shape[0] == len(features)


def test_save_and_load_round_trip(model, batch, tmp_path):
    model.save_pretrained(tmp_path)
    again = RDRecForConditionalGeneration.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, model(**batch).logits)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "rdrec"
    assert set(config["auto_map"]) == {"AutoConfig", "AutoModel", "AutoModelForSeq2SeqLM", "AutoTokenizer"}
    assert not list(tmp_path.glob("*.bin"))


@pytest.mark.slow
def test_a_checkpoint_loads_where_nothing_of_this_project_is(tiny_checkpoint, tmp_path):
    """A fresh process, elsewhere, with an empty module cache, has only the checkpoint folder."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "elsewhere" / "checkpoint")
    program = textwrap.dedent(
        """
        import sys, torch
        from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer
        folder, again = sys.argv[1:]
        assert not any(name.startswith(("modeling_rdrec", "rdrec", "dataset_builder")) for name in sys.modules)
        model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
        assert AutoConfig.from_pretrained(folder, trust_remote_code=True).model_type == "rdrec"
        other = AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True).eval()
        batch = tokenizer(["user_1 item_2"], return_tensors="pt")
        batch["task_ids"] = torch.tensor([1])
        tokens = model.generate(**batch, num_beams=3, max_new_tokens=4)
        assert torch.equal(tokens, other.generate(**batch, num_beams=3, max_new_tokens=4))
        model.save_pretrained(again); tokenizer.save_pretrained(again)
        third = AutoModel.from_pretrained(again, trust_remote_code=True).eval()
        assert torch.equal(tokens, third.generate(**batch, num_beams=3, max_new_tokens=4))
        print(tokens.tolist())
        """
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, str(folder), str(tmp_path / "again")],
        cwd=tmp_path,
        env={"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    here = RDRecForConditionalGeneration.from_pretrained(tiny_checkpoint).eval()
    from modeling_rdrec import RDRecTokenizer

    batch = RDRecTokenizer.from_pretrained(tiny_checkpoint)(["user_1 item_2"], return_tensors="pt")
    tokens = here.generate(**batch, task_ids=torch.tensor([1]), num_beams=3, max_new_tokens=4)
    assert done.stdout.strip().splitlines()[-1] == str(tokens.tolist())


def test_recommend_rank_and_explain_speak_raw_ids_and_integers(model, tokenizer):
    user, items = tokenizer.to_raw("user", 5), [tokenizer.to_raw("item", n) for n in (3, 4)]
    one = model.recommend(tokenizer, user=user, history=items, k=4)
    many = model.recommend(tokenizer, user=[5, 5], history=[[3, 4], [3, 4]], k=4, internal_ids=True)
    assert many[0] == many[1]
    assert one.items == [tokenizer.to_raw("item", item) for item in many[0].items]
    assert one.scores == pytest.approx(many[0].scores, abs=1e-5)
    assert not set(one.items) & set(items) and len(set(one.items)) == len(one.items) <= 4
    best = model.rank(tokenizer, user=5, candidates=[10, 11, 12], internal_ids=True)
    assert set(best.items) <= {10, 11, 12}
    sentence = model.explain(tokenizer, user=user, item=items[0])
    assert isinstance(sentence, str) and [sentence] == model.explain(tokenizer, user=[5], item=[3], internal_ids=True)
    with pytest.raises(ValueError, match="unknown item 'NOPE'"):
        model.recommend(tokenizer, user=user, history=["NOPE"])
    with pytest.raises(ValueError, match="give one list a user"):
        model.recommend(tokenizer, user=[5, 6], history=[[1]], internal_ids=True)
