"""Cards: only measured figures, both protocols side by side, and data that cannot break YAML or Markdown."""

import json

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard
from markdown_it import MarkdownIt

from dataset_builder.tables import Tables, fingerprint, load_tables
from rdrec.errors import DatasetError, UserError
from rdrec.publishing import cards, contents
from rdrec.publishing.cards import Stated, dataset_card, escape, model_card, one_line
from rdrec.publishing.hub import PublishError, sha256_of
from rdrec.publishing.measures import measure
from tests.fakes.releasing import asked


HOSTILE = [
    "a\n---\nlicense: mit\n---\n# gone",
    "| a | b |\n| --- |",
    "<script>alert(1)</script>",
    "[click](javascript:alert(1)) ![x](http://x/y.png)",
    "`code` **bold** _it_ # head ~~gone~~ {{ card_data }} {% raw %}",
    "quote \" ' : & * ! % @ \\ \u202e\u0000\x1b[31m",
    "x" * 5000,
]
INFO = {
    "domain": "beauty",
    "protocol": "clean",
    "seed": 3,
    "source": {"kind": "reviews"},
    "counts": {"users": 10, "items": 20, "interactions": 50},
    "fingerprint": "f" * 64,
}
RECORD = {
    "recipe": {
        "dataset": "/home/me/data/beauty",
        "output_dir": "/home/me/runs/beauty",
        "model_name_or_path": "google-t5/t5-small",
        "train_batch_size": 64,
        "learning_rate": 0.0005,
        "seed": 42,
    },
    "dataset": INFO,
    "model": {"parameters": 60_000_000},
    "steps": 100,
    "best_step": 90,
    "best_validation_loss": 1.25,
    "minutes": 3.5,
    "processes": 1,
    "device": "cpu",
    "tokens_per_second": 1234.5,
    "mixed_precision": "no",
    "versions": {"torch": "2.13.0"},
}


def results(digest, protocol="clean", **changes):
    scores = {"sequential": {"hr@5": 0.0611, "ndcg@5": 0.0422}, "topn": {"hr@1": 0.1234}}
    made = {
        "model_sha256": digest,
        "dataset": INFO,
        "protocol": protocol,
        "split": "test",
        "max_samples": None,
        "queries": {"sequential": 10, "topn": 10},
        "results": scores,
        "reference_points": {"sequential": {"transitions": {"hr@5": 0.054, "ndcg@5": 0.0394}}, "topn": {}},
    }
    return made | changes


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with the files a card is made from, the weights standing for themselves."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    (folder / "training_record.json").write_text(json.dumps(RECORD))
    (folder / "eval_results.json").write_text(json.dumps(results(sha256_of(b"weights"))))
    return folder


def metadata(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_a_models_card_shows_what_was_measured(checkpoint):
    card = model_card("rdrec/rdrec-beauty", checkpoint, "rdrec/beauty-rationales")
    data = ModelCard(card).data
    found = {(one.task_name, one.metric_type): one.metric_value for one in data.eval_results}
    assert found == {
        ("Sequential recommendation", "hr@5"): 0.0611,
        ("Sequential recommendation", "ndcg@5"): 0.0422,
        ("Top-N recommendation", "hr@1"): 0.1234,
    }
    assert data.eval_results[0].dataset_type == "rdrec/beauty-rationales" and data.base_model == "google-t5/t5-small"
    assert "| hr\\@5 | 0.0611 | 0.0540 |" in card and sha256_of(b"weights") in card
    assert "The `published` protocol: not measured." in card and "**Explanation**: not measured." in card
    assert 'AutoModel.from_pretrained("rdrec/rdrec-beauty", trust_remote_code=True)' in card
    assert 'load_dataset("rdrec/beauty-rationales"' in card and "/home/me" not in card


def test_both_protocols_stand_side_by_side(checkpoint, tmp_path):
    other = tmp_path / "other.json"
    other.write_text(json.dumps(results("0" * 64, "published", results={"sequential": {"hr@5": 0.09}})))
    card = model_card("rdrec/m", checkpoint, None, [other])
    assert "| `clean`, this model | `published`, another checkpoint | transitions (clean) |" in card
    assert "| hr\\@5 | 0.0611 | 0.0900 | 0.0540 |" in card and "| ndcg\\@5 | 0.0422 | not measured | 0.0394 |" in card
    assert "protocol: not measured" not in card
    # What another checkpoint reached is not this one's result.
    assert 0.09 not in [one.metric_value for one in ModelCard(card).data.eval_results]


def test_a_part_of_the_queries_is_called_a_part(checkpoint):
    (checkpoint / "eval_results.json").write_text(json.dumps(results(sha256_of(b"weights"), max_samples=7)))
    card = model_card("rdrec/m", checkpoint, None)
    assert "first 7 queries only" in card and "model-index" not in metadata(card)


def test_what_is_missing_is_said(checkpoint):
    for name in ("training_record.json", "eval_results.json"):
        (checkpoint / name).unlink()
    card = model_card("rdrec/m", checkpoint, None)
    assert "Not measured: no `eval_results.json`" in card and "its training was not recorded" in card
    assert "accelerate launch" not in card and "load_dataset" not in card


def test_figures_of_other_weights_are_refused(checkpoint):
    (checkpoint / "model.safetensors").write_bytes(b"trained on")
    with pytest.raises(PublishError, match=r"eval_results.json: measured on other weights .*: run eval.py --model"):
        model_card("rdrec/m", checkpoint, None)
    (checkpoint / "eval_results.json").write_text("[]")
    with pytest.raises(UserError, match="eval_results.json: not a JSON object"):
        model_card("rdrec/m", checkpoint, None)
    (checkpoint / "eval_results.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match="not a file that eval.py wrote"):
        model_card("rdrec/m", checkpoint, None)
    with pytest.raises(PublishError, match="--eval_results .*nowhere.json: no such file"):
        (checkpoint / "eval_results.json").unlink()
        model_card("rdrec/m", checkpoint, None, [checkpoint / "nowhere.json"])


def test_a_checkpoint_of_which_nothing_is_known_is_refused(checkpoint):
    for name in ("training_record.json", "eval_results.json"):
        (checkpoint / name).unlink()
    with pytest.raises(PublishError, match=r"so its card would be empty: measure it with eval.py --model"):
        contents.model_files(checkpoint)


def test_adapters_need_a_published_base(checkpoint):
    (checkpoint / "model.safetensors").rename(checkpoint / "adapter_model.safetensors")
    adapter = checkpoint / "adapter_config.json"
    adapter.write_text(json.dumps({"base_model_name_or_path": "rdrec/base", "revision": "v1"}))
    files, card = contents.model_files(checkpoint), model_card("rdrec/lora", checkpoint, None)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(files) and not {
        "config.json",
        "handler.py",
    } & set(files)
    assert 'AutoModel.from_pretrained("rdrec/base", trust_remote_code=True, revision="v1")' in card
    assert "pipeline(" not in card and ModelCard(card).data.library_name == "peft"
    adapter.write_text(json.dumps({"base_model_name_or_path": str(checkpoint)}))
    with pytest.raises(PublishError, match="adapters over a folder of this machine .*: push that checkpoint first"):
        contents.model_files(checkpoint)


def test_a_converted_checkpoint_says_where_it_came_from(checkpoint):
    for name in ("training_record.json", "eval_results.json"):
        (checkpoint / name).unlink()
    record = {"source": "model.pt", "source_sha256": "ab" * 32, "dataset": INFO}
    (checkpoint / "conversion_record.json").write_text(json.dumps(record))
    card = model_card("rdrec/m", checkpoint, None)
    assert "converted from model\\.pt of the reference implementation, SHA-256 `abab" in card
    assert "10 users, 20 items, 50 interactions" in card and "conversion_record.json" in contents.model_files(
        checkpoint
    )


def test_what_is_published_of_a_checkpoint(checkpoint):
    for name in ("eval_test_topn.parquet", "pytorch_model.bin", ".hidden.json", "notes.txt", "catalog.json"):
        (checkpoint / name).write_text("x")
    (checkpoint / "checkpoint-last").mkdir()
    files = contents.model_files(checkpoint, "rdrec/beauty-rationales")
    assert {"model.safetensors", "catalog.json", "pipeline_rdrec.py", "eval_results.json", "recipe.yaml"} <= set(files)
    assert "handler.py" in files  # what an Inference Endpoint runs
    assert not {"eval_test_topn.parquet", "pytorch_model.bin", ".hidden.json", "notes.txt", "__init__.py"} & set(files)
    recipe = yaml.safe_load(files["recipe.yaml"])
    assert recipe["dataset"] == "rdrec/beauty-rationales" and recipe["output_dir"] == "beauty"
    assert json.loads(files["training_record.json"])["recipe"] == recipe
    assert "rdrec-recommendation" in json.loads(files["config.json"])["custom_pipelines"]
    for gone, message in (("model.safetensors", "no model.safetensors"), ("config.json", "no finished checkpoint")):
        (checkpoint / gone).unlink()
        with pytest.raises(PublishError, match=message):
            contents.model_files(checkpoint)
    with pytest.raises(PublishError, match="no such folder"):
        contents.model_files(checkpoint / "none")


@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_data_means_nothing_but_itself(checkpoint, sample_dir, text):
    render = MarkdownIt("commonmark").enable("table").render
    escaped = escape(text)
    assert "\n" not in escaped
    html = render(f"| a |\n| --- |\n| {escaped} |\n")
    assert html.count("<td") == 1 and not [
        tag for tag in ("<script", "<a ", "<img", "<em", "<code", "<h1") if tag in html
    ]
    record = {**RECORD, "dataset": {**INFO, "domain": text}, "device": text}
    (checkpoint / "training_record.json").write_text(json.dumps(record))
    own = results(sha256_of(b"weights"), dataset={**INFO, "domain": text}, split=text)
    own["reference_points"]["sequential"][text] = {"hr@5": 0.5}
    (checkpoint / "eval_results.json").write_text(json.dumps(own))
    calm = metadata(model_card("rdrec/m", checkpoint, None))
    assert calm["license"] == "apache-2.0" and calm["model-index"][0]["results"][0]["dataset"]["type"] == one_line(text)
    tables = load_tables(sample_dir)
    info = {**tables.info, "domain": text, "source": {"kind": text, "files": [{"file": text, "sha256": text}]}}
    info["skipped"] = {text: 3}
    card = dataset_card(
        "rdrec/d", Tables(tables.rationales, tables.interactions, tables.candidates, tables.catalog, info)
    )
    assert len(metadata(card)["configs"]) == 4 and DatasetCard(card).data.license == "other"
    page = render(card.split("---\n", 2)[2])
    assert page.count("<h1") == 1 and page.count("<h2") == 8 and page.count("<table") == 2
    assert not [tag for tag in ("<script", "<a ", "<img", "<em") if tag in page]
    # A source may hold a URL, which is a link; the rest of it means nothing but itself.
    card = dataset_card("rdrec/d", with_info(tables), stated=Stated(data_source=text))
    page = render(card.split("---\n", 2)[2])
    assert page.count("<h1") == 1 and page.count("<h2") == 8 and page.count("<table") == 2
    assert not [tag for tag in ("<script", "<img", "<em", "<strong") if tag in page.split("Licence</h2>")[1]]
    assert page.count("<a ") == page.count('<a href="http://x/y.png"') == text.count("http://")


def with_info(tables: Tables, **changes) -> Tables:
    """The same tables, as if built from other reviews."""
    info = {**tables.info, "source": {"kind": "reviews"}, **changes}
    return Tables(tables.rationales, tables.interactions, tables.candidates, tables.catalog, info)


def section(card: str, title: str) -> str:
    """The text under a heading, its line breaks as spaces."""
    return " ".join(card.split(f"## {title}\n")[1].split("\n## ")[0].split())


def test_cards_say_of_the_reviews_what_whoever_pushes_them_states(checkpoint, sample_dir):
    stated = Stated(["de", "fr"], "cc-by-4.0", "Orders of Muster & Co. (https://muster.example/a_b).")
    source = "(source: Orders of Muster \\& Co\\. \\(<https://muster.example/a_b>\\)\\.)"
    model = model_card("rdrec/m", checkpoint, None, stated=stated, pipeline_tag="text-ranking")
    dataset = dataset_card("rdrec/d", with_info(load_tables(sample_dir)), stated=stated)
    for card in (model, dataset):
        data = metadata(card)
        assert data["language"] == ["de", "fr"] and data["license"] == "cc-by-4.0" and "license_name" not in data
        assert source in section(card, "Licence") and "one shop" not in card and "released for research" not in card
    assert metadata(model)["pipeline_tag"] == "text-ranking" and "pipeline_tag" not in metadata(dataset)
    assert section(model, "Licence").startswith("Weights: `cc-by-4.0`. Code: Apache-2.0. The reviews that it")
    assert section(dataset, "Licence").startswith("This dataset: `cc-by-4.0`. The reviews (source: ")


def test_cards_claim_nothing_of_reviews_that_nobody_stated(checkpoint, sample_dir):
    tables = load_tables(sample_dir)
    amazon, own = (dataset_card("rdrec/d", with_info(tables, domain=name)) for name in ("beauty", "my_shop"))
    assert metadata(amazon)["language"] == ["en"] and "language" not in metadata(own)
    # A shop may call its own department what the paper calls one of Amazon's.
    elsewhere = dataset_card("rdrec/d", with_info(tables, domain="beauty"), stated=Stated(data_source="Muster"))
    assert "language" not in metadata(elsewhere)
    assert metadata(own)["license"] == "other" and metadata(own)["license_name"] == "research-use-of-review-data"
    assert section(own, "Licence") == (
        "The reviews belong to their owners and were released for research: check that your use is covered before you "
        "publish or use what contains them. The rationales are subject to the licence of the model that wrote them. "
        "The code is Apache-2.0."
    )
    assert "happened to write reviews in one shop, in one period" in section(own, "Intended use and limits")
    model = model_card("rdrec/m", checkpoint, None)
    assert [metadata(model)[key] for key in ("language", "license", "pipeline_tag")] == [["en"], "apache-2.0", "other"]
    assert "It has learned from reviews of one shop, with their" in section(model, "Intended use and limits")
    assert section(model, "Licence") == (
        "Code and weights: Apache-2.0. The reviews that it was trained on belong to their owners and were released for "
        "research; check that your use of a model made from them is covered."
    )


def test_the_samples_card_needs_no_statement(sample_dir):
    tables = load_tables(sample_dir)
    card = dataset_card("rdrec/d", tables)
    assert metadata(card)["language"] == ["en"] and metadata(card)["license"] == "apache-2.0"
    assert section(card, "Licence") == "Made by the project's own generator: Apache-2.0, like its code."
    licensed = section(dataset_card("rdrec/d", tables, stated=Stated(license="mit")), "Licence")
    assert licensed == "Made by the project's own generator: `mit`. The code is Apache-2.0."
    with pytest.raises(PublishError, match="--data_source 'Muster': the sample's reviews are generated and have none"):
        dataset_card("rdrec/d", tables, stated=Stated(data_source="Muster"))


def test_flags_reach_the_datasets_card(sample_dir):
    flags = ("--language", "no", "de", "--license", "cc0-1.0")  # YAML reads a bare `no` as false
    (part,) = asked("--dataset", sample_dir, *flags).parts()
    data = metadata(part.files["README.md"].decode())
    assert data["language"] == ["no", "de"] and data["license"] == "cc0-1.0"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--language", "en", "German"), "--language 'German': give ISO 639 codes, such as en or de"),
        (("--license", "my own"), "--license 'my own': give a licence id of the Hub"),
        (("--license", ""), "--license '': give a licence id of the Hub"),
        (("--pipeline_tag", "Text Generation"), "--pipeline_tag 'Text Generation': give a task of the Hub"),
        (("--data_source", "a\nb"), r"--data_source 'a\\nb': write one line of at most 200 characters"),
        (("--data_source", " "), "--data_source ' ': write one line"),
        (("--data_source", "x" * 201), "write one line of at most 200 characters"),
    ],
)
def test_statements_of_another_form_are_refused(flags, message):
    with pytest.raises(PublishError, match=message):
        asked("--dataset", "data/mine", *flags)


def test_statements_without_a_card_are_refused():
    with pytest.raises(PublishError, match="are for cards of a model or dataset: add --model or --dataset"):
        asked("--metrics", "ranking", "--license", "mit")


def test_a_datasets_card_is_measured_on_its_tables(sample_dir):
    tables = load_tables(sample_dir)
    card = dataset_card("rdrec/sample-rationales", tables)
    data = DatasetCard(card).data
    assert [one["config_name"] for one in data.configs] == ["rationales", "interactions", "candidates", "catalog"]
    assert (
        "| `rationales` | `train` | 3,327 |" in card
        and "SmolLM2-135M-Instruct" in card
        and "**Generated, not real**" in card
    )
    assert "`user_preference`, settled by the audit's policy: " in card and "own sentence 5" in card
    assert "how much is ungrounded: not measured" in card
    assert f"Fingerprint of the content: `{tables.info['fingerprint']}`" in card


def test_leaks_are_found_where_there_are_some(sample_dir):
    """Ids renamed so that each user's test item follows the one before it, and a test text moved into training."""
    tables = load_tables(sample_dir)
    clean = measure(tables)
    assert clean["held_out_texts"] == 0 and clean["id_order"]["hr@5"] < 0.1
    rows = tables.interactions.to_pylist()
    for row in rows:
        row["items"] = [*row["items"][:-1], row["items"][-2] + 2]
    leaky = Tables(dict(tables.rationales), tables.interactions, tables.candidates, tables.catalog, tables.info)
    leaky.interactions = type(tables.interactions).from_pylist(rows, schema=tables.interactions.schema)
    train = tables.rationales["train"].slice(0, 1).to_pylist()
    train[0] |= {"user": rows[0]["user"], "item": rows[0]["items"][-1]}
    leaky.rationales["train"] = type(tables.interactions).from_pylist(train, schema=tables.rationales["train"].schema)
    found = measure(leaky)
    assert found["held_out_texts"] == 1
    assert found["id_order"]["hr@5"] == 1.0 and found["id_order"]["ndcg@5"] == pytest.approx(0.6309, abs=1e-4)
    assert found["id_order"]["chance"] == pytest.approx(5 / 240)


def test_grounding_comes_from_the_audit_or_from_the_scores(sample_dir, tmp_path):
    tables = load_tables(sample_dir)
    audit = tmp_path / "audit.jsonl"
    half = {"score": 0.9, "flags": [], "unsupported": []}
    lines = [{"review_row": n, "user_preference": half, "item_attributes": half | {"score": 0.1}} for n in range(4)]
    lines.append({"review_row": 9, "user_preference": {"score": 0.0, "flags": ["empty"]}, "item_attributes": half})
    audit.write_text("".join(json.dumps(line) + "\n" for line in lines))
    card = dataset_card("rdrec/d", tables, audit)
    assert "- `user_preference`: ungrounded 0.0%" in card and "of 4 halves" in card
    assert "- `item_attributes`: ungrounded 80.0%" in card and "of 5 halves" in card
    audit.write_text('{"review_row": 1}\n')
    with pytest.raises(PublishError, match="audit.jsonl line 1: not a line of an audit.jsonl"):
        dataset_card("rdrec/d", tables, audit)
    with pytest.raises(PublishError, match="--audit .*: no such file"):
        dataset_card("rdrec/d", tables, tmp_path / "none.jsonl")
    rows = tables.rationales["train"].to_pylist()
    for place, row in enumerate(rows):
        if row["provenance"] is not None:
            nothing_chosen = {"user_preference_choice": None, "item_attributes_choice": None}
            row["provenance"] |= {"user_preference_grounding": float(place % 2)} | nothing_chosen
    scored = type(tables.interactions).from_pylist(rows, schema=tables.rationales["train"].schema)
    empty = {split: table.slice(0, 0) for split, table in tables.rationales.items()}
    held = Tables(empty | {"train": scored}, tables.interactions, tables.candidates, tables.catalog, tables.info)
    assert "scored rows below the threshold 0.5" in dataset_card("rdrec/d", held)


def test_a_dataset_that_was_changed_is_not_published(sample_dir, tmp_path):
    from dataset_builder.tables import write_dataset

    tables = load_tables(sample_dir)
    info = {**tables.info, "fingerprint": "0" * 64}
    changed = Tables(tables.rationales, tables.interactions, tables.candidates, tables.catalog, info)
    folder = write_dataset(changed, tmp_path / "changed")
    assert fingerprint(tables) == tables.info["fingerprint"]
    with pytest.raises(DatasetError, match="its tables were changed after they were built"):
        contents.dataset_files(folder)


def test_templates_name_every_entry_point():
    for kind, names in {
        "model": ("AutoModel", "AutoTokenizer", "pipeline(", "load_dataset", "accelerate launch", "sha256sum"),
        "dataset": ("load_dataset", "streaming=True", "revision=", "train.py --dataset"),
    }.items():
        text = cards.TEMPLATES[kind].read_text()
        assert all(name in text for name in names), kind


def test_a_card_tells_how_the_kept_model_was_chosen_and_what_it_was_fitted_on(checkpoint):
    assert "- best validation loss 1\\.2500 at step 90 of 100\n" in model_card("rdrec/m", checkpoint, None)
    ranked = {"metric_for_best_model": "ndcg@10", "best_metric": 0.0561, "best_validation_loss": None}
    fitted = {"fit_on": "train+validation", "best_validation_loss": None}
    for changes, line in (
        (ranked, "- best validation ndcg\\@10 0\\.0561 at step 90 of 100\n"),
        (fitted, "- fitted on train\\+validation, the model of step 90 of 100\n"),
    ):
        (checkpoint / "training_record.json").write_text(json.dumps({**RECORD, **changes}))
        assert line in model_card("rdrec/m", checkpoint, None)
    own = results(sha256_of(b"weights"), fit_on="train+validation")
    own["variants"] = {"sequential": {"without prior": {"hr@5": 0.0501, "ndcg@5": 0.0321}}, "topn": {}}
    (checkpoint / "eval_results.json").write_text(json.dumps(own))
    card = model_card("rdrec/m", checkpoint, None)
    label = "`clean`, this model, fitted on train\\+validation"
    assert f"| {label} | {label}, without prior | transitions (clean) |" in card
    assert "| hr\\@5 | 0.0611 | 0.0501 | 0.0540 |" in card
    # Only the model's own figures are its metadata.
    assert 0.0501 not in [one.metric_value for one in ModelCard(card).data.eval_results]
