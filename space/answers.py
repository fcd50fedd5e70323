"""What the Space answers, without its page: users, items by id or title, recommendations, explanations.

    recommender = Recommender.load(".")                              # a folder with space.json
    recommender.recommend("A1YJEY40YUW4SE", "B004756YJA\\nguitar strings", k=5)
    recommender.explain("A1YJEY40YUW4SE", "B004756YJA")

Users and items are named by their raw ids, as in the dataset's catalog. A model that reads histories in its decoder
needs no user: `recommend("", …)` is for a visitor who is none of them. Everything comes from the published model and
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
        self.titles = {item: _short(text) if text else item for item, text in zip(self.items, texts)}
        self._bought = load_dataset(name="interactions", **tables)

    @classmethod
    def load(cls, folder: str | Path) -> "Recommender":
        """The recommender that a folder's `space.json` describes."""
        return cls(json.loads((Path(folder) / "space.json").read_text(encoding="utf-8")))

    def history(self, user: str) -> str:
        """What a user bought, oldest first: one `id: title` a line, as `recommend` reads it; "" for nobody."""
        if not _typed(user):
            return ""
        bought = self._bought[self.tokenizer.to_id("user", _typed(user)) - 1]["items"]
        items = [self.items[number - 1] for number in bought]
        return "\n".join(f"{item}: {self.titles[item]}" for item in items)

    def recommend(self, user: str, history: str, k: int = 10) -> list[Recommendation]:
        """The next items after a history from the whole catalog, best first.

        Parameters
        ----------
        user : str
            Raw id; "" for nobody that the model knows.
        history : str
            One item a line, oldest first, possibly none: an id, `id: title`, or words that one title alone holds.
        k : int
            Most items to return.

        Raises
        ------
        ValueError
            For a user or item that the catalog does not hold, words that many titles hold, or nobody where the model
            reads users.
        """
        query = {"history": [self._item(line.strip()) for line in history.splitlines() if line.strip()]}
        if _typed(user):
            query["user"] = _typed(user)
        elif self.pipeline.model.config.history == "encoder":
            raise ValueError("choose a user: this model reads whose history it is")
        found = self.pipeline(query, top_k=k)
        return [Recommendation(row["item"], self.titles[row["item"]], row["score"]) for row in found]

    def explain(self, user: str, item: str) -> str:
        """Why this user would buy this item, in a sentence."""
        if not _typed(user):
            raise ValueError("choose a user: an explanation is written for one")
        return self.pipeline.model.explain(self.tokenizer, user=_typed(user), item=_typed(item))

    def _item(self, line: str) -> str:
        for text in (line, line.partition(": ")[0]):
            if text in self.titles:
                return text
        wanted = line.casefold()
        found = [item for item, title in self.titles.items() if wanted in title.casefold()]
        found = [item for item in found if self.titles[item].casefold() == wanted] or found
        if not found:
            raise ValueError(
                f"no item has the id or title {_short(line)!r}: give an id or words of a title, one a line"
            )
        if len(found) > 1:
            shown = "; ".join(f"{item}: {self.titles[item]}" for item in found[:SHOWN_MATCHES])
            more = " …" if len(found) > SHOWN_MATCHES else ""
            raise ValueError(f"{len(found)} titles hold {_short(line)!r}: give the id of one: {shown}{more}")
        return found[0]


def _typed(text: str | None) -> str:
    """What a field of the page holds, which is None where nothing is chosen."""
    return "" if text is None else str(text).strip()


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_TITLE else line[: LONGEST_TITLE - 1] + "…"
