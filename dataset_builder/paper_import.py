"""Import of the paper's own files: the tables of a dataset from `sequential.txt` and whatever lies beside it.

    tables = build_tables_from_reference("data/beauty", domain="beauty")
    tables = build_tables_from_reference("https://host/beauty", domain="beauty")    # the same files below a URL

`published` keeps the files' ids, text split and candidates. `clean` draws ids, split and candidates anew, and drops
rationale halves that are the explanation itself: the paper's code fills them in so where the teacher's answer did not
parse. `paper_files.py` says what the files hold.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rdrec.errors import DatasetError

from .assemble import Interactions, Names, Settings, Texts, assemble, text_table
from .explanations import clean_text
from .files import describe
from .ids import ITEM_ID_STREAM, USER_ID_STREAM, drawn_ids
from .item_texts import read_item_text
from .paper_files import paper_files, read_explanations, read_maps, read_negatives, read_sequences
from .rationales import rationale
from .splits import TRAIN
from .tables import Tables


def build_tables_from_reference(
    folder: str | Path,
    *,
    domain: str,
    protocol: str = "clean",
    seed: int = 0,
    num_negatives: int = 99,
    teacher: str = "Llama-2-7b-chat",
    prompt: str = "reference-release",
) -> Tables:
    """Build a dataset from a folder of the paper's files.

    Parameters
    ----------
    folder : path or URL
        Holds `sequential.txt[.gz]` and any of the other files; of a URL (http, https) they are downloaded first.
    domain, protocol, seed, num_negatives, teacher, prompt
        As in `build_tables`; `num_negatives` counts for the candidates drawn here.

    Returns
    -------
    Tables
        Without timestamps, and without rationale rows where the folder has no explanations.

    Raises
    ------
    DatasetError
        No `sequential.txt`, a malformed line (named by its number), or a server that does not answer.
    """
    settings = Settings(domain, protocol, seed, num_negatives)
    with paper_files(folder) as files:
        return _build(files, settings, teacher, prompt)


def _build(files: Mapping[str, Path], settings: Settings, teacher: str, prompt: str) -> Tables:
    skipped: Counter[str] = Counter()
    used = [files["sequential.txt"]]
    file_users, sequences = read_sequences(files["sequential.txt"])
    raw_users_of_file: dict[int, str] = {}
    raw_items_of_file: dict[int, str] = {}
    maps_path = files.get("datamaps.json")
    if maps_path is not None:
        used.append(maps_path)
        raw_users_of_file, raw_items_of_file = read_maps(maps_path)

    order = np.argsort(file_users)
    sequences = [sequences[place] for place in order]
    item_values, item_codes = np.unique(np.concatenate(sequences), return_inverse=True)
    users = _Numbering.draw("user", file_users[order], raw_users_of_file, files, settings)
    items = _Numbering.draw("item", item_values, raw_items_of_file, files, settings)
    interactions = _in_order_of_ids(sequences, users.ids, items.ids[item_codes])

    texts_of_items: dict[str, str] = {}
    if "item_text.txt" in files:
        used.append(files["item_text.txt"])
        texts_of_items = read_item_text(files["item_text.txt"])
    raw_users, raw_items = users.raw_ids(maps_path), items.raw_ids(maps_path)
    names = Names(raw_users, raw_items, [texts_of_items.get(raw) for raw in raw_items])

    test_negatives = None
    if "negative.txt" in files and settings.protocol == "published":
        used.append(files["negative.txt"])
        test_negatives = read_negatives(
            files["negative.txt"], interactions.items, interactions.lengths, len(item_values)
        )

    texts = Texts()
    explanations_path = files.get("explanation_rationale.json") or files.get("explanation.json")
    if explanations_path is not None:
        used.append(explanations_path)
        texts = _texts(explanations_path, interactions, users, items, settings.protocol, teacher, prompt, skipped)
    source = {"kind": "reference", "files": [describe(path) for path in used]}
    return assemble(interactions, names, texts, settings, source=source, skipped=skipped, test_negatives=test_negatives)


@dataclass(frozen=True)
class _Numbering:
    """How the users, or the items, of the files get their ids.

    `file_ids`, int64 [n], are the files' integers in ascending order, whose places are called codes here; `ids`, int64
    [n], the new id of each; `raw` the raw ids by the file's integer, empty where the files have none.
    """

    kind: str
    file_ids: np.ndarray
    ids: np.ndarray
    raw: Mapping[int, str]

    @classmethod
    def draw(
        cls, kind: str, file_ids: np.ndarray, raw: Mapping[int, str], files: Mapping[str, Path], settings: Settings
    ) -> "_Numbering":
        """Draw the ids, or keep the files' under `published`, where they must run from 1 without gaps."""
        gaps = np.flatnonzero(file_ids != np.arange(1, len(file_ids) + 1))
        if settings.protocol == "published" and len(gaps):
            raise DatasetError(
                f"{files['sequential.txt']}: no {kind} {gaps[0] + 1}, but `published` keeps the file's ids and needs "
                f"1 to {file_ids[-1]} without gaps; use --protocol clean"
            )
        stream = {"user": USER_ID_STREAM, "item": ITEM_ID_STREAM}[kind]
        return cls(kind, file_ids, drawn_ids(len(file_ids), settings.protocol, settings.seed, stream), raw)

    def raw_ids(self, maps_path: Path | None) -> list[str]:
        """Raw ids in the order of the new ids; the file's integers where there is no `datamaps.json`."""
        in_order = self.file_ids[np.argsort(self.ids)].tolist()
        if maps_path is None:
            return [str(number) for number in in_order]
        try:
            return [self.raw[number] for number in in_order]
        except KeyError as error:
            raise DatasetError(
                f"{maps_path}: id2{self.kind} has no {error.args[0]}, which sequential.txt uses; get the file again"
            ) from None

    def ids_by_name(self) -> dict[str, int]:
        """New id by the file's integer and by the raw id, both as strings; should the two clash, the integer counts."""
        by_number = dict(zip(map(str, self.file_ids.tolist()), self.ids.tolist(), strict=True))
        return {self.raw[int(number)]: id_ for number, id_ in by_number.items() if int(number) in self.raw} | by_number


def _in_order_of_ids(sequences: list[np.ndarray], user_ids: np.ndarray, items: np.ndarray) -> Interactions:
    """Put the sequences end to end in order of the users' new ids; `items` are the new ids of their items, [n]."""
    lengths = np.array([len(sequence) for sequence in sequences])
    starts = np.cumsum(lengths) - lengths
    user_at = np.argsort(user_ids)  # which sequence is that of user 1, 2, …
    new_lengths = lengths[user_at]
    new_starts = np.cumsum(new_lengths) - new_lengths
    positions = np.arange(len(items)) + np.repeat(starts[user_at] - new_starts, new_lengths)
    return Interactions(items[positions], new_lengths)


def _texts(
    path: Path,
    interactions: Interactions,
    users: _Numbering,
    items: _Numbering,
    protocol: str,
    teacher: str,
    prompt: str,
    skipped: Counter[str],
) -> Texts:
    """The file's explanations that belong to an interaction, each with its rationale."""
    user_ids, item_ids = users.ids_by_name(), items.ids_by_name()
    users_of_positions = np.repeat(np.arange(1, len(interactions.lengths) + 1), interactions.lengths).tolist()
    position_of = {
        pair: place for place, pair in enumerate(zip(users_of_positions, interactions.items.tolist(), strict=True))
    }
    found: dict[int, tuple[int, dict[str, Any]]] = {}
    has_splits = False
    for place, split, row in read_explanations(path):
        user, item = user_ids.get(str(row.get("user"))), item_ids.get(str(row.get("item")))
        if user is None or item is None:
            skipped["explanation_of_unknown_user_or_item"] += 1
            continue
        position = position_of.get((user, item))
        if position is None:
            skipped["explanation_without_interaction"] += 1
        elif position in found:
            skipped["duplicate_explanation"] += 1
        else:
            text_row = _text_row(row, place, protocol, teacher, prompt, skipped)
            if text_row is None:
                skipped["without_text"] += 1
                continue
            has_splits = has_splits or split is not None
            found[position] = (TRAIN if split is None else split, text_row)
    positions = np.array(sorted(found), dtype=np.int64)
    chosen = [found[position] for position in positions.tolist()]
    splits = None
    if protocol == "published" and has_splits:
        splits = np.array([split for split, _ in chosen], dtype=np.int8)
    return Texts(text_table([row for _, row in chosen]), positions, splits)


def _text_row(
    row: Mapping[str, Any], place: str, protocol: str, teacher: str, prompt: str, skipped: Counter[str]
) -> dict[str, Any] | None:
    feature, text = row.get("feature"), row.get("explanation", row.get("text"))
    template = row.get("template")
    if text is None and isinstance(template, list) and len(template) >= 3:
        feature, text = feature or template[0], template[2]
    if text is None:
        raise DatasetError(f"{place}: no explanation; give it as `explanation`, `text` or `template`")
    text = clean_text(str(text))
    if not text:
        return None
    made = {"explanation": text, "feature": str(feature or "")}
    halves = {
        "user_preference": row.get("user_preference"),
        "item_attributes": row.get("item_attribution", row.get("item_attributes")),
    }
    if protocol == "clean":
        copies = [name for name, half in halves.items() if isinstance(half, str) and clean_text(half) == text]
        skipped["rationale_half_is_the_explanation"] += len(copies)
        halves |= dict.fromkeys(copies)
    return made | (rationale({**row, **halves}, teacher, prompt) or {})
