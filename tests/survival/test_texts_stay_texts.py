"""Texts, names and ids of somebody's reviews end nowhere but where they are shown: no card, report or terminal obeys
them. (`tests/publishing/test_cards.py` does the same for what files of a run say.)"""

import unicodedata

import numpy as np
import pytest
import yaml
from markdown_it import MarkdownIt

from dataset_builder.__main__ import summary
from dataset_builder.build import build_tables
from dataset_builder.columns import told
from rdrec.errors import UserError, exit_code, printable
from rdrec.grounding import report
from rdrec.publishing.cards import dataset_card


CLEAR_SCREEN, TITLE, BIDI, NUL = "\x1b[2J\x1b[H", "\x1b]0;owned\x07", "\u202egnp.exe", "a\x00b"
HOSTILE = f"{CLEAR_SCREEN}{TITLE}{BIDI}{NUL}\r\n---\nlicense: mit\n---\n| a |\n<script>alert(1)</script> \ud800"


def steers(text: str) -> list[str]:
    """The characters of a text, newlines apart, that a terminal or a browser does not merely show."""
    return [one for one in text if one != "\n" and unicodedata.category(one)[0] == "C"]


@pytest.fixture(scope="module")
def tables():
    """A dataset whose ids, texts and names of columns are as bad as can be; one file gives them all."""
    bad = HOSTILE.replace("\ud800", "")  # in an id, a lone surrogate is an error
    rows = [
        {"user": f"{bad} {user}", "item": f"{bad} {item}", "timestamp": 10**9 + user + item, "text": HOSTILE}
        for user in range(8)
        for item in range(10)
        if item != user
    ]
    return build_tables(lambda: iter(rows), domain=bad, num_negatives=1)


def test_the_terminal_is_not_steered(capsys, tables):
    def fails():
        raise UserError(f"item {HOSTILE}: not in the catalog: see catalog.json")

    assert exit_code(fails) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and not steers(said) and r"\x1b[2J" in said
    for shown in (summary(tables), told({"user": (f"user{HOSTILE}",), "item": ("b",)})):
        assert not steers(shown) and r"\x1b" in shown
    assert printable("Zoë 漢字 👍 עברית") == "Zoë 漢字 👍 עברית"


def test_a_datasets_card_says_what_it_says(tables):
    card = dataset_card("me/mine-rationales", tables)
    assert not steers(card)
    above, text = card.split("---\n", 2)[1:]
    assert yaml.safe_load(above)["license"] == "other"
    tokens = [one for block in MarkdownIt().enable("table").parse(text) for one in [block, *(block.children or [])]]
    assert not [one for one in tokens if one.type.startswith("html") or "script" in one.tag]


def test_a_report_of_the_audit_is_a_page_without_scripts():
    halves = report.Table(np.array([3, 3, 9, 9]), np.array([0.1, 0.9, 0.5, 0.6]), [(), ("empty",), (), ()])
    page = report.report(halves, HOSTILE)
    assert "<script" not in page and "&lt;script&gt;" in page
