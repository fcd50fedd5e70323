"""Recommendations and explanations from an RDRec model: ids in, catalog items and sentences out.

    model.recommend(tokenizer, history=["B004756YJA", …], k=10)
    model.rank(tokenizer, candidates=["B00CFRTQ6M", …], history=["B004756YJA", …])
    model.explain(tokenizer, user="A1YJEY40YUW4SE", item="B004756YJA")
    model, tokenizer = model.add_items(tokenizer, {"B0NEW": "red enamel kettle"})

Ids are the raw ids of the data; `internal_ids=True` takes and gives the catalog's own integers. An item's score is the
log-likelihood of its id among all ids of the catalog. With `history="decoder"` in the configuration the decoder reads
the history; otherwise it stands in the prompt, as in the paper.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from .catalog_trie import CatalogLogitsProcessor, CatalogTrie
from .configuration_rdrec import TASKS
from .evidence import VOICES, Explanation
from .explaining import (
    MAX_EXPLANATION_LENGTH,
    MIN_EXPLANATION_LENGTH,
    SOURCES,
    Question,
    choose,
    explained,
    weigh,
)
from .fast_linear import fast_linear
from .history import decoder_prefix
from .prompts import BARE, fill
from .search import (
    RankedItems,
    beam_search,
    best_of_catalog,
    exact_search,
    root_of,
    score_candidates,
    score_catalog,
)
from .transitions import NEIGHBOURS
from .tree_decoder import TreeDecoder


ITEM_BEAMS = 20  # as many as in the paper's evaluation (section 4.1)
# Positions of prompts or histories worked on together: few enough for the cache of a CPU, enough for its cores.
POSITIONS_A_BATCH = 4096
# Scores of a whole catalog that are held at once (128 MB).
SCORES_AT_ONCE = 2**25


class RDRecGenerationMixin:
    """The task-level methods of [`RDRecForConditionalGeneration`]."""

    def recommend(
        self,
        tokenizer,
        history: Sequence = (),
        user: Any | Sequence | None = None,
        k: int = 10,
        exclude: Sequence = (),
        num_beams: int = ITEM_BEAMS,
        exact: bool = False,
        length_penalty: float = 0.0,
        prior: bool = True,
        trie: CatalogTrie | None = None,
        internal_ids: bool = False,
    ) -> RankedItems | list[RankedItems]:
        """The next items after a history, from the whole catalog without the items of the history.

        Parameters
        ----------
        tokenizer : RDRecTokenizer
        history : list of ids, or list of such lists
            Items, oldest first, possibly none; the last `config.max_history` are read. A list of lists asks for several
            users at once. Lists may be tuples, arrays, series or tensors.
        user : id or list of ids, optional
            Whose history it is. Needed only where the model reads users: never with `history="decoder"` unless it was
            trained with users in its prompts.
        k : int
            Items to return; fewer only where the catalog holds fewer that are allowed.
        exclude : list of ids, or list of such lists
            Items that are not to be returned, such as those out of stock: for everybody, or a list for each history.
            Those that the catalog does not hold are passed over.
        num_beams : int
            Beams kept (`k` if that is more), where ids have several pieces.
        exact : bool
            The proven best k of the catalog instead of what beams find; so always where every id is one piece.
        length_penalty : float
            Scores are log-likelihoods divided by the tokens of an id to this power; 0: plain log-likelihoods.
        prior : bool
            Add the counted transitions that travel with the checkpoint, if there are any.
        trie : CatalogTrie, optional
            The items to choose from. Default: the catalog of the tokenizer.
        internal_ids : bool
            Ids given and returned are the catalog's integers instead of raw ids.

        Returns
        -------
        RankedItems or list of RankedItems

        Raises
        ------
        ValueError
            For an item of a history or a user that the catalog does not hold, another number of users than of
            histories, k below 1, no user for a model with `history="encoder"`, or a tokenizer without a catalog
            (where histories are not read by the decoder: and no `trie`).
        """
        histories, single = _lists(history)
        histories = _item_ids(tokenizer, histories, internal_ids)
        users = self._users(tokenizer, user, len(histories), single, internal_ids)
        _check_settings(k, length_penalty)
        trie = tokenizer.catalog_trie() if trie is None else trie
        refused = _refused(tokenizer, exclude, histories, internal_ids)
        ranked: list[RankedItems] = [None] * len(histories)
        with torch.inference_mode(), fast_linear():
            if self.config.history == "decoder" and self.config.ids_are_pieces:
                for rows, scores in self.catalog_scores(tokenizer, users, histories, trie, prior):
                    for row, answer in zip(rows, best_of_catalog(scores, trie, [refused[row] for row in rows], k)):
                        ranked[row] = answer
            else:
                for rows, decoder, root in self._roots(tokenizer, "sequential", users, histories, trie):
                    exclusion = trie.exclusion([refused[row] for row in rows])
                    if exact:
                        found = exact_search(self, decoder, root, trie, exclusion, k, length_penalty)
                    else:
                        found = beam_search(self, decoder, root, trie, exclusion, k, max(num_beams, k), length_penalty)
                    for row, answer in zip(rows, found):
                        ranked[row] = answer
        return _as_given(tokenizer, ranked, single, internal_ids)

    def rank(
        self,
        tokenizer,
        candidates: Sequence,
        history: Sequence | None = None,
        user: Any | Sequence | None = None,
        k: int | None = None,
        length_penalty: float = 0.0,
        prior: bool = True,
        internal_ids: bool = False,
    ) -> RankedItems | list[RankedItems]:
        """Given candidates in order of their log-likelihood after a history (top-N recommendation).

        Every candidate is scored; none is lost to a beam. Equal scores are ordered by internal id.

        Parameters
        ----------
        tokenizer, user, length_penalty, prior, internal_ids
            As in `recommend`.
        candidates : list of ids, or list of such lists
            An item given twice counts once. A list of lists asks for several users at once.
        history : list of ids, or list of such lists, optional
            As in `recommend`; default: none. A model with `history="encoder"` reads the candidates in its place, as in
            the paper, and needs `user`.
        k : int, optional
            Return the best k only.

        Returns
        -------
        RankedItems or list of RankedItems

        Raises
        ------
        ValueError
            As `recommend`; for a list without candidates or, in a prompt, with more than the whole-word table has rows
            for.
        """
        lists, single = _lists(candidates)
        lists = [list(dict.fromkeys(tokenizer.to_ids("item", row, internal_ids))) for row in lists]
        _check_settings(k, length_penalty)
        if not all(lists):
            raise ValueError(f"query {[len(row) for row in lists].index(0)} has no candidates: give at least one")
        histories = [()] * len(lists)
        if history is not None:
            histories, one = _lists(history)
            if one != single or len(histories) != len(lists):
                raise ValueError(
                    f"{len(lists)} candidate lists but {len(histories)} histories: give one history a list"
                )
            histories = _item_ids(tokenizer, histories, internal_ids)
        users = self._users(tokenizer, user, len(lists), single, internal_ids)
        in_decoder = self.config.history == "decoder"
        if tokenizer.catalog is None and not in_decoder:
            trie = CatalogTrie.build(tokenizer, sorted({item for row in lists for item in row}))
        else:
            trie = tokenizer.catalog_trie()
        ranked: list[RankedItems] = [None] * len(lists)
        with torch.inference_mode(), fast_linear():
            if in_decoder and self.config.ids_are_pieces:
                for rows, scores in self.catalog_scores(tokenizer, users, histories, trie, prior):
                    scores = scores.cpu().numpy()
                    for row, all_scores in zip(rows, scores):
                        ranked[row] = _in_order(lists[row], all_scores[trie.places_of(lists[row]).numpy()], k)
            else:
                read = histories if in_decoder else lists
                for rows, decoder, root in self._roots(tokenizer, "topn", users, read, trie):
                    wanted = [lists[row] for row in rows]
                    scores = score_candidates(self, decoder, root, trie, wanted, length_penalty)
                    for row, row_scores in zip(rows, scores):
                        ranked[row] = _in_order(lists[row], row_scores, k)
        return _as_given(tokenizer, ranked, single, internal_ids)

    def explain(
        self,
        tokenizer,
        user: Any | Sequence | None = None,
        item: Any | Sequence | None = None,
        history: Sequence | None = None,
        voice: str | Sequence[str] = "explanation",
        candidates: str = "all",
        num_beams: int | None = None,
        min_length: int = MIN_EXPLANATION_LENGTH,
        max_length: int = MAX_EXPLANATION_LENGTH,
        return_evidence: bool = False,
        internal_ids: bool = False,
    ) -> str | None | Explanation | dict | list:
        """Why this user would buy this item, in a sentence; one pair or lists of equal length.

        Where the checkpoint carries evidence (`tokenizer.evidence`), the prompt holds what training reviews say of the
        item and the user, and the sentence is chosen among what the reviews say and what the model writes. Without, it
        is what `generate` writes with these settings, early stopping and a length penalty of 1 (paper, section 4.1).

        Parameters
        ----------
        tokenizer : RDRecTokenizer
        user : id or list of ids, optional
            A visitor has none: give a history.
        item : id or list of ids
            Needed but for the voice "user_preference".
        history : list of ids, or list of such lists, optional
            Items of somebody of whom no review is known: what their buyers like stands in.
        voice : str or list of str
            "explanation"; "user_preference" (what the user likes) or "item_attributes" (what the item offers).
        candidates : str
            "evidence" (sentences of reviews), "beams" (what the model writes) or "all".
        num_beams : int, optional
            3 beside what reviews say, without evidence 7 (the paper's 21 in 3 groups without diversity).
        min_length, max_length : int
            They count tokens with the start token, as in transformers.
        return_evidence : bool
            Return an [`Explanation`] in place of a sentence: what it rests on too, and how well.
        internal_ids : bool
            As in `recommend`.

        Returns
        -------
        str, None or Explanation, or a list of these
            For several voices, dicts of them by voice. None, or an explanation whose text is None: nothing is known of
            the item (or, in the voice "user_preference", of the user), so nothing is said.

        Raises
        ------
        ValueError
            For an unknown id, voice or kind of candidates, lists of different lengths, no item where one is needed, or
            neither a user nor evidence where the prompt names the user.
        """
        if not isinstance(voice, str):
            asked = (tokenizer, user, item, history)
            settings = (candidates, num_beams, min_length, max_length, return_evidence, internal_ids)
            found = {one: self.explain(*asked, one, *settings) for one in voice}
            if any(isinstance(answer, list) for answer in found.values()):
                return [dict(zip(found, row)) for row in zip(*found.values())]
            return found
        if voice not in VOICES:
            raise ValueError(f"voice {voice!r}: take one of {', '.join(VOICES)}")
        if candidates not in (*SOURCES, "all"):
            raise ValueError(f"candidates {candidates!r}: take evidence, beams or all")
        questions, single = self._questions(tokenizer, user, item, history, voice, internal_ids)
        sources = SOURCES if candidates == "all" else (candidates,)
        table = tokenizer.evidence if self.config.reads_evidence else None
        if table is None and candidates == "evidence":
            raise ValueError("candidates 'evidence': this checkpoint carries no evidence: take beams")
        weighed = weigh(self, tokenizer, questions, voice, sources, num_beams, min_length, max_length)
        weight = self.config.evidence_weight
        answers = [explained(table, found, choose(found, weight, voice=voice), voice) for found in weighed]
        answers = answers if return_evidence else [answer.text for answer in answers]
        return answers[0] if single else answers

    def _questions(self, tokenizer, user, item, history, voice: str, internal: bool) -> tuple[list[Question], bool]:
        """Who asks about what, with internal ids, and whether it is one question."""
        if item is None and voice != "user_preference":
            raise ValueError(f"explain() in the voice {voice!r} needs an item: give item=…")
        if user is None and (not self.config.reads_evidence or (item is None and history is None)):
            raise ValueError("explain() needs to know for whom: give user=…, or a history to a model with evidence")
        single, columns = _is_id(user) and _is_id(item), {}
        for name, given in (("user", user), ("item", item)):
            if given is not None:
                columns[name] = tokenizer.to_ids(name, [given] if _is_id(given) else _plain_list(given), internal)
        if history is not None:
            rows, one = _lists(history)
            single, columns["history"] = single and one, _item_ids(tokenizer, rows, internal)
        sizes = {name: len(column) for name, column in columns.items()}
        count = max(sizes.values())
        if min(sizes.values()) < count:
            plural = {"user": "users", "item": "items", "history": "histories"}
            lengths = " but ".join(f"{size} {plural[name]}" for name, size in sizes.items())
            raise ValueError(f"{lengths}: give one of each for a question")
        users, items, histories = (columns.get(name, [None] * count) for name in ("user", "item", "history"))
        return [Question(*one) for one in zip(users, items, [row or () for row in histories])], single

    def add_items(self, tokenizer, texts: Mapping[str, str]) -> tuple["RDRecGenerationMixin", Any]:
        """Make rows for new items from their texts alone.

        A new item's vector is the sum of its text's pieces over the root of their number, as a trained item's is, but
        for the part that only purchases teach. Where counted transitions travel with the checkpoint, it is expected
        where the items with the most similar vectors are, and after those (`Transitions.with_items`). The model grows
        in place; save both to keep the items.

        Parameters
        ----------
        tokenizer : RDRecTokenizer
        texts : mapping of str to str
            Raw id to text (title, what it offers), for each new item.

        Returns
        -------
        model, tokenizer
            This model, and a tokenizer that knows the new items too.

        Raises
        ------
        ValueError
            For an item that is known already, a text of which no piece is known, or a model whose ids have several
            pieces or whose items were not composed of texts.
        """
        if self.config.history != "decoder" or not self.config.ids_are_pieces:
            raise ValueError("add_items needs history='decoder' and ids that are pieces of the vocabulary")
        if tokenizer.item_pieces is None:
            raise ValueError("this model's items were trained without texts: train it with item_text first")
        pieces = tokenizer.text_pieces(list(texts.values()))
        for raw_id, row in zip(texts, pieces):
            if not len(row):
                raise ValueError(f"item {raw_id!r}: no piece of its text is known to this model: give other words")
        grown = tokenizer.with_items([str(raw_id) for raw_id in texts])
        self.add_rows(tokenizer, grown, pieces)
        if tokenizer.evidence is not None:
            grown.evidence = tokenizer.evidence.with_items(tokenizer.num_ids("item") + 1, list(texts.values()))
        if tokenizer.transitions is not None:
            grown.transitions = tokenizer.transitions.with_items(*self._neighbours(tokenizer, grown))
        return self, grown

    @torch.no_grad()
    def _neighbours(self, tokenizer, grown) -> tuple[np.ndarray, np.ndarray]:
        """The known items with the most similar vectors of each new one, and how similar they are, from 0 to 1: int64
        and float32 `[new items, NEIGHBOURS]`."""
        table, trie = self.get_input_embeddings().weight, tokenizer.catalog_trie()
        known = normalize(table[trie.token[trie.end.long()].long()], dim=1)
        new = normalize(table[len(tokenizer) : len(grown)], dim=1)
        found = []
        for rows in new.split(max(1, SCORES_AT_ONCE // len(known))):
            found.append((rows @ known.T).topk(min(NEIGHBOURS, len(known)), dim=1))
        likeness, places = (torch.cat(parts).cpu() for parts in zip(*found))
        return places.numpy() + 1, likeness.clamp(0, 1).numpy()

    @torch.no_grad()
    def add_rows(self, tokenizer, grown, pieces: Sequence[Sequence[int]]) -> None:
        """Make the rows of the pieces that a grown tokenizer has beyond the one that it grew from, in place.

        Parameters
        ----------
        tokenizer, grown : RDRecTokenizer
            `grown` as `tokenizer.with_items` gives it.
        pieces : sequence of sequences of int
            Of each new item, the pieces of its text: its row is their sum over the root of their number. An item
            without any and a new user start as the mean of those known.
        """
        first = len(tokenizer)
        self.resize_token_embeddings(max(self.config.vocab_size, len(grown)), mean_resizing=False)
        table = self.get_input_embeddings().weight
        items = grown.catalog_trie().spell(np.arange(1, grown.num_ids("item") + 1))[0]
        for tokens in (items, np.array(grown.user_pieces, dtype=np.int64)):
            new, known = torch.from_numpy(tokens[tokens >= first]), torch.from_numpy(tokens[tokens < first])
            table[new] = table[known].mean(0)
        for token, row in zip(items[tokenizer.num_ids("item") :], pieces, strict=True):
            if len(row) and token >= first:
                table[token] = table[row].sum(0) / len(row) ** 0.5

    def logits_processor(
        self, tokenizer, history: Sequence, num_beams: int = 1, exclude: Sequence = (), internal_ids: bool = False
    ) -> CatalogLogitsProcessor:
        """What keeps `generate` inside the catalog after these histories, so that it gives what `recommend` gives.

        Give the histories to `generate` as `decoder_input_ids` (see `decoder_inputs`), of equal lengths.
        """
        histories = _item_ids(tokenizer, _lists(history)[0], internal_ids)
        trie, refused = tokenizer.catalog_trie(), _refused(tokenizer, exclude, histories, internal_ids)
        if self.config.history == "encoder":
            return trie.logits_processor(num_beams, refused)
        lengths = set(self._prefix(trie, histories).lengths.tolist())
        if len(lengths) > 1:
            raise ValueError("generate() reads histories of equal lengths at once: give them one by one")
        return trie.logits_processor(
            num_beams,
            refused,
            eos_token_id=self.config.eos_token_id,
            prefix_length=lengths.pop(),
            ends=not self.config.ids_are_pieces,
            among_ids=True,
            added=self._prior(tokenizer, histories, trie),
        )

    def decoder_inputs(self, tokenizer, history: Sequence, internal_ids: bool = False) -> torch.LongTensor:
        """Histories as `decoder_input_ids` `[histories, length]` of `generate` and `forward`, padded on the right."""
        histories = _item_ids(tokenizer, _lists(history)[0], internal_ids)
        return self._prefix(tokenizer.catalog_trie(), histories).input_ids.to(self.device)

    # --- how histories are read --------------------------------------------------------------------------------------

    def _users(self, tokenizer, user, count: int, single: bool, internal: bool) -> list[int | None]:
        """Internal ids of the users to name in prompts, None where the model reads no users."""
        if user is None:
            if self.config.history == "encoder":
                raise ValueError("this model reads the user (history='encoder'): give user=…")
            return [None] * count
        if _is_id(user) != single:
            raise ValueError("one user goes with one list, a list of users with a list of lists")
        users = [user] if single else _plain_list(user)
        if len(users) != count:
            raise ValueError(f"{len(users)} users but {count} lists of items: give one list a user")
        users = tokenizer.to_ids("user", users, internal)
        return users if self.config.history == "encoder" or self.config.reads_users else [None] * count

    def encoded_prompts(
        self, tokenizer, task: str, texts: list[str]
    ) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
        """Encode prompts in batches of similar lengths: which prompts a batch holds, their states and their mask."""
        encoded = tokenizer(texts)
        lengths = [len(row) for row in encoded["input_ids"]]
        for rows in _batches_by_length(lengths, self.config.prompt_length):
            batch = tokenizer.pad(
                {name: [column[row] for row in rows] for name, column in encoded.items()}, return_tensors="pt"
            )
            batch["task_ids"] = torch.full((len(rows),), TASKS.index(task))
            states, mask = self.encode(**batch.to(self.device))
            yield rows, states.last_hidden_state, mask

    def _prefix(self, trie, histories):
        return decoder_prefix(trie, [row[-self.config.max_history :] for row in histories], self.config)

    def _roots(self, tokenizer, task: str, users, items, trie) -> Iterator:
        """For each batch of prompts: which, their decoder, and where in it answers begin (`items`: what is read)."""
        if self.config.history == "encoder":
            read = [self._last(row) if task == "sequential" else row for row in items]
            texts = [fill(BARE[task], user, row) for user, row in zip(users, read)]
            for rows, states, mask in self.encoded_prompts(tokenizer, task, texts):
                decoder = TreeDecoder(self, states, mask, trie.longest)
                yield rows, decoder, root_of(self, decoder)
            return
        for rows, states, mask, prefix in self._encoded_histories(tokenizer, users, items):
            decoder = TreeDecoder(self, states, mask, prefix.input_ids.shape[1] + trie.longest)
            yield rows, decoder, root_of(self, decoder, prefix)

    def _last(self, history: list[int]) -> list[int]:
        """The items of a history that a prompt has room for; the user is a whole word too."""
        room = self.config.max_whole_words - 2
        read = min(self.config.max_history, room)
        if len(history) > room:
            warnings.warn(
                f"a history of {len(history)} items is longer than the whole-word table: the last {read} are read",
                stacklevel=4,
            )
        return history[max(0, len(history) - read) :]

    def _encoded_histories(self, tokenizer, users, histories) -> Iterator:
        """Encoder states and decoder prefixes in batches of similar lengths; the history is in the decoder."""
        trie = tokenizer.catalog_trie()
        for rows in _batches_by_length([len(row) for row in histories], self.config.prompt_length + 2):
            prefix = self._prefix(trie, [histories[row] for row in rows])
            texts = [fill(BARE["sequential"], users[row]) for row in rows]
            alike = len(set(texts)) == 1
            batch = tokenizer(texts[:1] if alike else texts, padding=True, return_tensors="pt").to(self.device)
            batch["task_ids"] = torch.full((len(batch["input_ids"]),), TASKS.index("sequential"), device=self.device)
            states, mask = self.encode(**batch)
            states = states.last_hidden_state.expand(len(rows), -1, -1)
            yield rows, states, mask.expand(len(rows), -1), prefix

    def catalog_scores(
        self, tokenizer, users, histories, trie, prior: bool
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Log-probabilities of all items after each history, batch by batch; ids are pieces."""
        for all_rows, states, mask, prefix in self._encoded_histories(tokenizer, users, histories):
            read = self.decoder(
                input_ids=prefix.input_ids.to(self.device),
                encoder_hidden_states=states,
                encoder_attention_mask=mask,
                use_cache=False,
            ).last_hidden_state
            last = read[torch.arange(len(read)), prefix.lengths.to(self.device) - 1]
            step = max(1, SCORES_AT_ONCE // trie.num_items)
            for start in range(0, len(all_rows), step):
                rows = all_rows[start : start + step]
                added = self._prior(tokenizer, [histories[row] for row in rows], trie) if prior else None
                yield rows, score_catalog(self, last[start : start + step], trie, added)

    def _prior(self, tokenizer, histories, trie) -> torch.Tensor | None:
        """What counted transitions add to the logits of the trie's items: float32 `[histories, items]`, or None."""
        counts = tokenizer.transitions
        if counts is None or not self.config.prior_weight:
            return None
        weighted = torch.from_numpy(counts.weighted(histories))
        added = self.config.prior_weight * (weighted + self.config.prior_offset).log()
        items = torch.arange(1, trie.num_items + 1) if trie.items is None else trie.items.long()
        return added[:, items - 1]


# --- reading what was given ------------------------------------------------------------------------------------------


def _is_id(value: Any) -> bool:
    """Whether a value is one id rather than several."""
    # Arrays and tensors without dimensions have a length that they cannot tell.
    return isinstance(value, str) or not hasattr(value, "__len__") or getattr(value, "ndim", 1) == 0


def _plain_list(values: Any) -> list:
    """A list, tuple, array, series or tensor as a list; an array's rows stay arrays."""
    return list(values.tolist() if isinstance(values, torch.Tensor | np.ndarray) else values)


def _lists(values: Any) -> tuple[list[list], bool]:
    """One list of ids, or several, as a list of lists; and whether it was one."""
    if _is_id(values):
        raise ValueError(f"{values!r}: give a list of item ids, or a list of such lists")
    rows = _plain_list(values)
    several = [not _is_id(row) for row in rows]
    if any(several) and not all(several):
        raise ValueError(f"item {several.index(False)} stands among lists: give a list of ids, or a list of lists")
    if rows and all(several):
        return [_plain_list(row) for row in rows], False
    return [rows], True


def _item_ids(tokenizer, rows: list[list], internal: bool) -> list[list[int]]:
    """Lists of item ids as internal ids."""
    return [tokenizer.to_ids("item", row, internal) for row in rows]


def _refused(tokenizer, exclude, histories: list[list[int]], internal: bool) -> list[list[int]]:
    """What each answer must not hold: the history, and what is excluded of the catalog."""
    lists, one = _lists(exclude)
    known = [[item for item in row if tokenizer.knows("item", item, internal)] for row in lists]
    known = _item_ids(tokenizer, known, internal)
    if not one and len(known) != len(histories):
        raise ValueError(f"{len(known)} lists to exclude but {len(histories)} histories: give one for all, or one each")
    return [[*row, *known[0 if one else place]] for place, row in enumerate(histories)]


def _batches_by_length(lengths: Sequence[int], more: int) -> Iterator[list[int]]:
    """Places in batches of similar lengths, the longest first, of at most `POSITIONS_A_BATCH` positions."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    start = 0
    while start < len(order):
        rows = order[start : start + max(1, POSITIONS_A_BATCH // (lengths[order[start]] + more))]
        start += len(rows)
        yield rows


def _in_order(items: list[int], scores: np.ndarray, k: int | None) -> RankedItems:
    order = np.lexsort((items, -scores))[:k]
    return RankedItems([items[i] for i in order], scores[order].tolist())


def _check_settings(k: int | None, length_penalty: float) -> None:
    if k is not None and k < 1:
        raise ValueError(f"k {k}: give 1 or more")
    if length_penalty < 0:
        raise ValueError(f"length_penalty {length_penalty}: give 0 (log-likelihood) or more")


def _as_given(tokenizer, ranked: list[RankedItems], single: bool, internal: bool):
    """Raw ids for those who asked with raw ids."""
    if not internal and tokenizer.catalog is not None:
        ranked = [RankedItems([tokenizer.to_raw("item", item) for item in row.items], row.scores) for row in ranked]
    return ranked[0] if single else ranked


__all__ = ["ITEM_BEAMS", "RDRecGenerationMixin", "RankedItems"]
