"""RDRecPipeline: recommendations, with explanations if asked for, through transformers' `pipeline`.

    recommender = pipeline("rdrec-recommendation", model="rdrec/rdrec-beauty", trust_remote_code=True)
    recommender({"history": ["B004756YJA", "B00CFRTQ6M"]}, top_k=5)                     # from the whole catalog
    recommender({"history": ["B004756YJA"], "candidates": ["B00CFRTQ6M", "B0001EKVCM"]})    # these, best first
    recommender({"user": "A1YJEY40YUW4SE", "history": ["B004756YJA"]}, explain=True)    # and why this user would buy
    recommender({"history": ["B004756YJA"]}, explain=["explanation", "item_attributes"])    # in several voices

Ids are the raw ids of the data. A list of such queries is answered in batches.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import Pipeline


TASK = "rdrec-recommendation"
# What config.json says of the pipeline; transformers reads the class from the file beside it.
CUSTOM_PIPELINES = {TASK: {"impl": "pipeline_rdrec.RDRecPipeline", "pt": ["AutoModelForSeq2SeqLM"], "type": "text"}}
QUERY_FORM = '{"history": [ids, oldest first]}, with "candidates": [ids] to rank those and "user": id where it is known'


class RDRecPipeline(Pipeline):
    """Items for users; see `RDRecForConditionalGeneration.recommend`, `rank` and `explain`, which it calls."""

    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False

    def __call__(self, inputs: Mapping | Sequence[Mapping], batch_size: int = 32, **kwargs) -> list:
        """Answer one query or many.

        Parameters
        ----------
        inputs : dict or list of dict
            `{"history": [ids]}` recommends from the whole catalog; with `"candidates": [ids]` these are ranked. "user"
            is needed by models with `history="encoder"`, which rank candidates without a history, and for explanations
            of models that carry no evidence.
        batch_size : int
            Queries that the model answers at once.
        top_k : int
            Most items an answer holds (default 10).
        explain : bool, or list of voices
            Say of each item why it would be bought (default False), or what else `explain` can say (`voice`).

        Returns
        -------
        list of dict, or list of such lists
            `{"item", "score"}`, best first, and "explanation", or a key for each voice, if asked for.

        Raises
        ------
        ValueError
            For a query of another form, or an id that the catalog does not hold.
        """
        single = isinstance(inputs, Mapping)
        queries = [inputs] if single else list(inputs)
        for place, query in enumerate(queries):
            keys = set(query) if isinstance(query, Mapping) else set()
            if not keys & {"history", "candidates"} or keys - {"user", "history", "candidates"}:
                raise ValueError(f"query {place}: give {QUERY_FORM}")
            if kwargs.get("explain") and query.get("user") is None:
                if not (self.model.config.reads_evidence and "history" in query):
                    raise ValueError(f'query {place}: an explanation is written for a user: give "user": id')
        answers: list[list[dict]] = []
        for start in range(0, len(queries), batch_size):
            # The base class would take a list apart; a mapping passes as one input.
            answers += super().__call__({"queries": queries[start : start + batch_size]}, **kwargs)
        return answers[0] if single else answers

    def _sanitize_parameters(self, top_k: int | None = None, explain: bool | Sequence[str] | None = None):
        given = {"top_k": top_k, "explain": explain}
        return {}, {name: value for name, value in given.items() if value is not None}, {}

    def preprocess(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return inputs

    def _forward(
        self, inputs: Mapping[str, Any], top_k: int = 10, explain: bool | Sequence[str] = False
    ) -> dict[str, Any]:
        queries = inputs["queries"]
        answers: list[list[dict]] = [[] for _ in queries]
        # Queries of one form are answered together.
        forms: dict[tuple[bool, bool, bool], list[int]] = {}
        for place, query in enumerate(queries):
            form = ("candidates" in query, "history" in query, query.get("user") is not None)
            forms.setdefault(form, []).append(place)
        for (ranks, with_history, with_user), places in forms.items():
            asked = {"k": top_k}
            for name, given in (("candidates", ranks), ("history", with_history)):
                if given:
                    asked[name] = [list(queries[place][name]) for place in places]
            if with_user:
                asked["user"] = [queries[place]["user"] for place in places]
            answer = self.model.rank if ranks else self.model.recommend
            for place, ranked in zip(places, answer(self.tokenizer, **asked)):
                answers[place] = [{"item": i, "score": score} for i, score in zip(ranked.items, ranked.scores)]
        if explain:
            self._explain(queries, answers, ["explanation"] if explain is True else list(explain))
        return {"answers": answers}

    def _explain(self, queries: list[Mapping[str, Any]], answers: list[list[dict]], voices: list[str]) -> None:
        """Add a sentence in each voice to each answer, so many at once as there are queries."""
        # Those with a user and those without are asked apart.
        for known in (True, False):
            pairs = [
                (query, row)
                for query, rows in zip(queries, answers)
                for row in rows
                if (query.get("user") is not None) == known
            ]
            for start in range(0, len(pairs), len(queries)):
                some, rows = zip(*pairs[start : start + len(queries)])
                who = {"user": [query["user"] for query in some]} if known else {}
                if all("history" in query for query in some):
                    who["history"] = [list(query["history"]) for query in some]
                items = [row["item"] for row in rows]
                for row, said in zip(rows, self.model.explain(self.tokenizer, item=items, voice=voices, **who)):
                    row.update(said)

    def postprocess(self, model_outputs: dict[str, Any]) -> list[list[dict]]:
        return model_outputs["answers"]


__all__ = ["CUSTOM_PIPELINES", "RDRecPipeline"]
