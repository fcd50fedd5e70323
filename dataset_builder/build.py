"""Reviews to tables: the whole build, as one function.

    tables = build_tables("reviews_Beauty_5.json.gz", domain="beauty")
    write_dataset(tables, "data/beauty")

The reviews are streamed three times, so that a file of any size fits in memory: once for who bought what when, once
(of the kept training reviews) for the words that the corpus uses as features, once (of the kept reviews) to choose
explanations.
"""

from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rdrec.errors import DatasetError

from .assemble import PROTOCOLS, assemble
from .explanations import FeatureVocabulary, pick
from .files import describe
from .ids import ITEM_ID_STREAM, USER_ID_STREAM, drawn_ids, first_appearance
from .interactions import filter_interactions
from .item_texts import read_item_text
from .rationales import read_rationales
from .reviews import ROW_SKIPS, Review, ReviewSource, read_reviews
from .splits import TRAIN, leave_one_out
from .tables import Tables


def build_tables(
    reviews: ReviewSource,
    *,
    domain: str,
    protocol: str = "clean",
    min_core: int = 5,
    seed: int = 0,
    num_negatives: int = 99,
    rationales: str | Path | None = None,
    teacher: str = "unknown",
    prompt: str = "unknown",
    item_text: str | Path | None = None,
    source: dict[str, Any] | None = None,
    progress: bool = True,
) -> Tables:
    """Build a dataset from reviews.

    Parameters
    ----------
    reviews : path or callable
        A reviews file (see `reviews.py`), or a callable that returns a fresh iterator of rows in the same field names.
    domain : str
        Name of the dataset, for its card.
    protocol : {"clean", "published"}
        `clean` draws ids at random and keeps texts of held-out interactions out of training; `published` does what the
        paper measured: ids by first appearance, texts split 8:1:1 whatever they belong to.
    min_core : int
        Interactions that each user and each item must have.
    seed : int
        Of ids, text split and candidates.
    num_negatives : int
        Negatives a user in each candidates split.
    rationales : path, optional
        Distilled rationales (see `rationales.py`), joined on the row of the reviews file.
    teacher, prompt : str
        Provenance of rationales that do not name their own.
    item_text : path, optional
        `ASIN a few words` lines for the catalog.
    source : dict, optional
        What to record as the origin; names and hashes of the files read when not given.
    progress : bool
        Show progress bars.

    Returns
    -------
    Tables

    Raises
    ------
    DatasetError
        Input that cannot be used; the message says what, where and how to mend it.
    """
    if protocol not in PROTOCOLS:
        raise DatasetError(f"--protocol {protocol}: unknown; choose one of {', '.join(PROTOCOLS)}")
    skipped: Counter[str] = Counter()
    texts_of_items = read_item_text(item_text) if item_text is not None else {}
    given = (
        read_rationales(rationales, teacher=teacher, prompt=prompt, skipped=skipped) if rationales is not None else {}
    )
    if source is None:
        source = _source(reviews, rationales, item_text)

    # First pass: who, what, when. Ids are coded from 0 by first appearance in the file.
    user_codes: dict[str, int] = {}
    item_codes: dict[str, int] = {}
    users, items, timestamps, rows = array("q"), array("q"), array("q"), array("q")
    for review in _read(reviews, skipped, "reading interactions", progress):
        users.append(user_codes.setdefault(review.user, len(user_codes)))
        items.append(item_codes.setdefault(review.item, len(item_codes)))
        timestamps.append(review.timestamp)
        rows.append(review.row)
    n_rows = len(rows) + sum(skipped[reason] for reason in ROW_SKIPS)
    outside = max(given, default=-1)
    if outside >= n_rows:
        raise DatasetError(
            f"{rationales}: review_row {outside} is not among the {n_rows} rows of the reviews; "
            "give the reviews file that the rationales were written for"
        )
    user_array, item_array, time_array, row_array = (np.asarray(a) for a in (users, items, timestamps, rows))
    kept = filter_interactions(user_array, item_array, time_array, min_core, skipped)

    # Ids. `kept` runs user by user, oldest first, so first appearance in it is the published numbering.
    user_numbers, user_values = first_appearance(user_array[kept])
    item_numbers, item_values = first_appearance(item_array[kept])
    user_ids = drawn_ids(len(user_values), protocol, seed, USER_ID_STREAM)
    item_ids = drawn_ids(len(item_values), protocol, seed, ITEM_ID_STREAM)
    order = np.argsort(user_ids[user_numbers], kind="stable")
    kept, user_numbers, item_numbers = kept[order], user_numbers[order], item_numbers[order]
    lengths = np.bincount(user_ids[user_numbers] - 1)
    raw_users = _by_id(list(user_codes), user_values, user_ids)
    raw_items = _by_id(list(item_codes), item_values, item_ids)

    # Second and third pass: texts. The words of held-out reviews do not shape the feature vocabulary.
    position_of_row = np.full(int(row_array[-1]) + 1, -1)
    position_of_row[row_array[kept]] = np.arange(len(kept))
    parts = leave_one_out(lengths)
    vocabulary = FeatureVocabulary()
    for review in _read(reviews, Counter(), "counting features", progress, len(rows)):
        position = position_of_row[review.row]
        if position >= 0 and parts[position] == TRAIN and review.text:
            vocabulary.add(review.text)
    features = vocabulary.select()
    found: dict[int, dict[str, Any]] = {}
    for review in _read(reviews, Counter(), "choosing explanations", progress, len(rows)):
        position = int(position_of_row[review.row])
        if position < 0:
            continue
        explanation = pick(review.text, features)
        if explanation is None:
            skipped["no_usable_sentence" if review.text else "without_text"] += 1
            continue
        skipped["explanation_without_feature"] += not explanation.feature
        found[position] = {
            "explanation": explanation.text,
            "feature": explanation.feature,
            **given.pop(review.row, {}),
        }
    skipped["rationale_of_dropped_review"] += len(given)
    positions = np.array(sorted(found), dtype=np.int64)

    return assemble(
        item_ids[item_numbers],
        lengths,
        time_array[kept],
        raw_users,
        raw_items,
        [texts_of_items.get(raw) for raw in raw_items],
        [found[position] for position in positions.tolist()],
        positions,
        domain=domain,
        protocol=protocol,
        seed=seed,
        min_core=min_core,
        num_negatives=num_negatives,
        source=source,
        skipped=skipped,
    )


def _read(
    reviews: ReviewSource, skipped: Counter[str], what: str, progress: bool, total: int | None = None
) -> Iterator[Review]:
    return tqdm(read_reviews(reviews, skipped=skipped), desc=what, unit=" rows", total=total, disable=not progress)


def _by_id(names: list[str], values: np.ndarray, ids: np.ndarray) -> list[str]:
    """Raw ids in the order of the integer ids: number i stands for code values[i] and has the id ids[i]."""
    return [names[code] for code in values[np.argsort(ids)].tolist()]


def _source(reviews: ReviewSource, rationales: str | Path | None, item_text: str | Path | None) -> dict[str, Any]:
    source: dict[str, Any] = {"kind": "reviews"}
    if not callable(reviews):
        source |= describe(reviews)
    if rationales is not None:
        source["rationales"] = describe(rationales)
    if item_text is not None:
        source["item_text"] = describe(item_text)
    return source
