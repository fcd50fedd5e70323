"""The metric modules: loaded as users load them, against the reference's figures and by hand.

pytest tests/metrics/test_metrics.py
"""

import json
import math
import sys
from pathlib import Path

import evaluate
import pytest


METRICS = Path(__file__).resolve().parents[2] / "metrics"


@pytest.fixture(scope="module")
def ranking():
    return evaluate.load(str(METRICS / "ranking"))


@pytest.fixture(scope="module")
def explanation():
    return evaluate.load(str(METRICS / "explanation"))


def test_ranking_equals_reference(ranking, shared_dir):
    case = json.loads((shared_dir / "parity" / "metrics.json").read_text())["ranking"]
    scores = ranking.compute(predictions=case["rankings"], references=case["targets"], k=[1, 5, 10])
    assert {name: scores[name] for name in case["values"]} == pytest.approx(case["values"], abs=1e-9)


def test_explanation_equals_reference(explanation, shared_dir):
    case = json.loads((shared_dir / "parity" / "metrics.json").read_text())["text"]
    scores = explanation.compute(predictions=case["hypotheses"], references=case["references"])
    names = {"BLEU-1": "bleu-1", "BLEU-4": "bleu-4"} | {
        f"rouge_{n}/{part}_score": f"rouge-{n}-{part}" for n in "12l" for part in "fpr"
    }
    assert set(names) == set(case["values"])
    for theirs, ours in names.items():
        assert scores[ours] == pytest.approx(case["values"][theirs], abs=1e-6), ours


def test_ranking_by_hand(ranking):
    scores = ranking.compute(predictions=[[3, 1, 2], [], [9], [4, 5]], references=[2, 1, 9, 6], k=[1, 3])
    assert scores == pytest.approx(
        {
            "hr@1": 1 / 4,
            "ndcg@1": 1 / 4,
            "hr@3": 2 / 4,
            "ndcg@3": (1 / math.log2(4) + 1) / 4,
            "mrr": (1 / 3 + 1) / 4,
        }
    )


def test_ranking_counts_repeats_as_the_reference_does(ranking):
    scores = ranking.compute(predictions=[[7, 1, 7]], references=[7], k=[1, 3])
    assert scores["hr@1"] == 1.0 and scores["hr@3"] == 2.0 and scores["mrr"] == 1.0
    assert scores["ndcg@3"] == pytest.approx((1 + 1 / math.log2(4)) / (1 + 1 / math.log2(3)))


def test_ranking_that_finds_nothing_scores_zero(ranking):
    assert set(ranking.compute(predictions=[[], [1]], references=[1, 2]).values()) == {0.0}


def test_ranking_accepts_batches(ranking):
    ranking.add_batch(predictions=[[1]], references=[1])
    ranking.add_batch(predictions=[[1, 2], [3]], references=[2, 4])
    assert ranking.compute(k=[1])["hr@1"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("k", [[], [0], 5, [2.5]])
def test_ranking_refuses_bad_cutoffs(ranking, k):
    with pytest.raises(ValueError, match="whole numbers from 1"):
        ranking.compute(predictions=[[1]], references=[1], k=k)


@pytest.mark.parametrize("name, good", [("ranking", [[1]]), ("explanation", ["a soft brush"])])
def test_errors_are_one_line_and_leave_the_metric_usable(name, good, request):
    metric = request.getfixturevalue(name)
    references = [row[0] if isinstance(row, list) else row for row in good]
    for predictions, targets, words in ((good * 2, references, "2 predictions but 1"), ([], [], "nothing to score")):
        with pytest.raises(ValueError, match=words) as caught:
            metric.compute(predictions=predictions, references=targets)
        assert "\n" not in str(caught.value)
    assert len(metric.compute(predictions=good, references=references)) > 3


def test_explanation_by_hand(explanation):
    scores = explanation.compute(predictions=["a b x", ""], references=["a b c d", "e f"], external=False)
    # Three tokens of six, two matched: precision 2/3, brevity exp(1 - 6/3); no 4-gram at all.
    assert scores["bleu-1"] == pytest.approx(100 * 2 / 3 * math.exp(1 - 2))
    assert scores["bleu-4"] == 0.0
    assert scores["rouge-1-p"] == pytest.approx(100 * (2 / 3) / 2)
    assert scores["rouge-2-r"] == pytest.approx(100 * (1 / 3) / 2)
    precision, recall = 2 / 3, 2 / 4
    beta_squared = (precision / recall) ** 2
    assert scores["rouge-l-f"] == pytest.approx(
        100 * (1 + beta_squared) * recall * precision / (recall + beta_squared * precision) / 2
    )
    assert not any(name.endswith("_rs") or name == "sacrebleu" for name in scores)


def test_features_and_repeats_by_hand(explanation):
    scores = explanation.compute(
        predictions=["the Lid and the handle", "a lid", "a lid", "nothing"],
        references=["a", "b", "c", "d"],
        features=["lid", "handle", "", "spout"],
        vocabulary=["lid", "handle", "spout", "cord"],
        external=False,
    )
    assert scores["usr"] == 75.0 and scores["fcr"] == 50.0
    assert scores["fmr"] == pytest.approx(100 / 3)  # the first of three rows that have a feature
    assert scores["div"] == pytest.approx(3 / 6)  # "lid" in three of six pairs
    assert "fmr" not in explanation.compute(predictions=["a"], references=["a"], external=False)
    with pytest.raises(ValueError, match="1 predictions but 2 features"):
        explanation.compute(predictions=["a"], references=["a"], features=["a", "b"], external=False)


def test_explanation_clips_counts_and_finds_scattered_subsequences(explanation):
    clipped = explanation.compute(predictions=["the the the the"], references=["the cat sat down"], external=False)
    assert clipped["bleu-1"] == pytest.approx(25.0) and clipped["rouge-1-p"] == pytest.approx(100.0)
    scattered = explanation.compute(predictions=["a x b y c"], references=["c a b b c"], external=False)
    assert scattered["rouge-l-r"] == pytest.approx(60.0)  # a b c


def test_explanation_of_the_reference_itself_is_perfect(explanation):
    text = "the soft brush is easy to clean"
    scores = explanation.compute(predictions=[text], references=[text])
    assert scores == pytest.approx(dict.fromkeys(scores, 100.0), abs=1e-4)
    assert {"sacrebleu", "rouge1_rs", "rouge2_rs", "rougeL_rs"} < set(scores)


@pytest.fixture(scope="module")
def beyond():
    return evaluate.load(str(METRICS / "beyond_accuracy"))


def test_beyond_accuracy_by_hand(beyond):
    scores = beyond.compute(predictions=[[1, 2, 4], [1, 3], []], popularity=[8, 2, 1, 0], num_users=8, k=2)
    assert scores == pytest.approx({"coverage@2": 3 / 4, "popularity@2": 4.75, "novelty@2": (0 + 2 + 0 + 3) / 4})
    # Nobody bought the fourth: it counts as bought once, which is three bits.
    assert beyond.compute(predictions=[[4]], popularity=[8, 2, 1, 0], num_users=8)["novelty@10"] == 3.0


def test_diversity_is_the_mean_distance_of_all_pairs(beyond):
    """Against vectors and cosines written out, on texts with repeats, common words and none at all."""
    texts = ["red cup cup", "red Cup", None, "blue cup of tea", "tea, strong", "", "red"]
    lists = [[1, 2, 4], [5, 3, 4], [3, 6, 1], [7, 1]]
    words = [t.lower().replace(",", "").split() if t else [] for t in texts]
    idf = {w: math.log(len(texts) / sum(w in row for row in words)) for row in words for w in row}
    vectors = [{w: row.count(w) * idf[w] for w in set(row)} for row in words]

    def cosine(a, b):
        dot = sum(a[w] * b.get(w, 0) for w in a)
        return dot / math.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))

    expected = []
    for ids in lists:
        kept = [vectors[i - 1] for i in ids if vectors[i - 1]]
        pairs = [1 - cosine(a, b) for n, a in enumerate(kept) for b in kept[:n]]
        expected += [sum(pairs) / len(pairs)] if pairs else []
    assert len(expected) == 3  # the third list has one text
    scores = beyond.compute(predictions=lists, popularity=[1] * 7, num_users=7, texts=texts)
    assert scores["diversity@10"] == pytest.approx(sum(expected) / 3)
    same = beyond.compute(predictions=[[1, 2]], popularity=[1] * 3, num_users=1, texts=["a b", "a b", "c"])
    assert same["diversity@10"] == pytest.approx(0, abs=1e-12)
    assert "diversity@10" not in beyond.compute(predictions=[[1]], popularity=[1], num_users=1, texts=[None])


def test_long_answers_are_taken_in_parts(beyond, monkeypatch):
    module = sys.modules[type(beyond).__module__]
    settings = {"popularity": [3] * 6, "num_users": 9, "texts": ["a b", "b c", "c d", "d e", "e a", "x"]}
    lists = [[n % 6 + 1, (n + 2) % 6 + 1, (n * n) % 6 + 1] for n in range(11)]
    whole = beyond.compute(predictions=lists, **settings)
    monkeypatch.setattr(module, "LISTS_AT_ONCE", 4)
    assert beyond.compute(predictions=lists, **settings) == pytest.approx(whole)


@pytest.mark.parametrize("change", [{"predictions": [[]]}, {"predictions": [[0]]}, {"predictions": [[3]]}, {"k": 0}])
def test_beyond_accuracy_names_what_is_wrong(beyond, change):
    with pytest.raises(ValueError, match="^beyond_accuracy: .*; give") as error:
        beyond.compute(**{"predictions": [[1]], "popularity": [1, 2], "num_users": 2, **change})
    assert "\n" not in str(error.value)
