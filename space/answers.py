"""What the Space answers, without its page: users, items by id or title, recommendations, explanations.

    recommender = Recommender.load(".")                              # a folder with space.json
    recommender.recommend("A1YJEY40YUW4SE", "B004756YJA\\nguitar strings", k=5)
    recommender.explain("A1YJEY40YUW4SE", "B004756YJA")

Users and items are named by their raw ids, as in the dataset's catalog. Everything comes from the published model and
dataset that `space.json` names; a ValueError is one line for the visitor.
"""

import json
from pathlib import Path
from typing import NamedTuple

from datasets import load_dataset
from transformers import pipeline


LONGEST_TITLE = 100
SHOWN_MATCHES = 5


class Recommendation(NamedTuple):
    """One item of an answer; `score` is the log-likelihood of its id."""

    item: str
    title: str
    score: float


class Recommender:
    """A published model, and the dataset that knows the titles of its items and the history of its users.

    Parameters
    ----------
    settings : dict
        `model` and `dataset`, each `{"id": repo id, "revision": branch, tag or commit}`.

    Raises
    ------
    ValueError
        A dataset whose users or items are not those of the model.
    """

    def __init__(self, settings: dict):
        model, dataset = settings["model"], settings["dataset"]
        self.pipeline = pipeline(
            "rdrec-recommendation", model=model["id"], revision=model["revision"], trust_remote_code=True
        )
        self.tokenizer = self.pipeline.tokenizer
        tables = {"path": dataset["id"], "revision": dataset["revision"], "split": "train"}
        catalog = load_dataset(name="catalog", **tables).to_list()
        # Ids are dense from 1 and in order, in the catalog as in the rows of `interactions`.
        self.users, self.items = (
            [row["raw_id"] for row in catalog if row["kind"] == kind] for kind in ("user", "item")
        )
        if self.tokenizer.catalog != {"user": self.users, "item": self.items}:
            raise ValueError(
                f"{model['id']} and {dataset['id']} have other users or items: name the dataset that the model was "
                "trained on in space.json"
            )
        texts = (row["text"] for row in catalog if row["kind"] == "item")
        self.titles = [_short(text) if text else item for item, text in zip(self.items, texts)]
        self._bought = load_dataset(name="interactions", **tables)

    @classmethod
    def load(cls, folder: str | Path) -> "Recommender":
        """The recommender that a folder's `space.json` describes."""
        return cls(json.loads((Path(folder) / "space.json").read_text(encoding="utf-8")))

    def history(self, user: str) -> str:
        """What a user bought, oldest first: one `id: title` a line, as `recommend` reads it."""
        items = self._bought[self._id("user", user) - 1]["items"]
        return "\n".join(f"{self.items[item - 1]}: {self.titles[item - 1]}" for item in items)

    def recommend(self, user: str, history: str, k: int = 10) -> list[Recommendation]:
        """The next items of a user from the whole catalog, best first.

        Parameters
        ----------
        user : str
            Raw id, or integer id.
        history : str
            One item a line, oldest first, possibly none: an id, `id: title`, or words that one title alone holds.
        k : int
            Most items to return.

        Raises
        ------
        ValueError
            For a user or item that the catalog does not hold, or words that many titles hold.
        """
        items = [self._item(line.strip()) for line in history.splitlines() if line.strip()]
        query = {"user": self._id("user", user), "history": items}
        return [
            Recommendation(self.items[row["item"] - 1], self.titles[row["item"] - 1], row["score"])
            for row in self.pipeline(query, top_k=k)
        ]

    def explain(self, user: str, item: str) -> str:
        """Why this user would buy this item, in a sentence."""
        return self.pipeline.model.explain(self.tokenizer, user=self._id("user", user), item=self._id("item", item))

    def _id(self, kind: str, text: str) -> int:
        """Integer id; raw ids first, since what the page shows is raw ids, and those of books are digits only."""
        text = str(text).strip()
        if text.isascii() and text.isdigit() and text not in self.tokenizer.catalog[kind]:
            return self.tokenizer.to_id(kind, int(text))
        return self.tokenizer.to_id(kind, text)

    def _item(self, line: str) -> int:
        for text in (line, line.partition(": ")[0]):
            try:
                return self._id("item", text)
            except ValueError:
                pass
        wanted = line.casefold()
        found = [place for place, title in enumerate(self.titles) if wanted in title.casefold()]
        found = [place for place in found if self.titles[place].casefold() == wanted] or found
        if not found:
            raise ValueError(
                f"no item has the id or title {_short(line)!r}: give an id or words of a title, one a line"
            )
        if len(found) > 1:
            shown = "; ".join(f"{self.items[place]}: {self.titles[place]}" for place in found[:SHOWN_MATCHES])
            more = " …" if len(found) > SHOWN_MATCHES else ""
            raise ValueError(f"{len(found)} titles hold {_short(line)!r}: give the id of one: {shown}{more}")
        return found[0] + 1


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_TITLE else line[: LONGEST_TITLE - 1] + "…"
