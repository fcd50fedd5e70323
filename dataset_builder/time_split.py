"""The same purchases split at one moment for all: what came before trains, each user's first one after it tests.

    tables = split_by_time(load_tables("data/mine"))     # python -m dataset_builder time_split data/mine --output DIR

Leave-one-out holds out every user's last two items, whenever they were bought: of two users one trains on purchases
that were made after the other's test item, so trends of the future help. Here nothing after the moment trains or
validates. What comes out is a dataset like any other, in which only some users are tested: they come first, and only
they have candidates. Their last item is the first one that they bought after the moment, the one before it validates.
Of all others everything before the moment trains.
"""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from rdrec.errors import DatasetError

from .assemble import TEXT_SCHEMA, Interactions, Names, Settings, Texts, assemble
from .tables import Tables


KIND = "time split"  # of the source, in the record of the build
SHARE = 0.2  # of the purchases, that lie after the moment where none is given
DAY = 86_400
FEWEST_BEFORE = 2  # one to read and one to validate


def is_time_split(info: dict[str, Any]) -> bool:
    """Whether a build's record is of a split by time, which is for measuring alone."""
    return info["source"].get("kind") == KIND


def split_by_time(tables: Tables, test_from: str | None = None) -> Tables:
    """Split a built dataset at a moment.

    Parameters
    ----------
    tables : Tables
        Of purchases with times.
    test_from : str, optional
        Day (UTC, as in 2014-03-01) from whose beginning on purchases test. Default: the one from which on a fifth of
        the purchases lie, or as few more as fall on that day.

    Returns
    -------
    Tables
        Items keep their ids; users have new ones. A user's purchases after the test item are left out, and so are users
        who bought nothing before the moment.

    Raises
    ------
    DatasetError
        Purchases without times, a dataset whose texts cannot be told which purchase they are of, no such day, or one
        that leaves nobody to test.
    """
    info = tables.info
    if tables.interactions["timestamps"].null_count:
        raise DatasetError("its purchases have no times: build it from reviews that do")
    if info.get("keep_repeats") or info["protocol"] != "clean" or is_time_split(info):
        raise DatasetError("give a dataset that was built under clean, without --keep_repeats, and not split before")
    items, times, owner = _flat(tables)
    moment = _moment(times, test_from)
    before = np.bincount(owner, times < moment).astype(np.int64)
    bought = np.bincount(owner)
    tested = (bought > before) & (before >= FEWEST_BEFORE)
    if not tested.any():
        raise DatasetError(
            f"nobody has {FEWEST_BEFORE} purchases before {_day(moment)} and one after it: give another --test_from"
        )
    of_tested = np.flatnonzero(tested)
    users, keep = np.concatenate([of_tested, np.flatnonzero(~tested & (before > 0))]), before + tested
    starts = np.cumsum(bought) - bought
    places, all_places = _places(starts[users], keep[users]), _places(starts[of_tested], bought[of_tested])
    interactions = Interactions(items[places], keep[users], times[places], len(of_tested))
    raw_ids, texts = (tables.catalog[name].to_pylist() for name in ("raw_id", "text"))
    names = Names([raw_ids[user] for user in users], raw_ids[len(bought) :], texts[len(bought) :])
    return assemble(
        interactions,
        names,
        _texts(tables, interactions, users),
        Settings(f"{info['domain']}-by-time", info["protocol"], info["seed"], info["num_negatives"]),
        source={"kind": KIND, "of": info["fingerprint"], "test_from": _day(moment)},
        skipped=Counter(
            users_without_a_purchase_before=len(bought) - len(users),
            purchases_left_out=int((bought - keep)[users].sum()),
        ),
        # What they buy later is no wrong candidate either.
        owned=Interactions(items[all_places], bought[of_tested]),
        notes={"time_split": f"{len(of_tested):,} of {len(users):,} users are tested, from {_day(moment)} on"},
    )


def _flat(tables: Tables) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All purchases end to end: items, times and users counted from 0, three int64 arrays [n]."""
    columns = [tables.interactions[name].combine_chunks() for name in ("items", "timestamps")]
    items, times = (column.flatten().to_numpy() for column in columns)
    lengths = np.diff(columns[0].offsets.to_numpy())
    return items, times, np.repeat(np.arange(len(lengths)), lengths)


def _places(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Places of so many purchases from each start on, end to end: int64 [counts.sum()]."""
    ends = np.cumsum(counts)
    return np.repeat(starts - ends + counts, counts) + np.arange(counts.sum())


def _moment(times: np.ndarray, test_from: str | None) -> int:
    """Unix seconds of the beginning of a day."""
    if test_from is None:
        last = int(np.sort(times)[int((1 - SHARE) * len(times))])
        return last - last % DAY
    try:
        return int(datetime.strptime(test_from, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError as error:
        raise DatasetError(f"--test_from {test_from}: no day; give one as in 2014-03-01") from error


def _day(moment: int) -> str:
    return str(np.datetime64(moment, "s").astype("datetime64[D]"))


def _texts(tables: Tables, interactions: Interactions, users: np.ndarray) -> Texts:
    """The texts of the purchases that are left, in their order."""
    owner = np.repeat(users + 1, interactions.lengths)
    place_of = {pair: place for place, pair in enumerate(zip(owner.tolist(), interactions.items.tolist()))}
    table = pa.concat_tables(tables.rationales.values())
    pairs = zip(table["user"].to_pylist(), table["item"].to_pylist())
    found = np.array([place_of.get(pair, -1) for pair in pairs], dtype=np.int64)
    rows = np.argsort(found, kind="stable")[(found < 0).sum() :]
    return Texts(table.select(TEXT_SCHEMA.names).take(pa.array(rows)).combine_chunks(), found[rows])
