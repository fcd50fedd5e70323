"""What the Space answers, against the model asked directly."""

import json
import math
import shutil

import pytest

from dataset_builder.time_split import KIND
from tests.fakes.explainer import explain


@pytest.fixture
def ids(recommender):
    return [recommender.items[number] for number in (2, 0, 7)]


def test_anybodys_history_is_enough(recommender, ids):
    wanted = recommender.model.recommend(recommender.tokenizer, ids, k=5)
    answer = recommender.recommend(ids, k=5)
    assert [one["id"] for one in answer["history"]] == ids
    assert [one["id"] for one in answer["items"]] == wanted.items
    assert [one["score"] for one in answer["items"]] == pytest.approx(wanted.scores)
    assert [one["chance"] for one in answer["items"]] == pytest.approx([math.exp(score) for score in wanted.scores])
    assert all(one["title"] == recommender.titles[one["id"]] for one in (*answer["history"], *answer["items"]))
    assert answer["bought_next"] is None and answer["counting"] is None
    # Nobody and nothing is a visitor who has only come.
    assert recommender.recommend(k=3) == recommender.recommend([], None, 3)
    assert len(recommender.recommend([], k=1000)["items"]) == 50


def test_a_users_last_purchase_is_held_out_and_told(recommender, sample_data):
    raw = recommender.items
    places = []
    for number, bought in enumerate(sample_data.sequences[:40]):
        user, bought = recommender.users[number], [raw[item - 1] for item in bought]
        answer = recommender.recommend(user=user, k=50)
        items = [one["id"] for one in answer["items"]]
        assert [one["id"] for one in answer["history"]] == bought[:-1]
        assert answer["bought_next"]["id"] == bought[-1]
        places.append(answer["bought_next"]["place"])
        assert places[-1] == (items.index(bought[-1]) + 1 if bought[-1] in items else None)
        assert len(answer["counting"]) == 50 and not {one["id"] for one in answer["counting"]} & set(bought[:-1])
    assert None in places and any(places)
    edited = recommender.recommend(bought[:-2], user)  # no longer what the held-out purchase followed
    assert edited["bought_next"] is None and edited["counting"] is None


def test_a_model_fitted_on_everything_holds_nothing_out(recommender, sample_data, monkeypatch):
    monkeypatch.setattr(recommender.model.config, "fit_on", "all")
    answer = recommender.recommend(user=recommender.users[0])
    assert len(answer["history"]) == len(sample_data.sequences[0])
    assert answer["bought_next"] is None and answer["counting"] is None


def test_what_if_an_item_were_not_in_the_history(recommender, ids):
    best = recommender.recommend(ids, k=4)["items"]
    for wanted in (best[0], best[-1]):
        found = recommender.without(wanted["id"], ids, k=4)
        assert [one["id"] for one in found] == ids
        for place, one in enumerate(found):
            shorter = [item for other, item in enumerate(ids) if other != place]
            again = recommender.model.recommend(recommender.tokenizer, shorter, k=4, exclude=ids)
            if wanted["id"] in again.items:
                assert one["place"] == again.items.index(wanted["id"]) + 1
                assert math.log(one["chance"]) == pytest.approx(again.scores[one["place"] - 1], abs=1e-4)
            else:
                assert one["place"] is None and one["chance"] is None
    assert recommender.without(best[0]["id"], []) == []


def test_three_voices_and_their_evidence(recommender, ids, monkeypatch):
    monkeypatch.setattr(recommender.model, "explain", explain, raising=False)
    monkeypatch.setattr(recommender.model.config, "reads_evidence", True, raising=False)
    row = {"explanation": "It  works.", "user_preference": None, "item_attributes": "The item is handy."}
    monkeypatch.setitem(recommender.__dict__, "_rationales", [row])
    odd, even = sorted(recommender.items[:9], key=lambda item: int(item[-3:]) % 2, reverse=True)[::8]
    for whose in ({"history": ids}, {"user": recommender.users[3]}):
        first, second = recommender.explain([odd, even], **whose)
        assert first["id"] == odd and second["id"] == even
        assert first["item_attributes"] == f"It offers what {odd} offers."
        assert first["user_preference"] == f"You like what goes with {odd}."
        assert first["explanation"] == f"I bought {odd} & <b>it</b> fits."
        assert (first["source"], first["support"]) == ("evidence", 0.9)
        assert (second["source"], second["support"]) == ("beams", 0.2)
        # Said once, though two voices rest on it.
        assert first["evidence"] == [
            {
                "text": f"A reviewer of {odd} <i>said</i> so.",
                "about": "item",
                "also": ["It works.", "The item is handy."],
            },
            {"text": "You wrote that it must last.", "about": "user", "also": []},
        ]
    assert recommender._also(0, "It works.") == ["The item is handy."]  # not the sentence itself once more
    assert recommender.explain([odd], [])[0]["explanation"] is None and recommender.explain([], ids) == []


def test_a_real_model_says_what_reviews_say(recommender_of, decoder_checkpoint, sample_dir, sample_data, tmp_path):
    from modeling_rdrec import RDRecForConditionalGeneration, RDRecTokenizer

    model = RDRecForConditionalGeneration.from_pretrained(decoder_checkpoint)
    tokenizer = RDRecTokenizer.from_pretrained(decoder_checkpoint)
    tokenizer.evidence = sample_data.evidence(["item_attributes", "user_preference", "explanation", "catalog"])
    model.config.reads_evidence, model.config.evidence_weight = True, 1e6
    model.save_pretrained(tmp_path), tokenizer.save_pretrained(tmp_path)
    space = recommender_of(tmp_path, sample_dir)
    (told,) = space.explain(space.items[:1], history=space.items[3:6])
    assert told["source"] == "evidence" and told["support"] > 0.5 and told["item_attributes"]
    # The first evidence of an explanation is the review that says it, and the dataset has the rest of that review.
    said = {one["text"]: one for one in told["evidence"]}
    assert told["explanation"] in said and all(one["about"] in ("item", "user") for one in told["evidence"])
    texts = sample_data.texts["train"]
    assert (1, told["explanation"]) in set(zip(texts.item, texts.explanation))


def test_evidence_points_into_the_rationales_split_after_split(recommender, sample_data):
    rows = recommender._rationales
    sizes = [len(sample_data.texts[split]) for split in ("train", "validation", "test")]
    assert len(rows) == sum(sizes) and rows[sizes[0]]["explanation"] == sample_data.texts["validation"].explanation[0]


def test_a_split_by_time_is_refused(recommender_of, decoder_checkpoint, sample_dir, tmp_path):
    """Of most of its users nothing is held out: the last purchase would be called a surprise that training saw."""
    folder = shutil.copytree(sample_dir, tmp_path / "split")
    info = json.loads((folder / "build_info.json").read_text())
    (folder / "build_info.json").write_text(json.dumps(info | {"source": {"kind": KIND}}))
    with pytest.raises(ValueError, match="a split by time, for measuring"):
        recommender_of(decoder_checkpoint, folder)


def test_a_model_that_reads_users_needs_one(recommender_of, tiny_checkpoint, sample_dir):
    paper = recommender_of(tiny_checkpoint, sample_dir)
    assert paper.about()["reads_users"]
    user, ids = paper.users[4], paper.items[:3]
    wanted = paper.model.recommend(paper.tokenizer, ids, user=user, k=3)
    assert [one["id"] for one in paper.recommend(ids, user, 3)["items"]] == wanted.items
    assert len(paper.without(wanted.items[0], ids, user)) == 3
    with pytest.raises(ValueError, match="^choose a user: this model reads whose history it is$"):
        paper.recommend(ids)
    # Without evidence the model writes for known users, and of nobody else anything is known.
    known, stranger = paper.explain(ids[:1], user=user)[0], paper.explain(ids[:1], ids)[0]
    assert known["explanation"] == paper.model.explain(paper.tokenizer, user=user, item=ids[0])
    assert known["source"] == "beams" and known["evidence"] == [] and stranger["explanation"] is None


def test_what_a_visitor_can_mend_is_one_line(recommender):
    user, item = recommender.users[0], recommender.items[0]
    cases = (
        (recommender.recommend, (["B0GONE"],), "no item 'B0GONE' in this catalog: search for words of its title"),
        (recommender.recommend, (None, user.lower()), f"in this dataset: did you mean {user}\\?"),
        (recommender.recommend, (None, user[:-1] + "x"), "in this dataset: did you mean ASAMPLEUSR"),
        (recommender.recommend, (None, "1"), "no user '1' in this dataset"),
        (recommender.recommend, (None, "?" * 300), r"no user '\?{99}…' in this dataset: search for a part of an id$"),
        (recommender.explain, ([item], ["B0\nGONE"]), "no item 'B0 GONE'"),
        (recommender.without, ("B0GONE", [item]), "no item 'B0GONE'"),
        (recommender.search, ("x", "shop"), "kind 'shop': take item or user"),
    )
    for answer, given, message in cases:
        with pytest.raises(ValueError, match=message) as refusal:
            answer(*given)
        assert "\n" not in str(refusal.value)


def test_search_tells_items_and_users(recommender):
    item, title = next(iter(recommender.titles.items()))
    assert recommender.search(title)["found"][0] == {"id": item, "title": title}
    assert recommender.search(title.split()[0])["total"] > 8 == len(recommender.search(title.split()[0])["found"])
    user = recommender.users[5]
    assert recommender.search(user, "user") == {
        "found": [{"id": user, "title": user}],
        "total": 1,
        "did_you_mean": None,
    }
    slip = recommender.search("quilby", k=3)
    assert slip == {"found": [], "total": 0, "did_you_mean": "quillby"}


def test_what_is_shown_is_told(recommender, recommender_of, decoder_checkpoint, sample_dir, tmp_path):
    about = recommender.about()
    assert about["model"] == {"name": "decoder", "url": None} and about["dataset"]["name"] == sample_dir.name
    assert about["quality"] is None and about["has_titles"] and not about["reads_users"]
    assert len(about["tastes"]) == 3 and json.loads(json.dumps(about)) == about
    for taste in about["tastes"]:
        words = [set(recommender.titles[item].lower().split()) for item in taste["items"]]
        assert all(sum(word in held for held in words) > 1 for word in taste["name"].lower().replace(",", "").split())
        assert not set(recommender.users) & set(taste["name"].split())
    folder = shutil.copytree(decoder_checkpoint, tmp_path / "measured")
    results = {
        "results": {"sequential": {"hr@10": 0.5, "mrr": 0.2}, "topn": {}},
        "reference_points": {"sequential": {"transitions": {"hr@10": 0.25}, "empty": {}}},
        "queries": {"sequential": 400},
        "split": "test",
    }
    (folder / "eval_results.json").write_text(json.dumps(results))
    quality = recommender_of(folder, sample_dir).about()["quality"]
    assert quality == {"queries": 400, "split": "test", "hits": {"model": 50.0, "transitions": 25.0}}


def test_without_titles_ids_stand_for_them(recommender_of, decoder_checkpoint, retitled):
    plain = recommender_of(decoder_checkpoint, retitled(lambda number, title: None))
    about = plain.about()
    assert not about["has_titles"] and [taste["name"] for taste in about["tastes"]] == [
        "Example 1",
        "Example 2",
        "Example 3",
    ]
    assert plain.recommend([], k=1)["items"][0]["title"] in plain.items


def test_titles_are_one_short_line(on_the_path):
    import answers

    assert answers._short("a\n b\u2028c") == "a b c" and answers._short("字" * 200) == "字" * 99 + "…"
    assert answers._short("\u202etfel\x07\u2066 x\u0000") == "tfel x" and answers._short("क्\u200dष") == "क्\u200dष"


@pytest.mark.parametrize(
    "settings, message",
    [
        ({}, "space.json: names no model: write"),
        ({"model": {"id": "me/m"}, "dataset": "me/d"}, "space.json: names no dataset: write"),
        ([], "names no model"),
        (
            {"model": {"id": "nowhere"}},
            "model nowhere: no such folder, and no NAMESPACE/NAME of a repo: check the path",
        ),
    ],
)
def test_settings_of_another_form_are_one_line(on_the_path, settings, message, tmp_path):
    from answers import Recommender

    (tmp_path / "space.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=message) as refusal:
        Recommender.load(tmp_path)
    assert "\n" not in str(refusal.value)


@pytest.mark.slow
def test_another_dataset_than_the_models_is_named(recommender_of, decoder_checkpoint, tmp_path):
    from rdrec.sample.build import build_sample

    other = build_sample(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="have other users or items: name the dataset that the model was trained on"):
        recommender_of(decoder_checkpoint, other)
