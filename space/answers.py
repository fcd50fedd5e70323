"""What the Space answers, without its page: recommendations, explanations with their evidence, and what-ifs.

    recommender = Recommender.load(".")                              # a folder with space.json
    recommender.recommend(["B004756YJA", "B00CFRTQ6M"], k=5)
    recommender.recommend(user="A1YJEY40YUW4SE")                     # what was held out of this history is told, too
    recommender.explain(["B0002E1G5C"], history=["B004756YJA"])
    recommender.without("B0002E1G5C", ["B004756YJA", "B00CFRTQ6M"])  # without each item of the history in turn

Users and items are named by their raw ids, as in the dataset's catalog. Answers are made of what JSON has, so that the
page and everybody else can read them. A ValueError is one line for the visitor.
"""

import json
import math
import threading
import unicodedata
from collections.abc import Callable, Sequence
from functools import cached_property, wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from datasets import concatenate_datasets, load_dataset
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from transformers import AutoModel, AutoTokenizer

from histories import Counts, example_tastes
from names import Found, Names


SPACE_FILE = "space.json"
FORM = '{"model": {"id": "me/rdrec-mine"}, "dataset": {"id": "me/mine-rationales"}}, each with a "revision" if you like'
LONGEST_TITLE = 100
TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}  # Unicode's marks of writing direction
MOST_ITEMS = 50
VOICES = ("item_attributes", "user_preference", "explanation")
NOTHING = SimpleNamespace(text=None, source=None, support=0.0, evidence=())


def one_at_a_time(answer: Callable) -> Callable:
    """Visitors take turns at the model, whose tokenizer serves one thread at a time."""

    @wraps(answer)
    def alone(self, *given, **named):
        with self._turn:
            return answer(self, *given, **named)

    return alone


class Recommender:
    """A model, and the dataset that knows the titles of its items and the histories of its users.

    Parameters
    ----------
    settings : dict
        `model` and `dataset`, each `{"id": folder or repo id, "revision": branch, tag or commit, or none}`.

    Raises
    ------
    ValueError
        For settings of another form, or a dataset whose users or items are not those of the model.
    OSError
        Where the model or the dataset is not to be had.
    """

    def __init__(self, settings: dict):
        self.model_id, self._model_revision = _named(settings, "model")
        self.dataset_id, dataset_revision = _named(settings, "dataset")
        self._turn = threading.RLock()
        pinned = {"revision": self._model_revision, "code_revision": self._model_revision}
        pinned = {name: value for name, value in pinned.items() if value is not None}
        self.model = AutoModel.from_pretrained(self.model_id, trust_remote_code=True, **pinned).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(self.model_id, trust_remote_code=True, **pinned)
        self._tables = {"path": self.dataset_id, "revision": dataset_revision, "split": "train"}
        catalog = load_dataset(name="catalog", **self._tables).to_list()
        # Ids are dense from 1 and in order, in the catalog as in the rows of `interactions`.
        self.users, self.items = (
            [row["raw_id"] for row in catalog if row["kind"] == kind] for kind in ("user", "item")
        )
        if self.tokenizer.catalog != {"user": self.users, "item": self.items}:
            raise ValueError(
                f"{self.model_id} and {self.dataset_id} have other users or items: name the dataset that the model was "
                "trained on"
            )
        built = Path(self.dataset_id) / "build_info.json"  # the Hub has none of that kind
        if built.is_file() and json.loads(built.read_text(encoding="utf-8"))["source"].get("kind") == "time split":
            raise ValueError(f"{self.dataset_id}: a split by time, for measuring: name the dataset that it was made of")
        texts = [row["text"] for row in catalog if row["kind"] == "item"]
        self.has_titles = any(texts)
        self.titles = {item: _short(text) if text else item for item, text in zip(self.items, texts)}
        self._bought = load_dataset(name="interactions", **self._tables)["items"]
        # The last two items of a history are held out of training, so that nothing here was made of them.
        training = [items[:-2] for items in self._bought]
        self._counts = Counts(training, len(self.items))
        self._tastes = example_tastes(training, texts)
        self._names = {
            "item": Names(self.titles, self._counts.bought),
            "user": Names({user: user for user in self.users}, [len(items) for items in self._bought]),
        }

    @classmethod
    def load(cls, folder: str | Path) -> "Recommender":
        """The recommender that a folder's `space.json` describes."""
        path = Path(folder) / SPACE_FILE
        if not path.is_file():
            raise ValueError(f"{path}: no such file: give --model and --dataset, or write it: {FORM}")
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: not readable as JSON ({error}): write {FORM}") from error
        return cls(settings)

    @property
    def reads_users(self) -> bool:
        """Whether the model must know whose history it is, as in the paper; otherwise anybody's will do."""
        return self.model.config.history == "encoder"

    # --- what the page asks ------------------------------------------------------------------------------------------

    def about(self) -> dict[str, Any]:
        """What is shown here: the model, its dataset, how good it is, and example tastes to start from."""
        return {
            "model": _linked("", self.model_id),
            "dataset": _linked("datasets/", self.dataset_id),
            "users": len(self.users),
            "items": len(self.items),
            "has_titles": self.has_titles,
            "reads_users": self.reads_users,
            "first_user": self.users[0],
            "quality": self._quality,
            "tastes": [
                {"name": taste.name, "items": [self.items[number - 1] for number in taste.items]}
                for taste in self._tastes
            ],
        }

    def search(self, words: str, kind: str = "item", k: int = 8) -> dict[str, Any]:
        """Items by words of their title or by id, or users by id (`kind="user"`).

        Returns
        -------
        dict
            `found` (of each the `id` and the `title`), `total`, and `did_you_mean` where nothing was found.
        """
        if kind not in self._names:
            raise ValueError(f"kind {kind!r}: take item or user")
        found: Found = self._names[kind].find(words, k)
        return {
            "found": [{"id": name, "title": self.titles[name] if kind == "item" else name} for name in found.ids],
            "total": found.total,
            "did_you_mean": found.did_you_mean,
        }

    @one_at_a_time
    def recommend(self, history: Sequence[str] | None = None, user: str | None = None, k: int = 8) -> dict[str, Any]:
        """The next items after a history from the whole catalog, best first.

        Parameters
        ----------
        history : sequence of str, optional
            Items, oldest first, possibly none. Default: the user's own without its last item, which was held out.
        user : str, optional
            A user of the dataset.
        k : int
            Most items to return.

        Returns
        -------
        dict
            `history` and `items` (of each the `id` and the `title`; of recommended ones the `score`, a log-likelihood,
            and the `chance`, its exponential). With a user's own history `bought_next` (the held-out item and its
            `place` among these, or None) and `counting` (what counting recommends); both are None otherwise.

        Raises
        ------
        ValueError
            For a user or item that the catalog does not hold, or nobody where the model reads users.
        """
        known = self._known(user)
        if history is None:
            history = known if known is not None else []
        self._check_items(history)
        if self.reads_users and not user:
            raise ValueError("choose a user: this model reads whose history it is")
        k = max(1, min(int(k), MOST_ITEMS))
        found = self.model.recommend(self.tokenizer, list(history), k=k, **self._whose(user))
        made = {
            "history": self._entries(history),
            "items": [
                entry | {"score": score, "chance": math.exp(score)}
                for entry, score in zip(self._entries(found.items), found.scores)
            ],
            "bought_next": None,
            "counting": None,
        }
        if known is not None and list(history) == known and self._holds_out:
            following = self.items[self._row(user)[-1] - 1]
            place = found.items.index(following) + 1 if following in found.items else None
            made["bought_next"] = self._entries([following])[0] | {"place": place}
            numbers = self._counts.best([self.tokenizer.to_id("item", item) for item in known], k)
            made["counting"] = self._entries([self.items[number - 1] for number in numbers])
        return made

    @one_at_a_time
    def explain(
        self, items: Sequence[str], history: Sequence[str] | None = None, user: str | None = None
    ) -> list[dict[str, Any]]:
        """What items offer, what this user or this history's owner likes, and why the two go together.

        Returns
        -------
        list of dict
            Of each item `id`, a sentence or None for each voice (`item_attributes`, `user_preference`, `explanation`),
            `source` and `support` of the last, and `evidence`: `text`, `about` ("item" or "user") and what else its
            review says (`also`), where the dataset has that.
        """
        self._known(user)
        self._check_items([*items, *(history or [])])
        made = []
        for item, told in zip(items, self._explained(items, history or [], user)):
            evidence = {(one.text, one.about): one.review for voice in VOICES for one in told[voice].evidence}
            made.append(
                {"id": item}
                | {voice: told[voice].text for voice in VOICES}
                | {"source": told["explanation"].source, "support": told["explanation"].support}
                | {
                    "evidence": [
                        {"text": text, "about": about, "also": self._also(review, text)}
                        for (text, about), review in evidence.items()
                    ]
                }
            )
        return made

    @one_at_a_time
    def without(self, item: str, history: Sequence[str], user: str | None = None, k: int = 8) -> list[dict[str, Any]]:
        """Where an item would stand without each item of the history in turn, computed anew for each.

        Returns
        -------
        list of dict
            For each item of the history its `id` and `title`, and the recommended item's `place` among the best k and
            its `chance` then; both are None where it is no longer one of them.
        """
        self._known(user)
        self._check_items([item, *history])
        if not history:
            return []
        shorter = [[*history[:place], *history[place + 1 :]] for place in range(len(history))]
        # What is taken out must not come back as a recommendation and push the others down.
        answers = self.model.recommend(
            self.tokenizer,
            shorter,
            k=max(1, min(int(k), MOST_ITEMS)),
            exclude=list(history),
            **self._whose(user, len(shorter)),
        )
        made = []
        for entry, found in zip(self._entries(history), answers):
            place = found.items.index(item) if item in found.items else None
            chance = None if place is None else math.exp(found.scores[place])
            made.append(entry | {"place": None if place is None else place + 1, "chance": chance})
        return made

    # --- what these need ---------------------------------------------------------------------------------------------

    def _explained(self, items: Sequence[str], history: Sequence[str], user: str | None) -> list[dict[str, Any]]:
        """An `Explanation` for each item and voice: the only place that calls the model's `explain`."""
        has_evidence = getattr(self.model.config, "reads_evidence", False)
        if not items or not (user or has_evidence):  # without evidence, only users are known
            return [dict.fromkeys(VOICES, NOTHING) for _ in items]
        users = {"user": [user] * len(items)} if user else {}
        histories = {"history": [list(history)] * len(items)} if has_evidence else {}
        asked = {"item": list(items), "voice": VOICES, "return_evidence": True}
        return self.model.explain(self.tokenizer, **asked, **users, **histories)

    def _whose(self, user: str | None, count: int | None = None) -> dict[str, Any]:
        """The user as `recommend` takes it: once, or `count` times for as many histories."""
        return {"user": user if count is None else [user] * count} if user else {}

    def _row(self, user: str) -> list[int]:
        return self._bought[self.tokenizer.to_id("user", user) - 1]

    def _known(self, user: str | None) -> list[str] | None:
        """What a user bought, without the item that was held out; None for nobody."""
        if not user:
            return None
        if not self.tokenizer.knows("user", user):
            near = self._names["user"].find(user, 1)
            near = near if near.did_you_mean is None else self._names["user"].find(near.did_you_mean, 1)
            mend = f"did you mean {near.ids[0]}?" if near.ids else "search for a part of an id"
            raise ValueError(f"no user {_short(user)!r} in this dataset: {mend}")
        bought = [self.items[number - 1] for number in self._row(user)]
        return bought[:-1] if self._holds_out else bought

    @property
    def _holds_out(self) -> bool:
        """Whether the last purchase of each user was kept from the model."""
        return self.model.config.fit_on != "all"

    def _check_items(self, items: Sequence[str]) -> None:
        for item in items:
            if item not in self.titles:
                raise ValueError(f"no item {_short(item)!r} in this catalog: search for words of its title")

    def _entries(self, items: Sequence[str]) -> list[dict[str, Any]]:
        return [{"id": item, "title": self.titles[item]} for item in items]

    @cached_property
    def _rationales(self) -> Any:
        """The rows of reviews that evidence points into, split after split; None for a dataset without any."""
        try:
            splits = load_dataset(name="rationales", **(self._tables | {"split": None}))
        except ValueError:  # no such config
            return None
        return concatenate_datasets([splits[name] for name in ("train", "validation", "test") if name in splits])

    def _also(self, review: int | None, text: str) -> list[str]:
        """What a review says beside a sentence of it, as far as the dataset has it."""
        if review is None or self._rationales is None:
            return []
        row = self._rationales[int(review)]
        said = [" ".join((row[name] or "").split()) for name in ("explanation", "user_preference", "item_attributes")]
        return [sentence for sentence in dict.fromkeys(said) if sentence and not sentence.startswith(text)]

    @cached_property
    def _quality(self) -> dict[str, Any] | None:
        """What `eval.py` found on held-out next purchases: the number of `queries`, and how many in a hundred were
        among the first ten of the `model` and of each point of reference; None where it was not measured."""
        path = Path(self.model_id) / "eval_results.json"
        if not Path(self.model_id).is_dir():
            try:
                path = Path(hf_hub_download(self.model_id, path.name, revision=self._model_revision))
            except EntryNotFoundError:
                return None
        if not path.is_file():
            return None
        results = json.loads(path.read_text(encoding="utf-8"))
        measured = {"model": results.get("results", {}).get("sequential", {})}
        measured |= results.get("reference_points", {}).get("sequential", {})
        percent = {name: 100 * scores["hr@10"] for name, scores in measured.items() if "hr@10" in scores}
        if "model" not in percent:
            return None
        return {"queries": results.get("queries", {}).get("sequential"), "split": results.get("split"), "hits": percent}


def _named(settings: dict, kind: str) -> tuple[str, str | None]:
    """Name and revision of a repo or folder that the settings name."""
    one = settings.get(kind) if isinstance(settings, dict) else None
    if not isinstance(one, dict) or not isinstance(one.get("id"), str):
        raise ValueError(f"{SPACE_FILE}: names no {kind}: write {FORM}")
    name = one["id"]
    if not Path(name).is_dir() and name.count("/") != 1:
        raise ValueError(f"{kind} {name}: no such folder, and no NAMESPACE/NAME of a repo: check the path")
    return name, one.get("revision")


def _linked(prefix: str, name: str) -> dict[str, str | None]:
    """A repo's name with its page; a folder of this machine is named without its path."""
    if Path(name).is_dir():
        return {"name": Path(name).resolve().name, "url": None}
    return {"name": name, "url": f"https://huggingface.co/{prefix}{name}"}


def _short(text: str) -> str:
    """One line, not too long, without characters that ring a bell or turn the text around them."""
    kept = (" " if char.isspace() else char for char in text)
    shown = (
        char for char in kept if unicodedata.category(char) != "Cc" and unicodedata.bidirectional(char) not in TURNING
    )
    line = " ".join("".join(shown).split())
    return line if len(line) <= LONGEST_TITLE else line[: LONGEST_TITLE - 1] + "…"
