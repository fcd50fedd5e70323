"""From the value of a field to an id, a text or a time, whatever wrote the file.

id_of(12.0)                  # "12", as of 12 and "12"
text_of(float("nan"))        # ""
time_of(1393545600123)       # ("milliseconds", 1393545600)
"""

import math
import re
from datetime import UTC, datetime
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

import numpy as np

from rdrec.errors import DatasetError


REPLACED = "\ufffd"  # what a byte that is not UTF-8 was decoded to
# What other tools write for "there is none".
NO_ID = frozenset({"", "nan", "NaN", "null", "NULL", "None", "<NA>"})
EXACT = 2**53  # from here on a float does not hold every whole number, so two ids may have become one

# Numbers up to each bound are times in that unit. As seconds, 1e11 is the year 5138; as milliseconds, 1973. So a time
# of our days is read in one way only.
UNITS = (
    ("seconds", 1e11, 1),
    ("milliseconds", 1e14, 10**3),
    ("microseconds", 1e17, 10**6),
    ("nanoseconds", 1e20, 10**9),
)
DATES = "dates"
NUMBER_DATES = "dates (YYYYMMDD)"

# By number of digits; two digits of hours, minutes and seconds may follow the day.
_NUMBER_DATES = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_YEARS = range(1950, 2100)

_GOODREADS_DATE = "%a %b %d %H:%M:%S %z %Y"  # "Sun Jul 30 07:44:10 -0700 2017"
_AMAZON_DATE = re.compile(r"(\d{1,2}) (\d{1,2}), (\d{4})")  # "02 28, 2014"
_WHOLE_DECIMAL = re.compile(r"(-?\d+)\.0+", re.ASCII)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def id_of(value: Any) -> str:
    """The id that a value stands for: text as it is written, without the blanks around it; "" where there is none.

    A whole number is the same id as int, as float and as text. Values that are neither text nor number are no ids.

    Raises
    ------
    DatasetError
        Text with letters that could not be read, or a float too large to be exact; the message lacks the place.
    """
    if isinstance(value, str):
        value = value.strip()
        if not value.isascii() and (REPLACED in value or _LONE_SURROGATE.search(value)):
            shown = _LONE_SURROGATE.sub(REPLACED, value)
            raise DatasetError(f"{shown!r} holds letters that cannot be read; save the file as UTF-8")
        return "" if value in NO_ID else value
    if value is None or isinstance(value, bool | np.bool_):
        return ""
    if isinstance(value, Integral):
        try:
            return str(int(value))
        except ValueError:  # Python writes no number of more than 4,300 digits
            raise DatasetError("an id is a number of more than 4,300 digits; write ids as text") from None
    if isinstance(value, Decimal) and value.is_finite():  # a database's number, exact at any length
        return whole_number(f"{value:f}")
    if not isinstance(value, Real) or not math.isfinite(value):
        return ""
    if abs(value) >= EXACT:
        raise DatasetError(f"{value!r} is a decimal number too long to be exact; write ids as text")
    return str(int(value)) if value == int(value) else str(value)


def whole_number(name: str) -> str:
    """An id without the zeros behind its point: "12" for "12.0"; any other id as it is."""
    found = _WHOLE_DECIMAL.fullmatch(name)
    return found.group(1) if found else name


def respelled(ids: list[str]) -> dict[str, str]:
    """Ids that are another's number in other digits: "12.0" where "12" is there too, as when two exports were joined.

    Alone, "12.0" stays as it is written.
    """
    known = set(ids)
    return {name: whole for name in ids if (whole := whole_number(name)) != name and whole in known}


def text_of(value: Any) -> tuple[str, bool]:
    """A text without the blanks around it, and whether letters in it could not be read (U+FFFD stands for each)."""
    if not isinstance(value, str):
        try:
            return "" if value is None or value != value else str(value), False
        except (ValueError, RecursionError):  # a number of more than 4,300 digits; lists within lists within lists
            return "", False
    value = value.strip()
    if value.isascii():
        return value, False
    value = _LONE_SURROGATE.sub(REPLACED, value)
    return value, REPLACED in value


def number_of(value: Any) -> float | None:
    """A finite number, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def time_of(value: Any) -> tuple[str | None, int] | None:
    """What a time is written in (a unit of `UNITS` or `DATES`) and its Unix seconds; None where it is no time.

    -1, 0 and 1 are the same second in every unit, and stand in files for "unknown": they are of no unit (None).
    Dates are ISO 8601 (also with "/" for "-" and " UTC" behind), or as in the files of Amazon ("02 28, 2014") and
    Goodreads ("Sun Jul 30 07:44:10 -0700 2017"); one without a time zone is UTC. A date written as one number
    (20140228) is a number here: only the whole column tells, see `number_date`.
    """
    number = None if isinstance(value, np.datetime64) else number_of(value)  # float() takes it for a bare number
    if number is None:
        seconds = _date(text_of(value)[0])
        return None if seconds is None else (DATES, seconds)
    if abs(number) <= 1:
        return None, int(number)
    for unit, bound, size in UNITS:
        if abs(number) < bound:
            return unit, int(number if size == 1 else number // size)
    return None


def number_date(value: Any) -> int | None:
    """Unix seconds of a date written as one number, 20140228 or with hours, minutes, seconds; None where it is none."""
    number = number_of(value)
    if number is None or number != int(number):
        return None
    digits = str(int(number))
    form = _NUMBER_DATES.get(len(digits))
    if form is None or int(digits[:4]) not in _YEARS:
        return None
    try:
        return int(datetime.strptime(digits, form).replace(tzinfo=UTC).timestamp())
    except ValueError:
        return None


def _date(text: str) -> int | None:
    try:
        if amazon := _AMAZON_DATE.fullmatch(text):
            month, day, year = map(int, amazon.groups())
            moment = datetime(year, month, day)
        elif text[:1].isalpha():
            moment = datetime.strptime(text, _GOODREADS_DATE)
        else:
            text = text.removesuffix(" UTC")
            moment = datetime.fromisoformat(text.replace("/", "-") if text[4:5] == "/" else text)
        return math.floor((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return None
