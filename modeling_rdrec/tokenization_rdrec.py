"""RDRecTokenizer: any T5-style vocabulary, plus the whole-word ids of users and items and the catalog of their raw ids.

tokenizer = RDRecTokenizer.from_pretrained("runs/sample")
tokenizer("user_12 item_3 item_45")     # input_ids, attention_mask, whole_word_ids
tokenizer.to_id("item", "B0012Y0ZG2")   # 45
"""

import copy
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import BatchEncoding, PreTrainedTokenizerFast
from transformers.utils import PaddingStrategy

from .catalog_trie import CatalogTrie
from .evidence import EvidenceTable
from .transitions import Transitions


WHOLE_WORD = re.compile(r"\b(?:user|item)_\d+")
_HALF_PAIR = re.compile("[\ud800-\udfff]")
CATALOG_FILE, TRIE_FILE, TRANSITIONS_FILE = "catalog.json", "catalog_trie.npy", "catalog_transitions.npy"
PIECES_FILE, EVIDENCE_FILE = "catalog_pieces.npy", "catalog_evidence.npz"
MEND_TOO_MANY = "shorten the history or the candidate list"


class RDRecTokenizer(PreTrainedTokenizerFast):
    """Tokenizer of RDRec prompts.

    Parameters
    ----------
    max_whole_words : int
        Rows of the model's whole-word table: a text with more than `max_whole_words - 1` users and items is refused.
    catalog_file : str, optional
        JSON file `{"user": [raw ids], "item": [raw ids]}`; a raw id's place in its list, counted from 1, is its id.
        It travels with the tokenizer as `catalog.json`.
    trie_file : str, optional
        The catalog's trie as [`CatalogTrie.save`] writes it, saved beside the catalog and mapped into memory when it is
        asked for. Without it the trie is built then.
    transitions_file : str, optional
        The counted transitions of the training parts (`transitions.py`), read when they are asked for.
    pieces_file : str, optional
        The pieces of the vocabulary that items' vectors are composed of (`item_text.py`), as an array of integers: the
        attribute `item_pieces`, int64, or None where items have no texts.
    evidence_file : str, optional
        What training reviews say of items and users (`evidence.py`), read when it is asked for.

    Other arguments are those of `PreTrainedTokenizerFast`.
    """

    vocab_files_names = {
        "tokenizer_file": "tokenizer.json",
        "vocab_file": "spiece.model",
        "catalog_file": CATALOG_FILE,
        "trie_file": TRIE_FILE,
        "transitions_file": TRANSITIONS_FILE,
        "pieces_file": PIECES_FILE,
        "evidence_file": EVIDENCE_FILE,
    }
    model_input_names = ["input_ids", "attention_mask", "whole_word_ids"]

    def __init__(
        self,
        *args,
        max_whole_words: int = 512,
        catalog_file: str | None = None,
        trie_file: str | None = None,
        transitions_file: str | None = None,
        pieces_file: str | None = None,
        evidence_file: str | None = None,
        **kwargs,
    ):
        super().__init__(*args, max_whole_words=max_whole_words, **kwargs)
        self.max_whole_words = max_whole_words
        self.catalog = None
        self._transitions: Transitions | None = None
        self._transitions_file = transitions_file
        self._evidence: EvidenceTable | None = None
        self._evidence_file = evidence_file
        self.item_pieces = None if pieces_file is None else _pieces_of(pieces_file)
        if catalog_file is not None:
            self.set_catalog(**_catalog_of(catalog_file))
            self._trie_file = trie_file

    @classmethod
    def convert_to_native_format(cls, *args, **kwargs):
        # tokenizer.json is taken as it stands: rebuilding it would lose the splitting rules of other vocabularies.
        return PreTrainedTokenizerFast.convert_to_native_format(*args, **kwargs)

    # --- catalog -----------------------------------------------------------------------------------------------------

    def set_catalog(self, user: list[str], item: list[str]) -> None:
        """Attach the catalog: raw ids of users and items, the raw id of id `n` at place `n - 1`."""
        self.catalog = {"user": list(user), "item": list(item)}
        self._trie: CatalogTrie | None = None
        self._trie_file: str | None = None
        self._ids = {kind: {raw: n for n, raw in enumerate(raws, 1)} for kind, raws in self.catalog.items()}

    def num_ids(self, kind: str) -> int | None:
        """Number of known users or items (`kind` "user" or "item"); None without a catalog."""
        return None if self.catalog is None else len(self.catalog[kind])

    def to_id(self, kind: str, key: Any, internal: bool = False) -> int:
        """Integer id of a user or item.

        Parameters
        ----------
        kind : str
            "user" or "item".
        key : str, int, float that is an integer, or a value of numpy, pandas or torch that is one of these
            The raw id, as the data has it; a number is the raw id written with its digits.
        internal : bool
            The key is the catalog's integer id instead. So it is, too, where the tokenizer has no catalog.

        Raises
        ------
        ValueError
            For a key that is no id, or that the catalog does not hold.
        """
        key = _plain(kind, key)
        found = self._find(kind, key, internal)
        if found is not None:
            return found
        known = self.num_ids(kind)
        if isinstance(key, int) and (internal or known is None):
            span = "1 or more" if known is None else f"1..{known}"
            raise ValueError(f"unknown {kind} {key}: internal ids of this checkpoint's catalog are {span}")
        if internal:
            raise ValueError(f"unknown {kind} {key!r}: internal ids are integers; leave out internal_ids for raw ids")
        if known is None:
            raise ValueError(f"unknown {kind} {key!r}: this tokenizer has no {CATALOG_FILE}, give integer ids")
        mend = f"see {CATALOG_FILE}"
        if isinstance(key, int) and 1 <= key <= known:
            mend += "; internal_ids=True takes numbers as the catalog's own"
        raise ValueError(f"unknown {kind} {key!r}: it is not in this checkpoint's catalog ({mend})")

    def _find(self, kind: str, key: str | int, internal: bool) -> int | None:
        """The integer id that a plain key stands for, None where there is none."""
        if internal or self.catalog is None:
            return key if isinstance(key, int) and 1 <= key <= (self.num_ids(kind) or key) else None
        return self._ids[kind].get(str(key))

    def to_ids(self, kind: str, keys: Iterable[Any], internal: bool = False) -> list[int]:
        """Integer ids of users or items; see `to_id`."""
        return [self.to_id(kind, key, internal) for key in keys]

    def knows(self, kind: str, key: Any, internal: bool = False) -> bool:
        """Whether `to_id` finds a well-formed key."""
        return self._find(kind, _plain(kind, key), internal) is not None

    def to_raw(self, kind: str, number: int) -> str:
        """Raw id of an integer id; the integer as text where there is no catalog."""
        return str(number) if self.catalog is None else self.catalog[kind][number - 1]

    def catalog_trie(self) -> CatalogTrie:
        """The trie of all items of the catalog, read or built when it is first asked for.

        Raises
        ------
        ValueError
            Without a catalog, for a trie file of another catalog, or for items that this vocabulary cannot tell apart.
        """
        if self.catalog is None:
            raise ValueError(f"this tokenizer has no {CATALOG_FILE}: set_catalog(…), or give trie=CatalogTrie.build(…)")
        if self._trie is None:
            count = self.num_ids("item")
            if self._trie_file is None:
                self._trie = CatalogTrie.build(self, count)
            else:
                self._trie = CatalogTrie.load(self._trie_file)
                # A few ids tell another vocabulary's or catalog's trie from this one's.
                probe = np.unique(np.linspace(1, count, num=8, dtype=np.int64))
                if self._trie.num_items != count or not self._trie.holds(self, probe):
                    raise ValueError(
                        f"{self._trie_file}: not the trie of this vocabulary and {CATALOG_FILE}; delete it, then it is "
                        "built anew"
                    )
        return self._trie

    @property
    def transitions(self) -> Transitions | None:
        """The counted transitions that travel with the checkpoint, None where there are none."""
        if self._transitions is None and self._transitions_file is not None:
            self._transitions = Transitions.load(self._transitions_file, self.num_ids("item"))
        return self._transitions

    @transitions.setter
    def transitions(self, counted: Transitions | None) -> None:
        self._transitions, self._transitions_file = counted, None

    @property
    def evidence(self) -> EvidenceTable | None:
        """What training reviews say of items and users, None where a checkpoint has no such table."""
        if self._evidence is None and self._evidence_file is not None:
            self._evidence = EvidenceTable.load(self._evidence_file)
        return self._evidence

    @evidence.setter
    def evidence(self, table: EvidenceTable | None) -> None:
        self._evidence, self._evidence_file = table, None

    def text_pieces(self, texts: list[str]) -> list[list[int]]:
        """The pieces that each text is written with, each once: those that items' vectors are composed of
        (`item_pieces`), or, before these are chosen, all that are no item's own."""
        encoded = self(texts, add_special_tokens=False)["input_ids"] if texts else []
        if self.item_pieces is None:
            known = set(range(len(self))) - {self.unk_token_id, *self.catalog_trie().token.tolist()}
        else:
            known = set(self.item_pieces.tolist())
        return [[piece for piece in dict.fromkeys(row) if piece in known] for row in encoded]

    @property
    def user_pieces(self) -> list[int]:
        """The piece of each user of the catalog; none where users have no pieces of their own."""
        vocabulary, count = self.get_vocab(), self.num_ids("user") or 0
        has_pieces = f"▁user_{count}" in vocabulary
        return [vocabulary[f"▁user_{n}"] for n in range(1, count + 1)] if has_pieces else []

    def with_items(self, raw_ids: list[str], users: Sequence[str] = ()) -> "RDRecTokenizer":
        """A tokenizer that knows these items too, and these users: a piece of the vocabulary for each, after all
        others (for users, where those known have pieces).

        Raises
        ------
        ValueError
            For an item or user that the catalog holds already or that is given twice, or a vocabulary whose ids have
            several pieces or that takes no more.
        """
        if self.catalog is None or self.catalog_trie().longest > 2:
            raise ValueError("items are added to a catalog whose ids are pieces of the vocabulary: see ids_as_tokens")
        for kind, new in (("item", raw_ids), ("user", users)):
            known = set(self._ids[kind])
            for raw_id in new:
                if raw_id in known:
                    raise ValueError(f"{kind} {raw_id!r} is in the catalog already: give each new {kind} once")
                known.add(raw_id)
        pieces = _following("▁", self.num_ids("item"), len(raw_ids))
        if self.user_pieces:
            pieces += _following("▁user_", self.num_ids("user"), len(users))
        vocabulary = self.get_vocab()
        missing = [piece for piece in pieces if piece not in vocabulary]
        backend = json.loads(self.backend_tokenizer.to_str())
        if missing and len(backend["model"]["vocab"]) < len(self):
            raise ValueError("this vocabulary has tokens behind its pieces, so none can follow: see ids_as_tokens")
        backend["model"]["vocab"] += [[piece, -1.0] for piece in missing]
        grown = copy.copy(self)
        grown._tokenizer = Tokenizer.from_str(json.dumps(backend))
        grown.set_catalog([*self.catalog["user"], *users], [*self.catalog["item"], *raw_ids])
        return grown

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write `catalog.json` and what goes with it beside `tokenizer.json` (which holds the vocabulary)."""
        if self.catalog is None:
            return ()
        prefix = filename_prefix + "-" if filename_prefix else ""
        path, trie_path = (os.path.join(save_directory, prefix + name) for name in (CATALOG_FILE, TRIE_FILE))
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self.catalog, file, ensure_ascii=False)
        self.catalog_trie().save(trie_path)
        written = [path, trie_path]
        if self.transitions is not None:
            written.append(os.path.join(save_directory, prefix + TRANSITIONS_FILE))
            self.transitions.save(written[-1])
        if self.evidence is not None:
            written.append(os.path.join(save_directory, prefix + EVIDENCE_FILE))
            self.evidence.save(written[-1])
        if self.item_pieces is not None:
            written.append(os.path.join(save_directory, prefix + PIECES_FILE))
            np.save(written[-1], self.item_pieces)
        return tuple(written)

    def _save_pretrained(self, save_directory, file_names, legacy_format=None, filename_prefix=None):
        saved = super()._save_pretrained(save_directory, file_names, legacy_format, filename_prefix)
        return saved + self.save_vocabulary(str(save_directory), filename_prefix)

    # --- whole-word ids ----------------------------------------------------------------------------------------------

    def _encode_plus(self, text, text_pair=None, return_tensors=None, is_split_into_words=False, **kwargs):
        if text_pair is not None or is_split_into_words:
            raise ValueError("RDRecTokenizer finds users and items in running text: give each prompt as one string")
        single = isinstance(text, str)
        # JSON may hold half of a surrogate pair, which is no character; one sign for each keeps all places.
        texts = [_HALF_PAIR.sub("\ufffd", one) for one in ([text] if single else text)]
        encoded = super()._encode_plus(texts, return_tensors=None, **kwargs)
        rows = encoded.get("overflow_to_sample_mapping", range(len(encoded.encodings)))
        encoded["whole_word_ids"] = self._whole_word_ids([texts[i] for i in rows], encoded.encodings)
        if single and return_tensors is None and "overflow_to_sample_mapping" not in encoded:
            first = {key: value[0] for key, value in encoded.items()}
            return BatchEncoding(first, encoded.encodings)
        return encoded.convert_to_tensors(return_tensors)

    def _whole_word_ids(self, texts, encodings) -> list[list[int]]:
        """Whole-word id of every token: 1, 2, 3 … in order of appearance in its text, 0 outside users and items.

        All rows are laid end to end on one axis of character positions, so that one search finds the whole word that
        each token overlaps. `</s>` and padding have empty spans and overlap nothing.
        """
        spans = [[match.span() for match in WHOLE_WORD.finditer(text)] for text in texts]
        counts = np.array([len(row) for row in spans])
        bases = np.concatenate([[0], np.cumsum([len(text) + 1 for text in texts])])[:-1]
        words = np.array([span for row in spans for span in row], dtype=np.int64).reshape(-1, 2)
        words += np.repeat(bases, counts)[:, None]

        lengths = np.array([len(encoding) for encoding in encodings])
        tokens = np.array([span for e in encodings for span in e.offsets], dtype=np.int64).reshape(-1, 2)
        row_of = np.repeat(np.arange(len(texts)), lengths)
        empty = tokens[:, 0] == tokens[:, 1]
        tokens += bases[row_of][:, None]

        if len(words) == 0:
            ids = np.zeros(len(tokens), dtype=np.int64)
        else:
            nearest = np.searchsorted(words[:, 1], tokens[:, 0], side="right")
            reached = np.minimum(nearest, len(words) - 1)
            # A piece that runs past the id, such as "2," in T5's vocabulary, is part of no whole word (so in the
            # paper's code, which asks for pieces made of digits alone).
            inside = (nearest < len(words)) & (words[reached, 0] < tokens[:, 1]) & ~empty
            inside &= tokens[:, 1] <= words[reached, 1]
            # The first whole word that survived truncation is number 1, also where the left side was cut off.
            first = np.full(len(texts), len(words))
            np.minimum.at(first, row_of[inside], reached[inside])
            ids = np.where(inside, reached - first[row_of] + 1, 0)
            if ids.max(initial=0) >= self.max_whole_words:
                row = int(row_of[ids.argmax()])
                raise ValueError(
                    f"text {row} has {int(ids.max())} users and items, the whole-word table has rows for "
                    f"{self.max_whole_words - 1}: {MEND_TOO_MANY}"
                )
        return [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])]

    def _pad(
        self,
        encoded_inputs,
        max_length=None,
        padding_strategy=PaddingStrategy.DO_NOT_PAD,
        pad_to_multiple_of=None,
        padding_side=None,
        return_attention_mask=None,
    ):
        side = padding_side or self.padding_side
        padded = super()._pad(
            encoded_inputs, max_length, padding_strategy, pad_to_multiple_of, padding_side, return_attention_mask
        )
        if isinstance(padded, Mapping) and "whole_word_ids" in padded:
            ids = list(padded["whole_word_ids"])
            zeros = [0] * (len(padded["input_ids"]) - len(ids))
            padded["whole_word_ids"] = ids + zeros if side == "right" else zeros + ids
        return padded


def _catalog_of(path: str) -> dict[str, list[str]]:
    try:
        with open(path, encoding="utf-8") as file:
            catalog = json.load(file)
        if catalog.keys() != {"user", "item"}:
            raise ValueError("its keys are others than user and item")
        if not all(isinstance(raw, str) for raws in catalog.values() for raw in raws):
            raise ValueError("a raw id that is no text")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: no catalog ({error}): get it anew") from error
    return catalog


def _pieces_of(path: str) -> np.ndarray:
    try:
        pieces = np.load(path, allow_pickle=False)
    except Exception as error:  # a damaged header can fail in any way
        raise ValueError(f"{path}: no pieces of a vocabulary ({error}): get it anew") from error
    if not isinstance(pieces, np.ndarray) or pieces.ndim != 1 or (len(pieces) and pieces.dtype != np.int64):
        raise ValueError(f"{path}: no pieces of a vocabulary, which are one row of int64: get it anew")
    return pieces


def _following(mark: str, known: int, count: int) -> list[str]:
    """The pieces of the next ids after the known ones."""
    return [f"{mark}{n}" for n in range(known + 1, known + count + 1)]


def _plain(kind: str, key: Any) -> str | int:
    """An id given as a value of Python, numpy, pandas or torch, as text or integer."""
    if isinstance(key, torch.Tensor | np.ndarray | np.generic) and getattr(key, "ndim", 0) == 0:
        key = key.item()
    if isinstance(key, float) and key.is_integer():
        key = int(key)
    if isinstance(key, bool) or not isinstance(key, str | int) or key == "":
        raise ValueError(f"{kind} {key!r} is no id: give the id as the data has it, text or an integer")
    return key


RDRecTokenizer.register_for_auto_class("AutoTokenizer")

__all__ = ["RDRecTokenizer"]
