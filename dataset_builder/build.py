"""Reviews to tables: the whole build, as one function.

    tables = build_tables("reviews_Beauty_5.json.gz", domain="beauty")
    write_dataset(tables, "data/beauty")

The reviews are read once. Who bought what when is held in memory as numbers; the texts wait in a temporary file
(`texts.py`), from which processes count the words that the corpus uses as features (of the kept training reviews) and
then choose explanations (of all kept ones).
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from rdrec.errors import DatasetError

from .assemble import Interactions, Names, Settings, Texts, assemble, text_table
from .columns import Chosen, told
from .explanations import FeatureVocabulary
from .extending import Known, read_known, settle
from .fields import respelled
from .files import describe
from .ids import ITEM_ID_STREAM, USER_ID_STREAM, continued_ids, first_appearance
from .interactions import filter_interactions
from .item_texts import read_item_text, read_items
from .processes import processes as workers
from .rationales import Identity, identity_in, read_rationales, reviews_distilled
from .reviews import RATING_SKIPS, ROW_SKIPS, Review, ReviewSource, read_reviews
from .splits import TRAIN, leave_one_out
from .tables import Tables
from .texts import Part, TextFile, count_words, explain


NO_ROW = -1  # of a purchase that stands in the dataset that is extended, and no longer in the reviews file


def build_tables(
    reviews: ReviewSource,
    *,
    domain: str | None = None,
    protocol: str | None = None,
    min_core: int | None = None,
    seed: int | None = None,
    num_negatives: int | None = None,
    rationales: str | Path | None = None,
    teacher: str = "unknown",
    prompt: str = "unknown",
    item_text: str | Path | None = None,
    items: str | Path | None = None,
    item_columns: Mapping[str, str] | None = None,
    columns: Mapping[str, str] | None = None,
    min_rating: float | None = None,
    keep_repeats: bool = False,
    extend: str | Path | None = None,
    source: dict[str, Any] | None = None,
    processes: int = 1,
    progress: bool = True,
) -> Tables:
    """Build a dataset from reviews.

    Parameters
    ----------
    reviews : path or callable
        A file or folder of reviews (see `rows.py`), or a callable that returns a fresh iterator of rows (dicts).
    domain : str
        Name of the dataset, for its card; may be left out where another dataset is extended.
    protocol : {"clean", "published"}, default "clean"
        `clean` draws ids at random and keeps texts of held-out interactions out of training; `published` does what the
        paper measured: ids by first appearance, texts split 8:1:1 whatever they belong to.
    min_core : int, default 5
        Interactions that each user and each item must have.
    seed : int, default 0
        Of ids, text split and candidates.
    num_negatives : int, default 99
        Negatives a user in each candidates split.
    rationales : path, optional
        Distilled rationales (see `rationales.py`), joined on what makes the review: user, item and text; in files
        without these, on the row of the reviews file, which is then noted.
    teacher, prompt : str
        Provenance of rationales that do not name their own.
    item_text : path, optional
        `ASIN a few words` lines for the catalog.
    items : path, optional
        A file of items with titles and metadata for the catalog's texts (see `item_texts.py`), in place of `item_text`.
    columns, item_columns : mapping of str to str, optional
        By role, which column of the reviews and of `items` it is; what is not named is guessed.
    min_rating : float, optional
        Reviews with a lower rating, or with none, are left out.
    keep_repeats : bool
        Keep all purchases of an item by a user, not only the first.
    extend : path, optional
        An earlier build, folder or dataset repo. Its users and items keep their ids and stay, however few interactions
        they have; new ones follow. Its protocol, seed, min_core, num_negatives, min_rating and keep_repeats stay. What
        it holds and the reviews no longer do (purchases, their texts, texts of the catalog) is kept as it was; ties in
        time keep its order.
    source : dict, optional
        What to record as the origin; names and hashes of the files read when not given. Who gives it knows its rows:
        `build_info.json` then has no notes on how they were understood.
    processes : int
        Processes that look through the texts; the tables are the same for any number. Above 1, a script that calls this
        must guard its own start (`if __name__ == "__main__":`), as each process imports it.
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
    if items is not None and item_text is not None:
        raise DatasetError("--items and --item_text are both given; give one of them")
    known = read_known(extend) if extend is not None else Known()
    domain = domain or known.info.get("domain")
    if domain is None:
        raise DatasetError("--domain: missing; give the dataset a name")
    chosen = {
        "protocol": protocol,
        "seed": seed,
        "num_negatives": num_negatives,
        "min_core": min_core,
        "min_rating": min_rating,
        "keep_repeats": keep_repeats or None,
    }
    settings = Settings(domain, **settle(chosen, known, extend))
    read = partial(read_reviews, reviews, columns=columns, min_rating=settings.min_rating)
    skipped: Counter[str] = Counter()
    texts_of_items = known.item_texts | (read_item_text(item_text) if item_text is not None else {})
    given = (
        read_rationales(rationales, teacher=teacher, prompt=prompt, skipped=skipped) if rationales is not None else {}
    )
    notes: dict[str, str] | None = {} if source is None else None
    if source is None:
        source = _source(reviews, rationales=rationales, item_text=item_text, items=items)

    with TextFile() as written, workers(processes) as run:
        bought, identities = _read_purchases(read, written, given, skipped, progress, known)
        if notes is not None:
            notes["columns"] = told(bought.columns)
            notes["time"] = bought.time_note()
            if settings.min_rating is not None:
                notes["min_rating"] = f"{settings.min_rating:g}"
        n_rows = len(bought.rows) + sum(skipped[reason] for reason in ROW_SKIPS)
        by_row = [identity for identity in given if isinstance(identity, int)]
        if by_row:
            _check_rows(rationales, by_row, n_rows, len(bought.rows) + sum(skipped[reason] for reason in RATING_SKIPS))
        if by_row and notes is not None:
            notes["rationales"] = (
                f"{len(by_row):,} of {len(given):,} joined by review_row alone, which is right only for the very file "
                "of reviews they were written for"
            )
        every = _with_known(bought, known, settings.keep_repeats)
        if notes is not None:
            notes |= _kept_notes(every, known, has_rationales=rationales is not None)
        known_ids = (len(known.raw_users), len(known.raw_items))
        kept = filter_interactions(
            every.users, every.items, every.timestamps, settings.min_core, skipped, settings.keep_repeats, known_ids
        )
        kept, interactions, raw_users, raw_items = _give_ids(every, kept, known_ids, settings)

        if settings.keep_repeats and notes is not None:
            notes["repeats"] = _repeats_note(interactions)
        if items is not None:
            found = read_items(items, raw_items, item_columns, bought.columns["item"])
            texts_of_items |= found.texts
            if notes is not None:
                notes["items"] = (
                    f"{len(found.texts):,} of {len(raw_items):,} items got a text; ignored: {found.ignored:,} rows of "
                    f"items that nobody bought, {found.bad:,} without an id"
                )

        rows = every.rows[kept]
        carried = known.texts_at(interactions, rows == NO_ROW)
        of_reviews = _Reviews(written, _positions(bought.rows, rows), bought.rows, identities, run, progress)
        del bought, every, kept
        is_training = leave_one_out(interactions.lengths) == TRAIN
        features = of_reviews.count_features(is_training).select()
        texts = of_reviews.choose_explanations(features, given, skipped, carried)
    texts = replace(texts, trained=known.trained_at(interactions)[texts.positions])

    names = Names(raw_users, raw_items, [texts_of_items.get(raw) for raw in raw_items])
    return assemble(
        interactions, names, texts, settings, source=source, skipped=skipped, notes=notes, extends=known.record()
    )


class _Purchases(NamedTuple):
    """Who bought what when, in the order of the reviews file.

    `users`, `items` (codes from 0: the known ones, then by first appearance), `timestamps` (Unix seconds) and `rows`
    (of the file, from 0) are int64 [n]; `raw_users` and `raw_items` are the raw ids by code; `times` says what each
    time column is in, and `columns` which columns were read.
    """

    users: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray
    rows: np.ndarray
    raw_users: list[str]
    raw_items: list[str]
    times: dict[str, str]
    columns: Chosen

    def time_note(self) -> str:
        """What the times were taken for, and the days they span: a wrong guess shows there."""
        read = ", ".join(f"{column} in {unit}" for column, unit in self.times.items()) or "in seconds"
        span = np.array([self.timestamps.min(), self.timestamps.max()], dtype="datetime64[s]")
        first, last = np.datetime_as_string(span, unit="D").tolist()
        return f"{read}, from {first} to {last}"


def _read_purchases(
    read: Callable[..., Iterator[Review]],
    texts: TextFile,
    given: Mapping[Identity, Any],
    skipped: Counter[str],
    progress: bool,
    known: Known,
) -> tuple[_Purchases, dict[int, Identity]]:
    """Read the reviews: who bought what when, and by row, which of the rationales that are `given` is the review's."""
    user_codes = {raw: code for code, raw in enumerate(known.raw_users)}
    item_codes = {raw: code for code, raw in enumerate(known.raw_items)}
    users, items, timestamps, rows = array("q"), array("q"), array("q"), array("q")
    identities: dict[int, Identity] = {}
    times: dict[str, str] = {}
    columns: Chosen = {}
    found = read(skipped=skipped, times=times, chosen=columns)
    for review in tqdm(found, desc="reading interactions", unit=" rows", disable=not progress):
        users.append(user_codes.setdefault(review.user, len(user_codes)))
        items.append(item_codes.setdefault(review.item, len(item_codes)))
        timestamps.append(review.timestamp)
        rows.append(review.row)
        texts.add(review.text)
        if given and (identity := identity_in(given, review)) is not None:
            identities[review.row] = identity
    texts.close()
    user_column, raw_users = _one_code_an_id(users, user_codes, len(known.raw_users))
    item_column, raw_items = _one_code_an_id(items, item_codes, len(known.raw_items))
    when, rows = np.asarray(timestamps), np.asarray(rows)
    bought = _Purchases(user_column, item_column, when, rows, raw_users, raw_items, times, columns)
    return bought, identities


def _one_code_an_id(column: array, codes: dict[str, int], known: int) -> tuple[np.ndarray, list[str]]:
    """Codes as an array, where a number written in two ways has one code (a known one where there is one), and the raw
    ids by code."""
    names = list(codes)
    of_code = np.arange(len(names))
    same = respelled(names)
    standing = {whole: name for name, whole in same.items() if codes[name] < known}
    for name, whole in same.items():
        of_code[[codes[name], codes[whole]]] = codes[standing.get(whole, whole)]
    return of_code[np.asarray(column)], names


def _with_known(bought: _Purchases, known: Known, keep_repeats: bool) -> _Purchases:
    """The purchases of the extended dataset in their order, as the file has them or, where it lacks them, as they were;
    then those that are new, in the order of the file. Where repeats are kept, another second is another purchase."""
    width = len(bought.raw_items)
    pairs, known_pairs = bought.users * width + bought.items, known.users * width + known.items
    if keep_repeats:
        numbers = np.stack(
            [np.concatenate([pairs, known_pairs]), np.concatenate([bought.timestamps, known.timestamps])]
        )
        same = np.unique(numbers, axis=1, return_inverse=True)[1].reshape(-1)
        pairs, known_pairs = same[: len(pairs)], same[len(pairs) :]
    in_order = np.argsort(known_pairs, kind="stable")
    found = np.searchsorted(known_pairs, pairs, sorter=in_order)
    is_known = np.isin(pairs, known_pairs)
    place = len(known_pairs) + np.arange(len(pairs))
    place[is_known] = in_order[found[is_known]]
    lost = np.flatnonzero(~np.isin(known_pairs, pairs))
    order = np.argsort(np.concatenate([place, lost]), kind="stable")
    return bought._replace(
        users=np.concatenate([bought.users, known.users[lost]])[order],
        items=np.concatenate([bought.items, known.items[lost]])[order],
        timestamps=np.concatenate([bought.timestamps, known.timestamps[lost]])[order],
        rows=np.concatenate([bought.rows, np.full(len(lost), NO_ROW)])[order],
    )


def _kept_notes(bought: _Purchases, known: Known, has_rationales: bool) -> dict[str, str]:
    """What the new input lacks of the extended dataset, by topic."""
    notes = {}
    if lost := int((bought.rows == NO_ROW).sum()):
        notes["kept"] = f"{lost:,} interactions that the reviews no longer hold stay as they were"
    before = sum(known.info["counts"]["with_rationale"].values()) if known.info else 0
    if before and not has_rationales:
        notes["rationales"] = f"none given, where the extended dataset has {before:,}: give --rationales to have them"
    return notes


def _give_ids(
    bought: _Purchases, kept: np.ndarray, known_ids: tuple[int, int], settings: Settings
) -> tuple[np.ndarray, Interactions, list[str], list[str]]:
    """Number users and items, and put the kept purchases in the order of the users' ids.

    `kept`, places in `bought`, runs user by user, oldest first, so first appearance in it is the published numbering.
    Returned are `kept` in its new order, the interactions, and the raw ids of users and items by id.
    """
    user_numbers, user_values = first_appearance(bought.users[kept])
    item_numbers, item_values = first_appearance(bought.items[kept])
    drawing = settings.protocol, settings.seed
    user_ids = continued_ids(user_values, known_ids[0], *drawing, USER_ID_STREAM)
    item_ids = continued_ids(item_values, known_ids[1], *drawing, ITEM_ID_STREAM)
    order = np.argsort(user_ids[user_numbers], kind="stable")
    kept = kept[order]
    lengths = np.bincount(user_ids[user_numbers] - 1)
    interactions = Interactions(item_ids[item_numbers[order]], lengths, bought.timestamps[kept])
    raw_users = _by_id(bought.raw_users, known_ids[0], user_values, user_ids)
    raw_items = _by_id(bought.raw_items, known_ids[1], item_values, item_ids)
    return kept, interactions, raw_users, raw_items


def _repeats_note(interactions: Interactions) -> str:
    """How many purchases are of an item that the user had, and how often such a one is held out for testing."""
    users = np.repeat(np.arange(len(interactions.lengths)), interactions.lengths)
    _, first = np.unique(np.stack([users, interactions.items]), axis=1, return_index=True)
    again = np.ones(len(users), dtype=bool)
    again[first] = False
    tested = int(again[np.cumsum(interactions.lengths) - 1].sum())
    return (
        f"{int(again.sum()):,} purchases of an item that the user had were kept; {tested:,} of them are test items, "
        "which rankings that leave out a user's history count as misses"
    )


def _check_rows(rationales: str | Path, by_row: list[int], n_rows: int, n_reviews: int) -> None:
    """Raise a DatasetError where rationales that name no more than a row are seen to be for another reviews file."""
    if max(by_row) >= n_rows:
        raise DatasetError(
            f"{rationales}: review_row {max(by_row)} is not among the {n_rows} rows of the reviews; "
            "give the reviews file that the rationales were written for"
        )
    distilled = reviews_distilled(rationales)
    if distilled not in (None, n_reviews):
        raise DatasetError(
            f"{rationales}: distilled from a file of {distilled} reviews, this one has {n_reviews}; run the distill.py "
            "command of then once more (it asks nothing twice), and its rows will name their reviews"
        )


def _positions(read: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """By review as it was read, its position among the kept interactions, -1 where it was dropped.

    Both are rows of the file: those `read`, ascending, and those `kept`, in which NO_ROW is none.
    """
    positions = np.full(len(read), -1)
    of_file = np.flatnonzero(kept != NO_ROW)
    positions[np.searchsorted(read, kept[of_file])] = of_file
    return positions


class _Reviews(NamedTuple):
    """The reviews as they were read, and how their texts are looked through.

    `positions` and `rows` (int64 [n]) are, by review, its place among the kept interactions (-1: dropped) and its row
    of the file; `identities` has, by row, the rationale that is its own; `run` maps a function over processes.
    """

    texts: TextFile
    positions: np.ndarray
    rows: np.ndarray
    identities: dict[int, Identity]
    run: Callable[..., Iterator[Any]]
    progress: bool

    def count_features(self, is_training: np.ndarray) -> FeatureVocabulary:
        """Count the words of the training reviews, `is_training` by position; those of held-out ones do not count."""
        vocabulary = FeatureVocabulary()
        wanted = (self.positions >= 0) & is_training[self.positions]
        for _, counted in self._each_batch("counting features", count_words, wanted):
            vocabulary.merge(counted)
        return vocabulary

    def choose_explanations(
        self,
        features: dict[str, float],
        given: Mapping[Identity, dict[str, Any]],
        skipped: Counter[str],
        carried: dict[int, dict[str, Any]],
    ) -> Texts:
        """An explanation of each kept review that has one, with its rationale; those `carried`, by position, stay."""
        tables, positions = [text_table(list(carried.values()))], [np.array(list(carried), dtype=np.int64)]
        used: set[Identity] = set()
        choose = partial(explain, features=features)
        for start, (places, table, counts) in self._each_batch("choosing explanations", choose, self.positions >= 0):
            skipped.update(counts)
            reviews = start + places
            if self.identities:
                rows = table.to_pylist()
                for row, number in zip(rows, self.rows[reviews].tolist()):
                    if (identity := self.identities.get(number)) is not None:
                        row |= given[identity]
                        used.add(identity)
                table = text_table(rows)
            tables.append(table)
            positions.append(self.positions[reviews])
        # A rationale that names its row alone, where that row is no review, was of a dropped one, too.
        met = {*self.identities.values(), *(identity for identity in given if isinstance(identity, int))}
        skipped["rationale_of_dropped_review"] += len(met) - len(used)
        skipped["rationale_of_no_review"] += len(given) - len(met)
        order = np.argsort(np.concatenate(positions), kind="stable")
        return Texts(pa.concat_tables(tables).take(order), np.concatenate(positions)[order])

    def _each_batch(self, what: str, function: Callable[[Part], Any], wanted: np.ndarray) -> Iterator[tuple[int, Any]]:
        """Yield, of each batch, the number of its first review and what `function` makes of its wanted texts."""
        starts, parts = zip(*self.texts.parts(wanted))
        with tqdm(desc=what, unit=" rows", total=int(wanted.sum()), disable=not self.progress) as bar:
            for start, part, found in zip(starts, parts, self.run(function, parts)):
                yield start, found
                bar.update(len(part.places))


def _by_id(names: list[str], known: int, values: np.ndarray, ids: np.ndarray) -> list[str]:
    """Raw ids in the order of the integer ids: those known before, then the codes values[i] by their ids[i]."""
    return names[:known] + [names[code] for code in values[np.argsort(ids)].tolist() if code >= known]


def _source(reviews: ReviewSource, **others: str | Path | None) -> dict[str, Any]:
    source: dict[str, Any] = {"kind": "reviews"}
    if not callable(reviews):
        source |= describe(reviews)
    return source | {name: describe(path) for name, path in others.items() if path is not None}
