"""Reader of raw reviews: any file or folder that `rows.py` reads, in the columns that `columns.py` finds, streaming.

    skipped = Counter()
    for review in read_reviews("reviews_Beauty_5.json.gz", skipped=skipped): ...
    for review in read_reviews("shop.csv", columns={"user": "customer", "item": "sku"}, skipped=skipped): ...

A review has a user, an item and a time; text, rating and title may be missing. Times may be seconds, milliseconds or
dates: the values tell, never the column's name, and a column that mixes them is an error. What is an id, a text and a
time is said in `fields.py`.

A bad row is skipped and counted by reason; a bad file (no such column, no good row, damaged archive) is a
DatasetError, and so is an id that cannot be read, since it would be another's.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rdrec.errors import DatasetError

from .columns import REVIEW_COLUMNS, Chosen
from .fields import DATES, NUMBER_DATES, id_of, number_date, number_of, text_of, time_of
from .files import data_files
from .rows import Row, Table, open_table, table_of


RATING_SKIPS = ("below_min_rating", "without_rating")
ROW_SKIPS = ("blank_row", "malformed_row", "missing_user", "missing_item", "bad_time", *RATING_SKIPS)


class Review(NamedTuple):
    """One review. `row` counts the data rows of its file from 0, bad ones included; `timestamp` is in seconds.

    In a folder, rows are counted on from file to file.
    """

    row: int
    user: str
    item: str
    timestamp: int
    text: str
    rating: float | None
    summary: str


_TIMES = (
    "times may be seconds, milliseconds or dates like 2014-02-28T10:00:00 or 20140228 (the values tell which); another "
    "column is named with --columns time=NAME"
)

ReviewSource = str | Path | Callable[[], Iterator[Mapping[str, Any]]]


def read_reviews(
    source: ReviewSource,
    *,
    skipped: Counter[str],
    times: dict[str, str] | None = None,
    columns: Mapping[str, str] | None = None,
    chosen: Chosen | None = None,
    needs: tuple[str, ...] = (),
    min_rating: float | None = None,
) -> Iterator[Review]:
    """Stream the reviews of a file or folder, or of a callable that returns a fresh iterator of such rows (dicts).

    Parameters
    ----------
    source : path or callable
    skipped : Counter
        Gets, by reason (`ROW_SKIPS`), the rows left out, and under `undecodable_text` the rows kept although some
        letters of their text could not be read.
    times : dict, optional
        Gets, by column, what its times are in: "seconds", "milliseconds", …, "dates" or "dates (YYYYMMDD)".
    columns : mapping of str to str, optional
        By role (user, item, time, text, rating, title), a column's name or number; the others are guessed.
    chosen : dict, optional
        Gets, by role, the columns that are read, from the first review on.
    needs : tuple of str
        Roles that must be there besides user, item and time.
    min_rating : float, optional
        Reviews with a lower rating, or with none, are skipped.

    Yields
    ------
    Review

    Raises
    ------
    DatasetError
        No such file, a damaged archive, a required column missing or one of several, times of several units in one
        column, an id that cannot be read, or not one good row.
    """
    reading = _Reading(source, dict(columns or {}), needs, min_rating, skipped, {} if chosen is None else chosen)
    yield from reading.reviews()
    if times is not None:
        times.update({column: unit for column, (unit, _, _) in reading.clock.first.items()})


class _Reading:
    """One pass over a source."""

    def __init__(
        self,
        source: ReviewSource,
        given: dict[str, str],
        needs: tuple[str, ...],
        min_rating: float | None,
        skipped: Counter[str],
        chosen: Chosen,
    ):
        self.source = source
        self.given = given
        self.needs = needs if min_rating is None else (*needs, "rating")
        self.min_rating = min_rating
        self.skipped = skipped
        self.is_folder = not callable(source) and Path(source).is_dir()
        self.clock = _Times(self._values, self._place)
        self.chosen = chosen
        self.count = 0
        self.bad: Counter[str] = Counter()
        self.first_bad: dict[str, str] = {}  # by reason, where

    def reviews(self) -> Iterator[Review]:
        where, mend, good = "", "", 0
        for name in self._files():
            with self._open(name) as table:
                where, mend = str(name), table.mend
                for review in self._of_table(table, where):
                    good += 1
                    yield review
        where = where if callable(self.source) else str(self.source)
        if not self.count:
            raise DatasetError(f"{where}: no rows; give a file of reviews")
        if not good:
            reason, bad = self.bad.most_common(1)[0]
            raise DatasetError(
                f"{where}: not one good row of {self.count} ({bad} {reason}); {self._mend(reason, mend)}; "
                f"the first is {self.first_bad[reason]}"
            )

    def _files(self) -> Sequence[str | Path]:
        return ["the given rows"] if callable(self.source) else data_files(self.source)

    @contextmanager
    def _open(self, name: str | Path) -> Iterator[Table]:
        if callable(self.source):
            yield table_of(self.source())
            return
        with open_table(name, REVIEW_COLUMNS, self.given) as table:
            yield table

    def _choose(self, columns: list[str], where: str) -> Chosen:
        """Choose the columns of a file; the files of a folder must agree, or one customer could become two."""
        try:
            chosen = REVIEW_COLUMNS.choose(columns, self.given, where, self.needs)
        except DatasetError as error:
            if not self.is_folder:
                raise
            raise DatasetError(f"{error}; if it is no reviews file, take it out of {self.source}") from error
        for role in REVIEW_COLUMNS.required:
            before = self.chosen.setdefault(role, chosen[role])
            if not set(before) <= set(chosen[role]):
                raise DatasetError(
                    f"{where}: its {role} is column {chosen[role][0]!r}, in the files before {before[0]!r}; say which "
                    f"it is with --columns {role}=NAME, or build from one of them"
                )
        self.chosen.update(chosen)
        return chosen

    def _of_table(self, table: Table, where: str) -> Iterator[Review]:
        clock, known = self.clock, dict.fromkeys(table.columns)
        chosen = self._choose(table.columns, where) if known else {}
        needed = dict.fromkeys(name for names in chosen.values() for name in names)
        header: tuple[str, ...] | None = None
        columns: dict[str, list[str]] = {}
        user_name = text_name = title_name = rating_name = None
        start = self.count
        for number, row in enumerate(table.rows(needed)):
            self.count += 1
            if isinstance(row, str):
                self._skip(row, number, where)
                continue
            if tuple(row) != header:  # looked up anew only where the names change: it is a fifth of the reading
                header = tuple(row)
                new = [name for name in header if name not in known]  # a JSON object may have what others lack
                if new or not chosen:
                    known.update(dict.fromkeys(new))
                    chosen = self._choose(list(known), where)
                columns = {role: [name for name in names if name in row] for role, names in chosen.items()}
                user_name, text_name, title_name, rating_name = (
                    next(iter(columns.get(role, ())), None) for role in ("user", "text", "title", "rating")
                )
            user = _id(where, number, row, user_name)
            item = ""
            for name in columns["item"]:
                if item := _id(where, number, row, name):
                    break
            if not user or not item:
                self._skip("missing_user" if not user else "missing_item", number, where)
                continue
            timestamp = clock.seconds(where, number, row, columns["time"])
            if timestamp is None:
                self._skip("bad_time", number, where)
                continue
            rating = number_of(row.get(rating_name))
            if self.min_rating is not None and (rating is None or rating < self.min_rating):
                self._skip("without_rating" if rating is None else "below_min_rating", number, where)
                continue
            text, text_is_damaged = text_of(row.get(text_name))
            title, title_is_damaged = text_of(row.get(title_name))
            if text_is_damaged or title_is_damaged:
                self.skipped["undecodable_text"] += 1
            yield Review(start + number, user, item, timestamp, text, rating, title)

    def _place(self, number: int, where: str) -> str:
        return f"row {number} of {where}" if self.is_folder else f"row {number}"

    def _skip(self, reason: str, number: int, where: str) -> None:
        self.skipped[reason] += 1
        self.bad[reason] += 1
        self.first_bad.setdefault(reason, self._place(number, where))

    def _mend(self, reason: str, of_format: str) -> str:
        if reason == "bad_time":
            return _TIMES
        if reason in ("missing_user", "missing_item"):
            role = reason.removeprefix("missing_")
            columns = " and ".join(map(repr, self.chosen[role]))
            return f"column {columns} holds no id there; name the right one with --columns {role}=NAME"
        if reason in RATING_SKIPS:
            return "give a lower --min_rating, or none"
        return of_format

    def _values(self, column: str) -> Iterator[tuple[str, Any]]:
        """All values of a column, with their places: a reading of its own."""
        for name in self._files():
            with self._open(name) as table:
                for number, row in enumerate(table.rows([column])):
                    if not isinstance(row, str):
                        yield self._place(number, str(name)), row.get(column)


class _Times:
    """Reads times, and sees to it that all times of a column are in one unit."""

    def __init__(self, values: Callable[[str], Iterator[tuple[str, Any]]], place: Callable[[int, str], str]):
        self.values = values
        self.place = place
        self.first: dict[str, tuple[str, str, Any]] = {}  # by column: what it is in, and the row and value that told
        self.number_dates: dict[str, bool] = {}  # by column, whether its numbers are dates, where they may be

    def seconds(self, where: str, number: int, row: Row, columns: Sequence[str]) -> int | None:
        """Unix seconds of a row's time, None where there is none. Further columns stand in for one of no use."""
        for name in columns:
            value = row.get(name)
            found = None if value is None else time_of(value)
            if found is None:
                continue
            unit, seconds = found
            if unit is None:
                return seconds
            if not 3e8 < seconds < 1.9e10 and self._is_number_date(where, name, value):
                unit, seconds = NUMBER_DATES, number_date(value)
            first = self.first.get(name)
            if first is None:
                self.first[name] = (unit, self.place(number, where), value)
            elif first[0] != unit:
                known, known_place, known_value = first
                raise _mixed(where, name, (known_value, known_place, known), (value, self.place(number, where), unit))
            return seconds
        return None

    def _is_number_date(self, where: str, column: str, value: Any) -> bool:
        """Whether a number is a date like 20140228. Such seconds are a day of 1970: the whole column decides."""
        if number_date(value) is None:
            return False
        if column not in self.number_dates:
            dates = others = 0
            one: dict[bool, tuple[Any, str, str]] = {}
            for place, found in self.values(column):
                unit, _ = (None if found is None else time_of(found)) or (None, 0)
                if unit is not None:
                    is_date = number_date(found) is not None
                    dates, others = dates + is_date, others + (not is_date)
                    one.setdefault(is_date, (found, place, NUMBER_DATES if is_date else unit))
            if others and dates > others:
                raise _mixed(where, column, one[True], one[False])
            self.number_dates[column] = not others
        return self.number_dates[column]


def _mixed(where: str, column: str, one: tuple[Any, str, str], other: tuple[Any, str, str]) -> DatasetError:
    (value, place, unit), (other_value, other_place, other_unit) = one, other
    return DatasetError(
        f"{where}: times of column {column!r} are mixed: {value!r} in {place} is {_told(unit)}, {other_value!r} in "
        f"{other_place} is {_told(other_unit)}; write all of them in one unit"
    )


def _told(unit: str) -> str:
    return {DATES: "a date", NUMBER_DATES: "a date (YYYYMMDD)"}.get(unit, f"in {unit}")


def _id(where: str, number: int, row: Mapping[str, Any], column: str | None) -> str:
    try:
        return id_of(row.get(column))
    except DatasetError as error:
        raise DatasetError(f"{where}: row {number}, column {column!r}: {error}") from error
