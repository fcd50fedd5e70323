"""Recommendations and explanations from an RDRec model: prompts in, catalog items and sentences out.

    model.recommend(tokenizer, user="A1YJEY40YUW4SE", history=["B004756YJA", …], k=10)
    model.rank(tokenizer, user=12, candidates=[3, 45, …])
    model.explain(tokenizer, user=12, item=45)

At inference a prompt is bare (`user_12 item_3 item_45`), as in the paper's code; a generated number that is no item of
the catalog is dropped.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from .configuration_rdrec import TASKS


# Beams of the paper's evaluation (section 4.1): 20 for items; 21 in 3 groups without diversity, which is 7, for texts.
ITEM_BEAMS = 20
TEXT_BEAMS = 7
MIN_EXPLANATION_LENGTH = 10


class RankedItems(NamedTuple):
    """Items of one query, best first, and their scores (mean log-probability per token of the generated id)."""

    items: list
    scores: list[float]


class RDRecGenerationMixin:
    """The task-level methods of [`RDRecForConditionalGeneration`]."""

    def _prompts(self, tokenizer, task: str, texts: list[str]) -> dict:
        batch = tokenizer(texts, padding=True, return_tensors="pt").to(self.device)
        batch["task_ids"] = torch.full((len(texts),), TASKS.index(task), device=self.device)
        return batch

    def _generate_items(
        self, tokenizer, task, texts, allowed, k, num_beams, num_return_sequences, max_new_tokens
    ) -> list[RankedItems]:
        """Beams for each prompt, read as item ids; only those that `allowed[row](id)` admits, each once, k at most."""
        returned = num_return_sequences or num_beams
        if max_new_tokens is None:
            max_new_tokens = tokenizer.longest_item_id()
        output = self.generate(
            **self._prompts(tokenizer, task, texts),
            num_beams=num_beams,
            num_return_sequences=returned,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            early_stopping=True,
            length_penalty=1.0,
            return_dict_in_generate=True,
            output_scores=True,
        )
        answers = tokenizer.batch_decode(output.sequences, skip_special_tokens=True)
        scores = output.sequences_scores.tolist()
        ranked = []
        for row, admits in enumerate(allowed):
            found: dict[int, float] = {}
            for answer, score in zip(
                answers[row * returned : (row + 1) * returned], scores[row * returned : (row + 1) * returned]
            ):
                answer = answer.strip()
                # "012" is no item id, although int() would take it.
                if answer.isascii() and answer.isdigit() and answer[0] != "0" and admits(int(answer)):
                    found.setdefault(int(answer), score)
            items = list(found)[:k]
            ranked.append(RankedItems(items, [found[item] for item in items]))
        return ranked

    def recommend(
        self,
        tokenizer,
        user: int | str | Sequence[int | str],
        history: Sequence,
        k: int = 10,
        num_beams: int = ITEM_BEAMS,
        num_return_sequences: int | None = None,
        max_new_tokens: int | None = None,
    ) -> RankedItems | list[RankedItems]:
        """The next items of a user (sequential recommendation) from the whole catalog, without those in `history`.

        Parameters
        ----------
        tokenizer : RDRecTokenizer
        user : id or list of ids
            Integer ids or raw ids; a list asks for several users at once.
        history : list of ids, or list of such lists
            Each user's items, oldest first; the last `config.max_history` are read.
        k : int
            At most so many items are returned; fewer when fewer beams are items of the catalog.
        num_beams : int
            Beams kept.
        num_return_sequences : int, optional
            Beams looked at, the best ones (paper: 15, for `rank` 10). Default: all.
        max_new_tokens : int, optional
            The most tokens a beam may write. Default: those of the catalog's longest id and `</s>`.

        Returns
        -------
        RankedItems or list of RankedItems
            Raw ids where the user was given as a raw id, otherwise integers.
        """
        users, single = _as_list(user)
        histories = [history] if single else list(history)
        if len(users) != len(histories):
            raise ValueError(f"{len(users)} users but {len(histories)} histories: give one history a user")
        numbers = [[tokenizer.to_id("item", item) for item in row] for row in histories]
        ids = [tokenizer.to_id("user", one) for one in users]
        texts = [bare_prompt(u, row[-self.config.max_history :]) for u, row in zip(ids, numbers)]
        known = tokenizer.num_ids("item")
        allowed = [
            lambda item, seen=frozenset(row): item not in seen and (known is None or item <= known) for row in numbers
        ]
        ranked = self._generate_items(
            tokenizer, "sequential", texts, allowed, k, num_beams, num_return_sequences, max_new_tokens
        )
        return _as_given(tokenizer, users, ranked, single)

    def rank(
        self,
        tokenizer,
        user: int | str | Sequence[int | str],
        candidates: Sequence,
        k: int = 10,
        num_beams: int = ITEM_BEAMS,
        num_return_sequences: int | None = None,
        max_new_tokens: int | None = None,
    ) -> RankedItems | list[RankedItems]:
        """The best of a list of candidates for a user (top-N recommendation); arguments and result as `recommend`."""
        users, single = _as_list(user)
        lists = [candidates] if single else list(candidates)
        if len(users) != len(lists):
            raise ValueError(f"{len(users)} users but {len(lists)} candidate lists: give one list a user")
        numbers = [[tokenizer.to_id("item", item) for item in row] for row in lists]
        texts = [bare_prompt(tokenizer.to_id("user", u), row) for u, row in zip(users, numbers)]
        allowed = [frozenset(row).__contains__ for row in numbers]
        ranked = self._generate_items(
            tokenizer, "topn", texts, allowed, k, num_beams, num_return_sequences, max_new_tokens
        )
        return _as_given(tokenizer, users, ranked, single)

    def explain(
        self,
        tokenizer,
        user: int | str | Sequence[int | str],
        item: int | str | Sequence[int | str],
        num_beams: int = TEXT_BEAMS,
        min_length: int = MIN_EXPLANATION_LENGTH,
        max_length: int = 21,
    ) -> str | list[str]:
        """Why this user would buy this item, in a sentence; one pair or lists of equal length.

        `min_length` and `max_length` count tokens with the start token, as in transformers.
        """
        users, single = _as_list(user)
        items, _ = _as_list(item)
        if len(users) != len(items):
            raise ValueError(f"{len(users)} users but {len(items)} items: give one item a user")
        texts = [bare_prompt(tokenizer.to_id("user", u), [tokenizer.to_id("item", i)]) for u, i in zip(users, items)]
        output = self.generate(
            **self._prompts(tokenizer, "explanation", texts),
            num_beams=num_beams,
            do_sample=False,
            early_stopping=True,
            length_penalty=1.0,
            min_length=min_length,
            max_length=max_length,
        )
        sentences = [text.strip() for text in tokenizer.batch_decode(output, skip_special_tokens=True)]
        return sentences[0] if single else sentences


def bare_prompt(user: int, items: Sequence[int]) -> str:
    """The text of a prompt at inference: `user_12 item_3 item_45`."""
    return " ".join([f"user_{user}", *(f"item_{item}" for item in items)])


def _as_list(value):
    single = isinstance(value, str) or not isinstance(value, Sequence)
    return ([value] if single else list(value)), single


def _as_given(tokenizer, users, ranked, single):
    """Give raw ids back to those who asked with raw ids."""
    ranked = [
        RankedItems([tokenizer.to_raw("item", item) for item in row.items], row.scores) if isinstance(u, str) else row
        for u, row in zip(users, ranked)
    ]
    return ranked[0] if single else ranked
