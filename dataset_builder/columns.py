"""Columns: which of a file's columns holds the user, which the item, and so on; guessed by name, or as the user says.

    given = parse_columns("user=customer,item=sku")                   # of --columns
    REVIEW_COLUMNS.choose(["customer", "sku", "time", "stars"], given, "shop.csv")
    # {"user": ("customer",), "item": ("sku",), "time": ("time",), "rating": ("stars",)}

A guess is made only where one column alone can be meant: several that could be are an error, as the wrong one gives
wrong results without a word.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rdrec.errors import DatasetError, printable

from .fields import time_of


# By role, the column's names in the order they are looked for in a row: the first is taken, the others stand in.
Chosen = dict[str, tuple[str, ...]]

_MOST_SHOWN = 20  # columns of a file that an error shows
_RECBOLE_TYPE = re.compile(r":(token|token_seq|float|float_seq)$")


class Release(NamedTuple):
    """A published kind of file, told by the columns that no other kind has together, and what its columns mean.

    It decides where names alone would leave two columns for one role.
    """

    told_by: tuple[tuple[str, ...], ...]  # one name of each must be there
    columns: Mapping[str, tuple[str, ...]]  # by role, in order of preference

    def is_of(self, columns: Sequence[str]) -> bool:
        """Whether a file with these columns is of this kind."""
        return all(any(name in columns for name in names) for names in self.told_by)


# In the 2023 release `asin` names one variant (a size, a colour) and `parent_asin` the product: variants split the few
# reviews of a product between them, and the release's own 5-core is counted on parent_asin.
AMAZON = Release(
    (("reviewerID", "user_id"), ("parent_asin", "asin")),
    {
        "user": ("reviewerID", "user_id"),
        "item": ("parent_asin", "asin"),
        "time": ("unixReviewTime", "timestamp", "reviewTime"),
        "text": ("reviewText", "text"),
        "rating": ("overall", "rating"),
        "title": ("summary", "title"),
    },
)
# A few rows of the Steam reviews have the writer's `user_id` too; the others have `username` alone.
STEAM = Release((("username",), ("product_id",), ("date",)), {"user": ("username",)})


@dataclass(frozen=True)
class Columns:
    """The roles of one kind of file.

    Attributes
    ----------
    flag : str
        With which the user names columns.
    names : mapping of str to tuple of str
        By role, names that mean it wherever they stand, as `_plain` writes them.
    required : tuple of str
        Roles that a file must have.
    single : tuple of str
        Roles of which a file may have one column only; of the others, more stand in for the first.
    releases : tuple of Release
    """

    flag: str
    names: Mapping[str, tuple[str, ...]]
    required: tuple[str, ...]
    single: tuple[str, ...]
    releases: tuple[Release, ...] = ()

    def choose(
        self, columns: Sequence[str], given: Mapping[str, str], where: str, also_required: tuple[str, ...] = ()
    ) -> Chosen:
        """The columns of each role that the file has.

        Parameters
        ----------
        columns : sequence of str
            The file's columns.
        given : mapping of str to str
            By role, what the user says (see `parse_columns`); the other roles are guessed.
        where : str
            The file, for errors.
        also_required : tuple of str
            Further roles that must be there.

        Raises
        ------
        DatasetError
            A required column is missing, several columns could be meant, or there is no such role.
        """
        if unknown := set(given) - set(self.names):
            raise DatasetError(f"{self.flag} {min(unknown)}=…: no such role; the roles are {', '.join(self.names)}")
        required = self.required + also_required
        release = next((one for one in self.releases if one.is_of(columns)), None)
        places = by_number(given)
        chosen: Chosen = {}
        for role in self.names:
            preferred = [] if release is None else [name for name in release.columns.get(role, ()) if name in columns]
            if role in given:
                found = [name for name in columns if name == given[role]]
            elif places:  # the other columns have no names to guess by
                found = []
            elif preferred and all(columns.count(name) == 1 for name in preferred):
                chosen[role] = tuple(preferred)
                continue
            else:
                found = [name for name in columns if _plain(name) in self.names[role]]
            if len(found) > 1 and role in self.single + also_required:
                what = f"several columns could be the {role} ({', '.join(map(repr, found))})"
                raise self._error(where, columns, given, role, what)
            if not found and given.get(role):
                raise self._error(where, columns, given, role, f"no column {given[role]!r} for the {role}")
            if not found and role in required:
                raise self._error(where, columns, given, role, f"no column for the {role}")
            if found:
                chosen[role] = tuple(found)
        return chosen

    def known(self, columns: Sequence[str], given: Mapping[str, str]) -> int:
        """How many roles these columns have a name for."""
        if by_number(given):
            return 0
        plain = {_plain(name) for name in columns}
        guessed = [names for role, names in self.names.items() if role not in given]
        return sum(name in columns for name in given.values()) + sum(not plain.isdisjoint(names) for names in guessed)

    def _error(
        self, where: str, columns: Sequence[str], given: Mapping[str, str], role: str, what: str
    ) -> DatasetError:
        by_place = f"{self.flag} " + ",".join(f"{one}={place}" for place, one in enumerate(self.required, start=1))
        if len(set(columns)) < len(columns) and columns.count(given.get(role)) != 1:
            mend = f"two have one name: say by number which is which, as in {by_place}"
        elif any(time_of(name) for name in columns) and not given:
            mend = f"that looks like data: add a row of names, or say by number which is which, as in {by_place}"
        else:
            flag = ",".join(f"{one}={name}" for one, name in {**given, role: "NAME"}.items())
            known = [name for one in self.releases for name in one.columns.get(role, ())] + [*self.names[role][:3]]
            units = "; times may be seconds, milliseconds or dates (the values tell which)" if role == "time" else ""
            mend = f"say which it is: {self.flag} {flag} (known names: {', '.join(dict.fromkeys(known))}, …{units})"
        return DatasetError(f"{where}: {what}; the columns are {shown(columns)}; {mend}")


REVIEW_COLUMNS = Columns(
    "--columns",
    {
        "user": (
            *("user", "userid", "userkey", "username", "uid", "reviewerid", "customer", "customerid", "clientid"),
            *("visitorid", "memberid", "buyerid", "shopperid", "accountid", "steamid", "author.steamid"),
        ),
        "item": (
            *("item", "itemid", "itemkey", "iid", "product", "productid", "asin", "parentasin", "sku", "articleid"),
            *("movieid", "businessid", "bookid", "gameid", "appid", "recipeid", "songid", "trackid", "stockcode"),
        ),
        "time": (
            *("timestamp", "time", "datetime", "date", "ts", "unixtime", "unixreviewtime", "reviewtime"),
            *("reviewdate", "createdat", "created", "timestampcreated", "dateadded", "purchasedate", "purchasedat"),
            *("orderdate", "orderedat", "invoicedate", "tdat"),
        ),
        "text": ("text", "review", "reviewtext", "reviewbody", "comment", "body", "content"),
        "rating": ("rating", "stars", "overall", "score", "starrating", "reviewscore", "reviewrating"),
        "title": ("title", "summary", "headline", "reviewheadline", "reviewtitle", "reviewsummary"),
    },
    ("user", "item", "time"),
    ("user", "item", "time", "text"),
    (AMAZON, STEAM),
)


def parse_columns(written: str | None, flag: str = "--columns") -> dict[str, str]:
    """Read `user=customer,item=sku`: by role, a name of a column or its number from 1. No name: leave that role out.

    A name may hold commas and equals signs, as only `,role=` begins the next one.

    Raises
    ------
    DatasetError
        It is not written so, or names a role twice.
    """
    given: dict[str, str] = {}
    for part in re.split(r",(?=\s*\w+\s*=)", written) if written is not None else ():
        role, equals, name = part.partition("=")
        if not equals or not role.strip():
            raise DatasetError(f"{flag} {written}: write ROLE=NAME,ROLE=NAME, as in {flag} user=customer,item=sku")
        if role.strip() in given:
            raise DatasetError(f"{flag} {written}: {role.strip()} is there twice")
        given[role.strip()] = name.strip()
    return given


def by_number(given: Mapping[str, str]) -> bool:
    """Whether columns are named by their place, from 1, as a file without a row of names needs."""
    named = [name for name in given.values() if name]
    return bool(named) and all(name.isascii() and name.isdecimal() and int(name) > 0 for name in named)


def shown(columns: Sequence[str]) -> str:
    """The columns of a file, for an error."""
    return ", ".join(map(repr, columns[:_MOST_SHOWN])) + (", …" if len(columns) > _MOST_SHOWN else "") or "none"


def told(chosen: Chosen) -> str:
    """What was chosen of a reviews file, on one line, for the user to check."""
    read = [f"{role}={' or else '.join(names)}" for role, names in chosen.items()]
    return printable(", ".join(read if "text" in chosen else [*read, "no text"]))


def _plain(name: str) -> str:
    """A name in the spelling of the tables above: `userId`, `User ID` and RecBole's `user_id:token` are one."""
    return re.sub(r"[\s_-]", "", _RECBOLE_TYPE.sub("", name.strip())).lower()
