"""From a review's text, the sentence that explains the purchase and the feature it speaks of.

    vocabulary = FeatureVocabulary()
    vocabulary.add(texts)                                     # a list of them, as often as need be
    features = vocabulary.select()
    pick("The strap is wide. Ordered on Monday.", features)   # Explanation("The strap is wide.", "strap")

No model and no download: words that the corpus itself uses as the head of a noun phrase ("the strap is", "a great
sound.") are its features, and the sentence that puts an opinion next to a feature is the explanation.

Counting words is Polars' work: its regular expressions and groups take a third of the time that `re` and `Counter` do.
They know no lookahead and another notion of a letter, so the texts are handed over in ASCII (`_ascii`) and a match may
take what follows a head: no closer is an opener, so none is missed for it.
"""

import html
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


MIN_WORDS, MAX_WORDS = 4, 20  # the length of a good explanation; training cuts targets at 20 tokens
LONGEST = 40  # a longer run without punctuation is no sentence
NEAR = 4  # words between a feature and an opinion about it

STOPWORDS = frozenset(
    """
    a about above after again all almost already also although always am among an and another any anything are
    aren't around as at away back be because been before being below best better between both but by can can't
    cannot could couldn't did didn't do does doesn't doing don't down during each either else enough especially
    even ever every everything few first for from further get gets getting give go goes going got had hadn't has
    hasn't have haven't having he her here hers him his how however i i'd i'll i'm i've if in into is isn't it it'd
    it'll it's its itself just know last least less let like ll made make makes making many may maybe me might mine
    more most much must my myself need needs neither never new next no none nor not nothing now of off often ok
    okay old on once one ones only or other others our ours out over own per put quite rather re really s same say
    second see seem seems she should shouldn't since so some someone something sometimes soon still such t take
    than thank thanks that that's the their theirs them then there there's these they they'd they'll they're
    they've think third this those though through thus to together too toward try two under until up upon us use
    used using ve very want was wasn't way we we'll we're we've well were weren't what when where whether which
    while who whole whom whose why will with within without won't would wouldn't yes yet you you'll you're you've
    your yours yourself able actually main three four five six seven eight nine ten buy bought work works working
    right left big small little large long short high low different full extra single double
    """.split()
)

# Nouns that a review of anything is full of: true heads of noun phrases, but never what the purchase was about.
GENERIC = frozenset(
    """
    thing things one ones time times lot lots bit day days week weeks month months year years hour hours minute
    minutes people person guy guys man woman folks friend friends husband wife son daughter kid mom dad brother
    sister reason fact rest star stars review reviews reviewer amazon seller item items product products purchase
    order company brand world half couple number part parts kind sort type types case point end side top bottom
    front middle place home house store shop today job hand hands life line internet idea problem problems issue
    issues question doubt deal pair set piece pieces course example word words past future moment trouble chance
    difference use money buck bucks dollar dollars user users stuff opinion plus fan choice ways need level mind
    step turn look start amount description picture photo advantage exception option options unit units device
    model complaint complaints bunch purpose experience ability market version note matter name majority means
    """.split()
)

OPINIONS = frozenset(
    """
    accurate adequate amazing annoying awesome awful awkward bad beautiful beautifully best better brilliant broke
    broken bright bulky cheap cheaply clean cleanly clear clearly comfortable comfortably comfy convenient cool
    crappy crisp cute dead decent defective delicate delicious delighted disappointed disappointing disappointment
    disappoints dull durable easier easily easy effective efficient elegant enjoy enjoyable enjoyed enjoys
    excellent exceptional expensive fabulous fair fake fantastic fast favorite fine firm flawless flawlessly
    flexible flimsy fragile fresh fun garbage generous gentle glad good gorgeous great greatest greasy handy happy
    hard harsh hate hated heavy helpful helps horrible huge impressed impressive inaccurate incredible inexpensive
    intuitive irritating junk lacks lightweight like liked likes love loved lovely loves loud lousy lasting
    mediocre messy muddy natural neat nice nicely noisy outstanding overpriced perfect perfectly pleasant pleased
    poor poorly powerful precise pretty pricey problem professional quick quickly quiet reasonable reasonably
    recommend recommended reliable rich rough rugged rusty sad satisfied secure securely sharp sleek slippery slow
    smooth smoothly soft solid solidly spectacular stable stiff stinks stretchy strong stunning sturdy stylish
    sucks super superb superior sweet terrible terrific thick thin tight tiny tough ugly unreliable useful useless
    uncomfortable versatile warm waste wasted weak well wobbly wonderful wonderfully wonders works worse worst
    worth worthless worthwhile wrong affordable well-made well-built high-quality easy-to-use
    """.split()
)

_WORD = re.compile(r"[a-z]+(?:['-][a-z]+)*")  # "clip-on" is one word: it is no clip
_LETTERS = bytes(code if chr(code).isalpha() and code < 128 else ord(" ") for code in range(256))
# "this", "that" and the like are left out: they stand before verbs as often ("this came with", "that said").
_OPENERS = "the|my|your|its|their|his|her|our|a|an|" + "|".join(
    "great good nice excellent perfect solid decent awesome amazing fantastic clean clear bad poor cheap heavy".split()
)
_CLOSERS = (
    "is|are|was|were|isn't|wasn't|aren't|has|have|had|will|would|can|could|does|doesn't|and|or|but|of|for|in|on|at|to|with|"
    "from|that|which|so|as|if|when|because|while|than|i|it|you|they|we|very|really|just|too|also|seems|feels|works|looks"
)
_CLOSED = rf"(?: (?:{_CLOSERS})\b| ?[.,;:!?)]|$)"
_HEADS = (
    # The word between an opener and a closer (or punctuation) is the head of a noun phrase: "the strap is", "a great
    # sound."
    rf"\b(?:{_OPENERS}) ([a-z]{{3,}}){_CLOSED}",
    # One word may stand between: "the heavy cord and". The closer makes sure that "cord", not "heavy", is taken.
    rf"\b(?:{_OPENERS}) [a-z-]+ ([a-z]{{3,}}){_CLOSED}",
)
_OTHER_LETTER = re.compile(r"[^\W\x00-\x7f]")
_NO_ASCII = re.compile(r"[^\x00-\x7f]")

_TAG = re.compile(r"<[^<>]{1,80}>")
_ENDLESS_NUMBER = re.compile(r"&#(?:\d{100,}+|[xX][0-9a-fA-F]{100,}+);?")  # no entity, and Python refuses to read it
# A sentence ends at . ! ? before a blank or, as reviews lose their line breaks, glued to a capitalised word ("did!Buy
# this"), not inside "3.5" or "U.S.A"; a dot after a single letter or a common short form ends nothing. It also ends at
# marks drawn between blanks: bullets, asterisks, dashes.
# A run of marks is looked at once, from where it begins (the lookbehinds), and never given back piece by piece (`++`):
# people draw lines of thousands of asterisks.
_AFTER_MARK = r"[\"')\]]*+(?:\s++|(?=[A-Z][a-z'\u2019 ]))"
_END = re.compile(rf"(?<=[.!?]){_AFTER_MARK}|(?<![\u2022*])\s*[\u2022*]++\s+|\s+-{{2,}}+\s+")
_END_AT_MARK = re.compile(rf"[.!?]({_AFTER_MARK})")  # a search for a character is many times faster than a lookbehind
_SHORT_FORM = re.compile(
    r"(?:\b(?:[A-Za-z]|mr|mrs|ms|dr|st|vs|etc|approx|inc|e\.g|i\.e|oz|ft|lbs?|min)\.)$", re.IGNORECASE
)
_LONGEST_SHORT_FORM = 12  # characters that tell one at the end of a sentence, with room to spare
_CLAUSE = re.compile(
    r"(?:,|;|(?<!\.)\.{3,}+| -)\s*(?=(?:and|but|so|then|it|it's|i|they|this|the|which|also|however|because)\b)", re.I
)


class Explanation(NamedTuple):
    """One sentence of a review, and the feature it is about ("" when it names none of the corpus's features)."""

    text: str
    feature: str


def clean_text(text: str) -> str:
    """The text on one line, without markup: entities decoded, tags dropped, whitespace runs made one blank."""
    if "&" in text:
        text = html.unescape(_ENDLESS_NUMBER.sub(" ", text))
    if "<" in text:
        text = _TAG.sub(" ", text)
    return " ".join(text.split())


def sentences(text: str) -> list[str]:
    """Sentences of a cleaned text; one of more than 20 words is cut at its clauses."""
    found: list[str] = []
    start = 0
    is_drawn = "*" in text or "--" in text or "\u2022" in text
    pattern, group = (_END, 0) if is_drawn else (_END_AT_MARK, 1)
    for match in pattern.finditer(text):
        end = match.start(group)
        if text[end - 1] == ".":
            tail = max(start, end - _LONGEST_SHORT_FORM)
            last_word = max(tail, text.rfind(" ", tail, end))
            if _SHORT_FORM.search(text, last_word, end) and not text.endswith(" I.", start, end):
                continue
        found.append(text[start:end])
        start = match.end()
    found.append(text[start:])
    cut: list[str] = []
    for sentence in found:
        cut += _CLAUSE.split(sentence) if sentence.count(" ") >= MAX_WORDS else [sentence]
    return [s.strip() for s in cut if s.strip()]


class FeatureVocabulary:
    """Counts, over a stream of texts, in how many each word appears and in how many it heads a noun phrase."""

    def __init__(self) -> None:
        self.texts = 0
        self.seen: Counter[str] = Counter()
        self.heads: Counter[str] = Counter()

    def add(self, texts: Sequence[str]) -> None:
        """Count reviews."""
        import polars as pl  # here, as importing this module is to cost nothing to those who count no words

        lines = pl.DataFrame({"text": pl.Series([_ascii(text) for text in texts], dtype=pl.String)}).with_row_index()
        self.texts += len(texts)
        self.seen.update(_in_how_many(lines.select("index", pl.col("text").str.extract_all(_WORD.pattern))))
        heads = [
            lines.select("index", pl.col("text").str.extract_all(head))
            .explode("text")
            .with_columns(pl.col("text").str.extract(head, 1))
            for head in _HEADS
        ]
        self.heads.update(_in_how_many(pl.concat(heads)))

    def merge(self, other: "FeatureVocabulary") -> None:
        """Add what another has counted."""
        self.texts += other.texts
        self.seen.update(other.seen)
        self.heads.update(other.heads)

    def select(self) -> dict[str, float]:
        """Features with their weight, the logarithm of the number of reviews in which they head a noun phrase.

        A feature appears in 2 reviews and 1 in 4,000 at least and in 3 in 10 at most (what everybody mentions tells
        nothing about one purchase), heads a noun phrase in a fifth of the reviews it appears in, and is neither a
        stopword, an opinion nor one of the nouns that fit anything.
        """
        least, most = max(2, self.texts / 4000), max(2, 0.3 * self.texts)
        return {
            word: math.log1p(heads)
            for word, heads in sorted(self.heads.items())
            if least <= heads
            and self.seen[word] <= most
            and heads >= 0.2 * self.seen[word]
            and word not in STOPWORDS
            and word not in OPINIONS
            and word not in GENERIC
        }


def _ascii(text: str) -> str:
    """A text in lower case in which a letter or digit that is not ASCII is a 0, and any other such character a ~.

    What is a letter is thus Python's own notion, whoever counts the words.
    """
    text = clean_text(text).lower()
    return text if text.isascii() else _NO_ASCII.sub("~", _OTHER_LETTER.sub("0", text))


def _in_how_many(words: Any) -> dict[str, int]:
    """Of a frame of `index` and `text` (words, or lists of words), with how many indexes each word stands."""
    import polars as pl

    if words.schema["text"] != pl.String:
        words = words.with_columns(pl.col("text").list.unique()).explode("text")
    else:
        words = words.unique()
    return dict(words.drop_nulls().group_by("text").len().iter_rows())


def _words(text: str) -> list[str]:
    """The words of a text in lower case, in their order: `_WORD.findall`, faster where no word has marks in it."""
    if "'" in text or "-" in text:
        return _WORD.findall(text)
    return text.encode("utf-8", "surrogatepass").translate(_LETTERS).decode().split()


def pick(text: str, features: Mapping[str, float]) -> Explanation | None:
    """Choose the explanation of a review.

    The best sentence has a feature with an opinion at most 4 words away, then a feature alone, then neither (feature
    ""); among equals, one of 4 to 20 words; then the heaviest and closest pair, or without a feature the longest.
    Equals go to the earlier sentence.

    Parameters
    ----------
    text : str
        The review as it was read.
    features : mapping of str to float
        Of `FeatureVocabulary.select`.

    Returns
    -------
    Explanation or None
        None when no sentence has 2 to 40 words.
    """
    best: tuple[tuple[int, bool, float], str, str] | None = None
    for sentence in sentences(clean_text(text)):
        words = _words(sentence.lower().replace("\u2019", "'"))
        if not 2 <= len(words) <= LONGEST:
            continue
        names_none, has_opinion = features.keys().isdisjoint(words), not OPINIONS.isdisjoint(words)
        if best is not None and best[0][0] > (0 if names_none else 1 + has_opinion):
            continue  # no sentence of its kind is better: most end here
        tier, score, feature = 0, float(len(words)), ""
        if not names_none:
            named = [i for i, word in enumerate(words) if word in features]
            opinions = [i for i, word in enumerate(words) if word in OPINIONS] if has_opinion else []
            tier, score = 1, -math.inf
            for i in named:
                gap = NEAR + 1  # or more
                for j in opinions:
                    gap = min(gap, abs(i - j))
                rank = (2 if gap <= NEAR else 1, features[words[i]] - 0.5 * gap)
                if rank > (tier, score):
                    (tier, score), feature = rank, words[i]
        good_length = MIN_WORDS <= len(words) <= MAX_WORDS
        key = (tier, good_length, score) if tier else (0, good_length, score if good_length else -score)
        if best is None or key > best[0]:
            best = key, sentence, feature
    return None if best is None else Explanation(*best[1:])
