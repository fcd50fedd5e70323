"""Anyone's file: a table of file kinds and what each must give, the columns of known exports, and every refusal.

pytest tests/dataset_builder/test_any_file.py
"""

import csv
import datetime
import decimal
import gzip
import io
import json
import zipfile
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset_builder import DatasetError, build_tables, load_tables
from dataset_builder.__main__ import main
from dataset_builder.columns import told
from dataset_builder.item_texts import read_items
from dataset_builder.reviews import read_reviews
from dataset_builder.rows import SAMPLE_ROWS
from tests.conftest import TINY_MODEL


NAMES = ["user_id", "item_id", "timestamp", "text", "rating"]
ROWS = [
    dict(zip(NAMES, row))
    for row in [
        ("Zoë", "1001", 1_393_545_600, 'It is 5" wide; and soft, I say | ok', 5.0),
        ("u2", "1002", 1_393_545_660, 'The "best" strap\nof all. C:\\dir', 2.0),
        ("u3", "1001", 1_400_000_000, "日本語 … fine", 4.0),
    ]
]
EXPECTED = [(row["user_id"], row["item_id"], row["timestamp"], row["text"], row["rating"]) for row in ROWS]


def separated(separator, rows=ROWS, header=True, **options):
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=separator, **options)
    writer.writerows([[*rows[0]]] if header else [])
    writer.writerows([row.values() for row in rows])
    return stream.getvalue().encode()


def json_lines(rows=ROWS):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows=ROWS):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def zst(data):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def zipped(data, name="reviews"):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("__MACOSX/._reviews", b"x")
        archive.writestr(name, data)
    return stream.getvalue()


def read(source, **options):
    skipped = Counter()
    return list(read_reviews(source, skipped=skipped, **options)), skipped


def refused(source, **options):
    """The message of the error that reading ends in: one line that names the file."""
    with pytest.raises(DatasetError) as caught:
        read(source, **options)
    message = str(caught.value)
    assert "\n" not in message and str(source) in message
    return message


# ---- kinds of files -------------------------------------------------------------------------------------------------


KINDS = {
    "commas": separated(","),
    "tabs with quotes": separated("\t"),
    "semicolons": separated(";"),
    "pipes": separated("|"),
    "all quoted": separated(",", quoting=csv.QUOTE_ALL),
    "Unix line ends": separated(";", lineterminator="\n"),
    "Excel's first line": b"sep=;\r\n" + separated(";"),
    "a blank line first": b"\r\n" + separated(","),
    "UTF-8 with its mark": b"\xef\xbb\xbf" + separated(","),
    "UTF-16 with its mark": separated("\t").decode().encode("utf-16"),
    "UTF-16 of the other order": b"\xfe\xff" + separated(";").decode().encode("utf-16-be"),
    "UTF-32 with its mark": separated(",").decode().encode("utf-32"),
    "JSON lines": json_lines(),
    "JSON lines in UTF-16": json_lines().decode().encode("utf-16"),
    "JSON lines with commas": json_lines().replace(b"}\n", b"},\n"),
    "a JSON array": json.dumps(ROWS).encode(),
    "a pretty-printed JSON array": json.dumps(ROWS, indent=2).encode(),
    "pretty-printed JSON objects": "\n".join(json.dumps(row, indent=2) for row in ROWS).encode(),
    "Python literals": "".join(f"{row!r}\n" for row in ROWS).encode(),
    "Python 2 literals": "".join("{u" + repr(row)[1:] + "\n" for row in ROWS).encode(),
    "Parquet": parquet(),
}


@pytest.mark.parametrize("packing", [bytes, gzip.compress, zipped, zst], ids=["plain", "gz", "zip", "zst"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_reads_the_same(tmp_path, kind, packing):
    path = tmp_path / "reviews.bin"  # the name tells nothing: the content decides
    path.write_bytes(packing(KINDS[kind]))
    reviews, skipped = read(path)
    assert [tuple(review)[1:6] for review in reviews] == EXPECTED
    assert [review.row for review in reviews] == [0, 1, 2] and not +skipped


def test_a_folder_is_read_file_by_file_with_one_count_of_rows(tmp_path):
    folder = tmp_path / "export"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.csv.gz").write_bytes(gzip.compress(separated(",", ROWS[:1])))
    (folder / "b.jsonl").write_bytes(b"{bad\n" + json_lines(ROWS[1:2]))
    (folder / "deep" / "c.zip").write_bytes(zipped(parquet(ROWS[2:])))
    (folder / "part-00000").write_bytes(separated("\t", ROWS[:1]))
    (folder / "d.csv").write_bytes(b"")  # what a worker without rows leaves
    for name in ("_SUCCESS", ".a.csv.crc", "README.txt", "plot.png", "_meta.json"):
        (folder / name).write_bytes(b"x")
    reviews, skipped = read(folder)
    assert [tuple(review)[1:6] for review in reviews] == [*EXPECTED, EXPECTED[0]]
    assert [review.row for review in reviews] == [0, 2, 3, 4] and skipped == {"malformed_row": 1}


def test_a_folder_of_other_things_is_refused(tmp_path):
    assert "no data file in this folder (nothing)" in refused(tmp_path)
    (tmp_path / "movies.csv").write_text("movieId,title\n1,Alien\n")
    (tmp_path / "ratings.csv").write_bytes(separated(","))
    message = refused(tmp_path)
    assert "movies.csv: no column for the user; the columns are 'movieId', 'title'; say which" in message
    assert f"if it is no reviews file, take it out of {tmp_path}" in message


def test_files_of_a_folder_must_agree_on_the_customer(tmp_path):
    (tmp_path / "a.csv").write_text("user_id,item_id,time\n1,2,5\n")
    (tmp_path / "b.csv").write_text("customer,item_id,time\n1,2,5\n")
    assert "b.csv: its user is column 'customer', in the files before 'user_id'; say which" in refused(tmp_path)


def test_values_of_parquet_keep_their_meaning(tmp_path):
    moment = datetime.datetime(2014, 2, 28, 10, tzinfo=datetime.UTC)
    columns = {
        "user": pa.array([b"u1", None, "Zoë".encode(), b"\xf6"], pa.binary()),
        "item": pa.array([decimal.Decimal(12), decimal.Decimal(13), None, decimal.Decimal(1)], pa.decimal128(20, 2)),
        "time": pa.array([moment] * 4, pa.timestamp("us", "UTC")).cast(pa.timestamp("ns", "UTC")),
        "extra": [{"a": 1}] * 4,
    }
    path = tmp_path / "r.parquet"
    pq.write_table(pa.table(columns).slice(0, 3), path)
    (review,), skipped = read(path)
    assert (review.user, review.item, review.timestamp) == ("u1", "12", int(moment.timestamp()))
    assert skipped == {"missing_user": 1, "missing_item": 1}
    pq.write_table(pa.table(columns), path)
    assert "row 3, column 'user': '\ufffd' holds letters that cannot be read" in refused(path)
    unchecked = pa.Array.from_buffers(pa.string(), 4, columns["user"].buffers())
    pq.write_table(pa.table(columns | {"user": unchecked}), path)
    assert "row 3, column 'user': '\ufffd' holds letters that cannot be read" in refused(path)
    path.write_bytes(path.read_bytes()[:-30])
    assert "damaged or truncated Parquet" in refused(path)


def test_tabs_with_quotes_as_text(tmp_path):
    """The reviews of AWS and RecBole's files quote nothing: a lone quote must not swallow the rows that follow."""
    path = tmp_path / "r.tsv"
    texts = ['"Great" strap', '"not closed', 'a 5" one"', "plain", 'and "quoted"']
    path.write_text("user_id\titem_id\ttimestamp\ttext\n" + "".join(f"u\ti{n}\t5\t{t}\n" for n, t in enumerate(texts)))
    reviews, skipped = read(path)
    assert [review.text for review in reviews] == texts and not skipped


def test_a_column_that_only_late_rows_have_is_found(tmp_path):
    rows = [{"user": f"u{n}", "item": n, "date": "2014-02-28"} for n in range(SAMPLE_ROWS + 5)]
    rows[-1]["review_text"] = "The strap is great."
    path = tmp_path / "r.jsonl"
    path.write_bytes(json_lines(rows))
    chosen = {}
    reviews, _ = read(path, chosen=chosen)
    assert reviews[-1].text == "The strap is great." and chosen["text"] == ("review_text",)


def test_an_array_of_long_objects_and_other_values(tmp_path):
    rows = [{**ROWS[0], "text": "x" * 200_000}, 12, [ROWS[0]], "text", None, *ROWS]
    path = tmp_path / "r.json"
    path.write_text(json.dumps(rows))
    reviews, skipped = read(path)
    assert [review.row for review in reviews] == [0, 5, 6, 7] and skipped == {"malformed_row": 4}
    assert len(reviews[0].text) == 200_000


# ---- columns of known exports ------------------------------------------------------------------------------------


SECONDS = 1_393_545_600  # 2014-02-28
RELEASES = {
    "Amazon 2014": (
        "reviewerID,asin,reviewerName,reviewText,overall,summary,unixReviewTime,reviewTime",
        ["u", "i", "Jo", "good", "4", "s", str(SECONDS), "02 28, 2014"],
        "user=reviewerID, item=asin, time=unixReviewTime or else reviewTime, text=reviewText, rating=overall, "
        "title=summary",
    ),
    "Amazon 2023": (
        "rating,title,text,images,asin,parent_asin,user_id,timestamp,helpful_vote",
        ["4", "s", "good", "[]", "variant", "i", "u", f"{SECONDS}123", "0"],
        "user=user_id, item=parent_asin or else asin, time=timestamp, text=text, rating=rating, title=title",
    ),
    "Amazon on AWS": (
        "marketplace\tcustomer_id\treview_id\tproduct_id\tproduct_parent\tproduct_title\tproduct_category\tstar_rating\t"
        "helpful_votes\ttotal_votes\tvine\tverified_purchase\treview_headline\treview_body\treview_date",
        ["US", "u", "R1", "i", "7", "Strap", "Music", "4", "0", "0", "N", "Y", "s", "good", "2014-02-28"],
        "user=customer_id, item=product_id, time=review_date, text=review_body, rating=star_rating, "
        "title=review_headline",
    ),
    "Yelp": (
        "review_id,user_id,business_id,stars,useful,funny,cool,text,date",
        ["r", "u", "i", "4.0", "0", "0", "0", "good", "2014-02-28 00:00:00"],
        "user=user_id, item=business_id, time=date, text=text, rating=stars",
    ),
    "Goodreads": (
        "user_id,book_id,review_id,rating,review_text,date_added,date_updated,read_at,started_at,n_votes,n_comments",
        ["u", "i", "r", "4", "good", "Thu Feb 27 16:00:00 -0800 2014", "x", "", "", "0", "0"],
        "user=user_id, item=book_id, time=date_added, text=review_text, rating=rating",
    ),
    "Steam": (
        "username,hours,products,product_id,page_order,date,text,early_access,page,user_id",
        ["u", "9.2", "41", "i", "0", "2014-02-28", "good", "False", "1", "765"],
        "user=username, item=product_id, time=date, text=text",
    ),
    "Steam's store": (
        "app_id,app_name,review_id,language,review,timestamp_created,timestamp_updated,recommended,author.steamid",
        ["i", "Game", "r", "english", "good", str(SECONDS), "1600000000", "True", "u"],
        "user=author.steamid, item=app_id, time=timestamp_created, text=review",
    ),
    "RecBole": (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float",
        ["u", "i", "4", f"{SECONDS}.0"],
        "user=user_id:token, item=item_id:token, time=timestamp:float, rating=rating:float, no text",
    ),
    "MovieLens": (
        "userId,movieId,rating,timestamp",
        ["u", "i", "4.0", str(SECONDS)],
        "user=userId, item=movieId, time=timestamp, rating=rating, no text",
    ),
    "MovieLens with double colons": (
        "UserID::MovieID::Rating::Timestamp",
        ["u", "i", "4", str(SECONDS)],
        "user=UserID, item=MovieID, time=Timestamp, rating=Rating, no text",
    ),
    "a shop": (
        "Order ID;Customer ID;SKU;Order Date;Quantity",
        ["1", "u", "i", "2014-02-28", "2"],
        "user=Customer ID, item=SKU, time=Order Date, no text",
    ),
}


@pytest.mark.parametrize("release", RELEASES)
def test_columns_of_known_exports_are_guessed(tmp_path, release):
    header, values, expected = RELEASES[release]
    separator = next(mark for mark in ("\t", "::", ";", ",") if mark in header)
    path = tmp_path / "reviews"
    lines = [header.split(separator), values]
    if separator == "::":
        path.write_text("".join(separator.join(line) + "\n" for line in lines))
    else:
        path.write_bytes(separated(separator, [dict(zip(*lines))]))
    chosen = {}
    (review,), _ = read(path, chosen=chosen)
    assert told(chosen) == expected
    assert (review.user, review.item, review.timestamp) == ("u", "i", SECONDS)
    assert (review.text, review.rating) == (
        "good" if "text=" in expected else "",
        4.0 if "rating=" in expected else None,
    )
    path.write_text(json.dumps(dict(zip(header.split(separator), values))) + "\n")
    assert read(path)[0] == [review]


@pytest.mark.parametrize(
    ("content", "columns", "expected"),
    [
        (
            "kunde,ware,wann,sagt\nu,i,5,good\n",
            {"user": "kunde", "item": "ware", "time": "wann", "text": "sagt"},
            "good",
        ),
        ("kunde;ware;wann;text, lang\nu;i;5;good\n", {"user": "kunde", "item": "ware", "time": "wann"}, ""),
        ("user_id,sku,time,kind\nu,no,5,i\n", {"item": "kind"}, ""),
        ("user_id,item,time,text\nu,i,5,good\n", {"text": ""}, ""),
        ("u\ti\t3\t5\n", {"user": "1", "item": "2", "time": "4"}, ""),
        ("u::i::3::5\n", {"user": "1", "item": "2", "time": "4"}, ""),
        ("3,5,good; it is,u,i\n", {"user": "4", "item": "5", "time": "2", "text": "3", "rating": "1"}, "good; it is"),
        ("id,id,time\nu,i,5\n", {"user": "1", "item": "2", "time": "3"}, ""),
    ],
)
def test_columns_as_the_user_names_them(tmp_path, content, columns, expected):
    path = tmp_path / "r.csv"
    path.write_text(content)
    (review,), skipped = read(path, columns=columns)
    assert (review.user, review.item, review.timestamp, review.text) == ("u", "i", 5, expected)
    assert set(skipped) <= {"bad_time"}  # a row of names, where columns are told by number


# ---- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        (
            "user_id,item_id,when\nu,i,5\n",
            {},
            "no column for the time; the columns are 'user_id', 'item_id', 'when'; say which it is: "
            "--columns time=NAME",
        ),
        (
            "kunde,item_id,when\nu,i,5\n",
            {"user": "kunde"},
            "no column for the time; the columns are 'kunde', 'item_id', 'when'; say which it is: --columns "
            "user=kunde,time=NAME",
        ),
        (
            "user_id,customer_id,item_id,time\n1,2,3,4\n",
            {},
            "several columns could be the user ('user_id', 'customer_id'); the columns are 'user_id', 'customer_id', "
            "'item_id', 'time'; say which it is: --columns user=NAME",
        ),
        ("user_id,item_id,date,created_at\n1,2,3,4\n", {}, "several columns could be the time ('date', 'created_at')"),
        ("user_id,item_id,date,text,review\n1,2,3,4,5\n", {}, "several columns could be the text ('text', 'review')"),
        (
            "user,user,item,time\n1,2,3,4\n",
            {},
            "two have one name: say by number which is which, as in --columns user=1",
        ),
        ("user,item,time\n1,2,3\n", {"user": "User"}, "no column 'User' for the user; the columns are 'user', 'item'"),
        (
            "196\t242\t3\t881250949\n",
            {},
            "that looks like data: add a row of names, or say by number which is which, as ",
        ),
        (
            "u1;i1;2014-02-28;good\n",
            {},
            "'2014-02-28', 'good'; that looks like data: add a row of names, or say by number",
        ),
        ("1::1193::5::978300760\n", {}, "the columns are '1', '1193', '5', '978300760'; that looks like data"),
        (
            "1,2,3\n",
            {"user": "7", "item": "2", "time": "3"},
            "no column '7' for the user; the columns are '1', '2', '3'",
        ),
        ("just words\nand more\n", {}, "no column for the user; the columns are 'just words'; say which it is"),
        (
            "user,item,time\nu,i\nv,j\n",
            {},
            "not one good row of 2 (2 malformed_row); each row needs 3 fields, as the first has, separated by commas; "
            "quote texts that hold the separator; the first is row 0",
        ),
        (
            'user,item,time\nu,i,5\nu,"j,6\n' + "v,k,7\n" * 30,
            {},
            "a quote opened in line 3 is not closed; close or double",
        ),
        (
            "user,item,time\n,i,5\nNaN,j,5\n",
            {},
            "(2 missing_user); column 'user' holds no id there; name the right one with --columns user=NAME",
        ),
        (
            "user,item,time\nu,i,12/31/2014\n",
            {},
            "(1 bad_time); times may be seconds, milliseconds or dates like 2014-02",
        ),
        (
            '[{"user": 1}, {"user": 2',
            {},
            "row 1 cannot be read as JSON (Expecting ',' delimiter); mend it, or write one",
        ),
        ('[{"user": 1, "item": 2, "time": 3}', {}, "row 1 cannot be read as JSON (the array has no end)"),
        ("[{'user': 1}]", {}, "row 0 cannot be read as JSON (Expecting property name enclosed in double quotes)"),
        ('[{"user": 1, "item": 2, "time": 3}]\n{"user": 2}', {}, "more follows the end of the array; write one JSON"),
        ("{}\n{}\n", {}, "no column for the user; the columns are none; say which it is"),
        ("[]", {}, "no rows; give a file of reviews"),
        (
            '{"user": __import__("os").getcwd(), "item": 1, "time": 2}\n',
            {},
            "not one good row of 1 (1 malformed_row); ",
        ),
        (" \n\n", {}, "empty file"),
        (b"BZh91AY", {}, "packed by bzip2; unpack it"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", {}, "an Excel workbook; save it as CSV"),
        (zipped(b"<xml>", "[Content_Types].xml"), {}, "an Excel workbook or another office document; save it as CSV"),
        (b"SQLite format 3\x00", {}, "an SQLite database; export its table as CSV"),
        (b"<!DOCTYPE html>\n<title>Sign in</title>", {}, "a web page; give the file itself"),
        (gzip.compress(gzip.compress(b"x", mtime=0), mtime=0), {}, "packed twice; unpack it once"),
        (
            gzip.compress(b"a" + b"\0" * 256 + b"ustar\x0000" + b"\0" * 255, mtime=0),
            {},
            "a tar archive; unpack it and give the file",
        ),
        (
            separated(",").decode().encode("utf-16-le"),
            {},
            "UTF-16 without the mark that tells it; save it as UTF-8 (iconv",
        ),
        (zst(json_lines() * 9)[:-9], {}, "damaged or truncated archive"),
        (b"PAR1 and no more", {}, "damaged or truncated Parquet"),
    ],
)
def test_what_cannot_be_read_is_one_line_with_a_mend(tmp_path, content, columns, message):
    path = tmp_path / "reviews.bin"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert message in refused(path, columns=columns)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("user", "--columns user: write ROLE=NAME,ROLE=NAME, as in --columns user=customer,item=sku"),
        ("", "--columns : write ROLE=NAME"),
        ("user=a,user=b", "--columns user=a,user=b: user is there twice"),
        ("=a", "--columns =a: write ROLE=NAME"),
        ("users=a", "--columns users=…: no such role; the roles are user, item, time, text, rating, title"),
    ],
)
def test_columns_flag_is_checked(tmp_path, capsys, written, message):
    (tmp_path / "r.csv").write_bytes(separated(","))
    command = ["build", "--reviews", str(tmp_path / "r.csv"), "--domain", "d", "--output", str(tmp_path / "o")]
    assert main([*command, "--columns", written]) == 2
    assert f"error: {message}" in capsys.readouterr().err.splitlines()[-1]


# ---- dates written as one number -----------------------------------------------------------------------------------


def times_of(values, tmp_path, **options):
    path = tmp_path / "r.jsonl"
    path.write_bytes(json_lines([{"user": "u", "item": n, "date": value} for n, value in enumerate(values)]))
    times = {}
    reviews, _ = read(path, times=times, **options)
    return [review.timestamp for review in reviews], times


@pytest.mark.parametrize("write", [int, float, str, "{}.0".format])
def test_numbers_like_20140228_are_dates(tmp_path, write):
    found, times = times_of([write(value) for value in (20140228, 0, 20140301)], tmp_path)
    assert found == [SECONDS, 0, SECONDS + 86_400] and times == {"date": "dates (YYYYMMDD)"}


def test_hours_may_follow_the_date(tmp_path):
    assert times_of([201402280130, 201402282359], tmp_path)[0] == [SECONDS + 5400, SECONDS + 86_340]
    assert times_of([20140228013015], tmp_path)[0] == [SECONDS + 5415]


def test_the_whole_column_decides_between_dates_and_seconds(tmp_path):
    counted = [20140228, 20140229, 20140230, 20149999]  # one of them could be a date
    assert times_of(counted, tmp_path) == (counted, {"date": "seconds"})
    with pytest.raises(DatasetError, match="20140228 in row 0 is a date .YYYYMMDD., 20140230 in row 2 is in seconds"):
        times_of([20140228, 20140301, 20140230], tmp_path)
    with pytest.raises(
        DatasetError, match="times of column 'date' are mixed: 20140228 in row 0 .* '2014-03-01' in row 1"
    ):
        times_of([20140228, "2014-03-01", 20140302], tmp_path)
    with pytest.raises(DatasetError, match="are mixed: .*; write all of them in one unit"):
        times_of([20140228, 1_400_000_000, 20140302], tmp_path)


# ---- ratings, repeats, purchases alone ---------------------------------------------------------------------------


def shop(**changes):
    """20 customers with 6 purchases each, without a word."""
    return [
        {"user": f"u{n}", "item": f"i{(3 * n + step) % 20}", "date": 20140201 + step, "stars": 1 + step % 5} | changes
        for n in range(20)
        for step in range(6)
    ]


def build(path, **options):
    return build_tables(path, domain="d", **({"num_negatives": 2, "min_core": 3, "progress": False} | options))


def write(path, rows):
    path.write_bytes(json_lines(rows))
    return path


def test_low_ratings_and_rows_without_one_are_left_out(tmp_path):
    rows = shop()
    rows[0]["stars"], rows[1]["stars"], rows[2]["stars"] = None, "good", 4.5
    path = write(tmp_path / "r.jsonl", rows)
    reviews, skipped = read(path, min_rating=2)
    assert skipped == {"below_min_rating": 39, "without_rating": 2} and len(reviews) == 79
    tables = build(path, min_rating=2)
    assert tables.info["notes"]["min_rating"] == "2" and tables.info["skipped"]["below_min_rating"] == 39
    assert "not one good row of 120 (118 below_min_rating); give a lower --min_rating" in refused(path, min_rating=6)
    write(path, [{key: row[key] for key in ("user", "item", "date")} for row in rows])
    assert "no column for the rating; the columns are 'user', 'item', 'date'" in refused(path, min_rating=2)
    write(path, shop(score=1))
    assert read(path)[0][3].rating == 4  # which of two it is does not matter until one is needed
    assert "several columns could be the rating ('stars', 'score')" in refused(path, min_rating=2)


def test_repeated_purchases_are_kept_on_request(tmp_path):
    rows = shop()
    rows += [rows[0] | {"date": 20140301}, rows[0] | {"date": 20140302}, rows[0]]
    path = write(tmp_path / "r.jsonl", rows)
    tables = build(path)
    assert tables.info["counts"]["interactions"] == 120 and tables.info["skipped"]["duplicate_interaction"] == 3
    tables = build(path, keep_repeats=True)
    # The same line twice is one purchase still.
    assert tables.info["counts"]["interactions"] == 122 and tables.info["skipped"]["duplicate_interaction"] == 1
    user = next(row["id"] for row in tables.catalog.to_pylist() if row["raw_id"] == "u0")
    items = tables.interactions["items"].to_pylist()[user - 1]
    assert len(items) == 8 and items[0] == items[-1] == items[-2]
    assert tables.info["notes"]["repeats"].startswith("2 purchases of an item that the user had were kept; 1 of them")
    for split in tables.candidates.values():
        for owned, row in zip(tables.interactions.to_pylist(), split.to_pylist()):
            assert not set(row["negatives"]) & set(owned["items"])


@pytest.mark.slow
def test_purchases_alone_build_and_train(tmp_path, capsys):
    from rdrec.training.loop import train
    from rdrec.training.recipe import Recipe

    path = tmp_path / "purchases.csv"
    path.write_bytes(separated(";", shop()))
    out = tmp_path / "out"
    command = ["build", "--reviews", str(path), "--domain", "shop", "--output", str(out), "--min_core", "3"]
    assert main([*command, "--num_negatives", "5"]) == 0
    printed = capsys.readouterr().out
    assert "\n  columns: user=user, item=item, time=date, rating=stars, no text\n" in printed
    assert "\n  time: date in dates (YYYYMMDD), from 2014-02-01 to 2014-02-06\n" in printed
    tables = load_tables(out)
    assert tables.info["counts"]["interactions"] == 120 and not any(tables.info["counts"]["rationales"].values())
    small = {"model_config": TINY_MODEL, "train_batch_size": 12, "max_train_steps": 2, "max_eval_samples": 4}
    record = train(Recipe(dataset=str(out), output_dir=str(tmp_path / "run"), report_to="none", **small))
    assert record.draws_per_step["sequential"] > 0 and record.draws_per_step["explanation"] == 0


def test_distillation_reads_the_same_files_and_needs_a_text(tmp_path, capsys):
    from rdrec.distillation.responses import Completion
    from rdrec.distillation.run import distill
    from rdrec.distillation.settings import Settings

    async def ask(messages, seed, temperature):
        return Completion("1. The user likes straps. 2. The item is a strap.", "stop", 9)

    rows = [{"who": f"u{n}", "what": n, "date": 20140201, "said": f"Strap {n} is good."} for n in range(4)]
    path = tmp_path / "r.csv"
    path.write_bytes(separated("|", rows))
    settings = {"reviews": str(path), "endpoint": ["-"], "model": "m", "prompt": "published"}
    with pytest.raises(DatasetError, match="no column for the text; .* --columns user=who,item=what,text=NAME"):
        distill(Settings(**settings, output=str(tmp_path / "a"), columns="user=who,item=what"), ask=ask, progress=False)
    columns = "user=who,item=what,text=said"
    info = distill(Settings(**settings, output=str(tmp_path / "b"), columns=columns), ask=ask)
    assert info["counts"] == {"reviews": 4, "texts": 4, "with_rationale": 4}
    assert "columns: user=who, item=what, time=date, text=said" in capsys.readouterr().err


# ---- items ---------------------------------------------------------------------------------------------------------


ITEMS = {
    "Amazon 2014": (
        "{'asin': 'i1', 'title': 'Wide Strap', 'brand': 'Planet', 'price': 9.9, 'categories': [['Music', 'Straps']], "
        "'description': 'Soft &amp; <b>wide</b>.'}\n",
        "Wide Strap. Planet. Music, Straps. Soft & wide",
    ),
    "Amazon 2023": (
        '{"parent_asin": "i1", "main_category": "Music", "title": "Wide Strap", "store": "Planet", "categories": '
        '["Music", "Straps"], "features": ["Soft"], "description": [], "asin": "other"}\n',
        "Wide Strap. Planet. Music, Straps. Soft",
    ),
    "Yelp": (
        '{"business_id": "i1", "name": "Wide Strap", "city": "Rome", "categories": "Music, Straps"}\n',
        "Wide Strap. Music, Straps",
    ),
    "Goodreads": (
        '{"book_id": "i1", "asin": "B0", "title": "Wide Strap", "authors": [{"author_id": "1"}], "description": '
        '"Soft."}\n',
        "Wide Strap. Soft",
    ),
    "MovieLens": ("movieId,title,genres\ni1,Wide Strap (1995),Drama|Comedy\n", "Wide Strap (1995). Drama, Comedy"),
    "RecBole": (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "i1\tWide Strap\t1995\tDrama Comedy\n",
        "Wide Strap. Drama Comedy",
    ),
    "a list within a CSV": ("sku;name;tags\ni1;Wide Strap;\"['Soft', 'Wide']\"\n", "Wide Strap. Soft, Wide"),
    "nothing but a title": ("sku,title,brand\ni1,Wide Strap,NaN\n", "Wide Strap"),
}


@pytest.mark.parametrize("kind", ITEMS)
def test_items_files_of_known_exports_give_a_text(tmp_path, kind):
    content, expected = ITEMS[kind]
    path = tmp_path / "items.bin"
    path.write_text(content)
    item_of_reviews = ("book_id",) if kind == "Goodreads" else ("parent_asin", "asin")
    assert read_items(path, ["i1", "i2"], item_of_reviews=item_of_reviews).texts == {"i1": expected}


def test_items_join_the_catalog_by_the_rules_of_ids(tmp_path, capsys):
    rows = [row | {"item": int(row["item"][1:])} for row in shop()]
    reviews = write(tmp_path / "r.jsonl", rows)
    lines = [
        "item,title,colour",
        "0,Zero,red",
        "1.0,One,red",
        "1,Again,red",
        " 2 ,,red",
        "77,Unbought,red",
        ",None,red",
    ]
    items = tmp_path / "items.csv"
    items.write_text("\n".join(lines) + "\n")
    out = tmp_path / "out"
    command = ["build", "--reviews", str(reviews), "--domain", "d", "--output", str(out), "--min_core", "3"]
    command += ["--num_negatives", "5", "--items", str(items)]
    assert main(command) == 0
    note = "2 of 20 items got a text; ignored: 1 rows of items that nobody bought, 1 without an id"
    assert f"\n  items: {note}\n" in capsys.readouterr().out
    tables = load_tables(out)
    texts = {row["raw_id"]: row["text"] for row in tables.catalog.to_pylist() if row["kind"] == "item"}
    assert {raw: text for raw, text in texts.items() if text} == {"0": "Zero", "1": "One"}
    assert tables.info["source"]["items"]["file"] == "items.csv"
    assert main([*command, "--overwrite", "--item_columns", "title=colour"]) == 0
    assert "red" in load_tables(out).catalog["text"].to_pylist()
    assert main([*command, "--overwrite", "--item_text", str(items)]) == 2
    assert "--items and --item_text are both given; give one of them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        (
            "code,title\ni1,x\n",
            {},
            "no column for the item; the columns are 'code', 'title'; say which it is: --item_col",
        ),
        ("sku,asin,title\ni1,i1,x\n", {}, "several columns could be the item ('sku', 'asin')"),
        (
            "sku,colour\ni1,x\n",
            {},
            "no column with words about the items; the columns are 'sku', 'colour'; name one with",
        ),
        (
            "sku,title\nother,x\n",
            {},
            "no text for any item that was bought (1 rows of others, 0 bad rows); ids are read ",
        ),
        ("sku,title\ni\ufffd,x\n", {}, "row 0: 'i\ufffd' holds letters that cannot be read; save the file as UTF-8"),
        (
            "sku,title\ni1,x\n",
            {"name": "title"},
            "--item_columns name=…: no such role; the roles are item, title, brand",
        ),
        ("{oops\n", {}, "no text for any item that was bought (0 rows of others, 1 bad rows); give the file"),
    ],
)
def test_items_that_cannot_be_read_are_one_line(tmp_path, content, columns, message):
    path = tmp_path / "items.bin"
    path.write_text(content)
    with pytest.raises(DatasetError) as caught:
        read_items(path, ["i1"], columns)
    assert message in str(caught.value) and "\n" not in str(caught.value)
