"""The policy inside a distillation run: what is asked again, judged, replaced, journaled, and never asked twice."""

import json

import pyarrow.parquet as pq
import pytest

from rdrec.distillation.endpoints import ServerError
from rdrec.distillation.prompts import load_prompt
from rdrec.distillation.run import distill
from rdrec.distillation.second_look import JUDGE_FILE, is_supported
from rdrec.distillation.settings import Settings
from rdrec.errors import UserError
from tests.distillation.test_distill import rows_of
from tests.fakes.loopback import Loopback, Reply, chat


pytestmark = pytest.mark.usefixtures("fixed_scores", "no_proxy_no_token")

GOOD = "The strap is wide and very comfortable. I love my new strap."
BAD_HALF, GOOD_HALF = "The item is a battery.", "The item is a strap."


def answer(preference, attributes):
    return Reply(chat(json.dumps({"evidence": [], "user_preference": preference, "item_attributes": attributes})))


def better_at(times):
    """A teacher whose second half is right from the so-many-th time on that a review is asked."""

    def behave(question):
        return answer("The user likes a strap.", GOOD_HALF if question.times >= times else BAD_HALF)

    return behave


def distilled(url, folder, *reviews, **settings):
    settings = {"prompt": "grounded", "policy": "sentence", "timeout": 5.0, "patience": 5.0, **settings}
    info = distill(
        Settings(reviews="-", endpoint=[url], output=str(folder), **settings), reviews=rows_of(*reviews), progress=False
    )
    return info, pq.read_table(folder / "rationales.parquet").to_pylist()


def test_a_half_that_is_not_supported_is_asked_again_hotter_and_with_another_seed(tmp_path):
    prompt = load_prompt("grounded")
    with Loopback(better_at(2)) as server:
        info, (row,) = distilled(server.url, tmp_path, GOOD)
        first, again = (question.payload for question in server.asked)
    assert (first["temperature"], again["temperature"]) == (prompt.temperature, prompt.temperature_again)
    assert first["seed"] != again["seed"] and first["messages"] == again["messages"]
    assert (row["user_preference_choice"], row["item_attributes_choice"]) == ("kept", "asked_again")
    assert (row["user_preference_asks"], row["item_attributes_asks"]) == (0, 1)
    assert row["item_attributes"] == GOOD_HALF and row["item_attributes_grounding"] == pytest.approx(0.9)
    assert info["policy"]["choices"]["item_attributes"] == {"asked_again": 1}


def test_asks_are_bounded_and_then_the_review_speaks_or_nothing_does(tmp_path):
    with Loopback(better_at(99)) as server:
        _, (row,) = distilled(server.url, tmp_path / "sentence", GOOD, asks=3)
        assert len(server.asked) == 4
        assert row["item_attributes"] == "The strap is wide and very comfortable."
        assert (row["item_attributes_choice"], row["item_attributes_asks"]) == ("own_sentence", 3)
        _, (row,) = distilled(server.url, tmp_path / "empty", GOOD, asks=0, policy="empty")
        assert len(server.asked) == 5
    assert row["item_attributes"] is None and row["item_attributes_grounding"] is None
    assert row["item_attributes_choice"] == "left_empty"


def test_what_was_asked_again_is_in_the_journal(tmp_path):
    reviews = [GOOD, GOOD, "Another strap, blue.", "", "A third strap."]
    with Loopback(better_at(3)) as server:
        whole = distilled(server.url, tmp_path / "whole", *reviews, asks=2)
        assert len(server.asked) == 3 * 3  # equal texts are asked again together, an empty one never
        assert distilled(server.url, tmp_path / "whole", *reviews, asks=2) == whole
        assert len(server.asked) == 3 * 3
    # The same in three runs: without a policy, with fewer asks, with all.
    with Loopback(better_at(3)) as server:
        distilled(server.url, tmp_path / "parts", *reviews, policy="off")
        distilled(server.url, tmp_path / "parts", *reviews, asks=1)
        assert len(server.asked) == 2 * 3
        assert distilled(server.url, tmp_path / "parts", *reviews, asks=2) == whole
        assert len(server.asked) == 3 * 3
    # And with no server at all, since nothing is missing; one ask more is.
    assert distilled(server.url, tmp_path / "parts", *reviews, asks=2) == whole
    with Loopback(better_at(99)) as server:
        distilled(server.url, tmp_path / "never", GOOD, asks=1)
    with pytest.raises(ServerError, match="cannot be reached"):
        distilled(server.url, tmp_path / "never", GOOD, asks=2)


def test_a_judge_is_heard_once_on_what_would_be_kept(tmp_path):
    def behave(question):
        said = question.payload["messages"][-1]["content"]
        if "<claim>" in said:
            assert question.payload["temperature"] == 0
            return Reply(chat('{"supported": "no"}' if GOOD_HALF in said else '{"supported": "yes"}'))
        return answer("The user likes a strap.", GOOD_HALF)

    with Loopback(behave) as server:
        _, (row,) = distilled(server.url, tmp_path, GOOD, judge=True, policy="empty", asks=1)
        # The answer, both halves judged, the refused one asked again; what it gets then was judged before.
        assert len(server.asked) == 4
        assert distilled(server.url, tmp_path, GOOD, judge=True, policy="empty", asks=1)[1] == [row]
        assert len(server.asked) == 4
    assert (row["user_preference_choice"], row["item_attributes_choice"]) == ("kept", "left_empty")


@pytest.mark.parametrize(
    ("said", "supported"),
    [('{"supported": "yes"}', True), ("Yes, it is.", True), ("no", False), ("", False), ("yes and no", False)],
)
def test_a_verdict_is_no_unless_it_plainly_says_yes(said, supported):
    assert is_supported({"text": said}) is supported


def test_a_claim_cannot_leave_its_place():
    prompt = load_prompt(str(JUDGE_FILE))
    (message,) = prompt.messages("A {claim} review", "a claim")
    assert "<claim>a claim</claim>" in message["content"]
    assert "<review>A {claim} review</review>" in message["content"]


def test_settings_that_make_no_sense_are_refused():
    for settings, message in [
        ({"policy": "invent"}, "choose one of off, sentence, empty"),
        ({"judge": True}, "add --policy sentence or empty"),
        ({"policy": "empty", "asks": -1}, "--asks -1: give 0 or more"),
    ]:
        with pytest.raises(UserError, match=message):
            Settings(reviews="-", endpoint=["http://127.0.0.1:1"], output="x", **settings)
