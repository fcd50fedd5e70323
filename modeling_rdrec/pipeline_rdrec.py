"""RDRecPipeline: recommendations, with explanations if asked for, through transformers' `pipeline`.

    recommender = pipeline("rdrec-recommendation", model="rdrec/rdrec-beauty", trust_remote_code=True)
    recommender({"user": 12, "history": [3, 45]}, top_k=5, explain=True)      # from the whole catalog
    recommender({"user": 12, "candidates": [5, 80, 102]})                     # these, best first

A list of such queries is answered in batches.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import Pipeline


TASK = "rdrec-recommendation"
# What config.json says of the pipeline; transformers reads the class from the file beside it.
CUSTOM_PIPELINES = {TASK: {"impl": "pipeline_rdrec.RDRecPipeline", "pt": ["AutoModelForSeq2SeqLM"], "type": "text"}}
QUERY_FORM = '{"user": id, "history": [ids, oldest first]} or {"user": id, "candidates": [ids]}'


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
            `{"user": id, "history": [ids]}` recommends from the whole catalog, `{"user": id, "candidates": [ids]}`
            ranks the candidates. Ids are integers or the raw ids of the data.
        batch_size : int
            Queries that the model answers at once.
        top_k : int
            Most items an answer holds (default 10).
        explain : bool
            Write an explanation for each item (default False).

        Returns
        -------
        list of dict, or list of such lists
            `{"item", "score"}`, best first, and "explanation" if asked for.

        Raises
        ------
        ValueError
            For a query of another form, or an id that the catalog does not hold.
        """
        single = isinstance(inputs, Mapping)
        queries = [inputs] if single else list(inputs)
        for place, query in enumerate(queries):
            wanted = ({"user", "history"}, {"user", "candidates"})
            if not isinstance(query, Mapping) or set(query) not in wanted:
                raise ValueError(f"query {place}: give {QUERY_FORM}")
        answers: list[list[dict]] = []
        for start in range(0, len(queries), batch_size):
            # The base class would take a list apart; a mapping passes as one input.
            answers += super().__call__({"queries": queries[start : start + batch_size]}, **kwargs)
        return answers[0] if single else answers

    def _sanitize_parameters(self, top_k: int | None = None, explain: bool | None = None):
        given = {"top_k": top_k, "explain": explain}
        return {}, {name: value for name, value in given.items() if value is not None}, {}

    def preprocess(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return inputs

    def _forward(self, inputs: Mapping[str, Any], top_k: int = 10, explain: bool = False) -> dict[str, Any]:
        queries = inputs["queries"]
        answers: list[list[dict]] = [[] for _ in queries]
        for kind, answer in (("history", self.model.recommend), ("candidates", self.model.rank)):
            places = [place for place, query in enumerate(queries) if kind in query]
            if places:
                users = [queries[place]["user"] for place in places]
                lists = [list(queries[place][kind]) for place in places]
                for place, ranked in zip(places, answer(self.tokenizer, user=users, **{kind: lists}, k=top_k)):
                    answers[place] = [{"item": i, "score": score} for i, score in zip(ranked.items, ranked.scores)]
        if explain:
            self._explain(queries, answers)
        return {"answers": answers}

    def _explain(self, queries: list[Mapping[str, Any]], answers: list[list[dict]]) -> None:
        """Add a sentence to each answer, so many at once as there are queries."""
        pairs = [(query["user"], row) for query, rows in zip(queries, answers) for row in rows]
        for start in range(0, len(pairs), len(queries)):
            users, rows = zip(*pairs[start : start + len(queries)])
            texts = self.model.explain(self.tokenizer, user=list(users), item=[row["item"] for row in rows])
            for row, text in zip(rows, texts):
                row["explanation"] = text

    def postprocess(self, model_outputs: dict[str, Any]) -> list[list[dict]]:
        return model_outputs["answers"]


__all__ = ["CUSTOM_PIPELINES", "RDRecPipeline"]
