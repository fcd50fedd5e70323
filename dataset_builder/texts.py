"""The texts of the reviews, kept on disk between the one reading of the file and the steps that need them.

    with TextFile() as texts:
        texts.add("The strap is wide.")    # of each review, in order
        texts.close()
        for part in texts.parts(mask):     # those of the reviews that the mask has
            count_words(part)              # in any process
            explain(part, features)

The file, an Arrow file in batches, is temporary: it lies where TMPDIR says, takes about half the room of the texts, and
goes when it is left. So memory does not grow with the texts, and an export of any kind is parsed once.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from .assemble import text_table
from .explanations import FeatureVocabulary, pick


BATCH_TEXTS, BATCH_CHARACTERS = 8192, 1 << 24  # of a batch: it is full when it has either
_SCHEMA = pa.schema([("text", pa.large_string())])


class Part(NamedTuple):
    """Some texts of a batch: the file, the batch's number, and their places in it as an int64 array."""

    path: str
    batch: int
    places: np.ndarray

    def texts(self) -> list[str]:
        """Read them."""
        with pa.OSFile(self.path) as stream:
            return pa.ipc.open_file(stream).get_batch(self.batch).column("text").take(self.places).to_pylist()


class TextFile:
    """Texts in the order in which they were added; the file goes with the `with` block."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="rdrec-texts-")
        self._path = str(Path(self._folder.name) / "texts.arrow")
        self._starts = [0]
        self._held: list[str] = []
        self._characters = 0
        self._writer = pa.ipc.new_file(self._path, _SCHEMA, options=pa.ipc.IpcWriteOptions(compression="lz4"))

    def __enter__(self) -> "TextFile":
        return self

    def __exit__(self, *raised: object) -> None:
        self._writer.close()
        self._folder.cleanup()

    def add(self, text: str) -> None:
        """Add the next review's text."""
        self._held.append(text)
        self._characters += len(text)
        if len(self._held) == BATCH_TEXTS or self._characters > BATCH_CHARACTERS:
            self._write()

    def close(self) -> None:
        """Write what is held back; from here on the file can be read."""
        if self._held:
            self._write()
        self._writer.close()

    def parts(self, wanted: np.ndarray) -> Iterator[tuple[int, Part]]:
        """Yield, of each batch, the number of its first text and those of its texts that the mask bool [n] has."""
        for batch, (start, end) in enumerate(zip(self._starts, self._starts[1:])):
            yield start, Part(self._path, batch, np.flatnonzero(wanted[start:end]))

    def _write(self) -> None:
        self._writer.write_batch(pa.record_batch([pa.array(self._held, pa.large_string())], schema=_SCHEMA))
        self._starts.append(self._starts[-1] + len(self._held))
        self._held, self._characters = [], 0


def count_words(part: Part) -> FeatureVocabulary:
    """Count the words of texts."""
    vocabulary = FeatureVocabulary()
    vocabulary.add([text for text in part.texts() if text])
    return vocabulary


def explain(part: Part, features: Mapping[str, float]) -> tuple[np.ndarray, pa.Table, Counter[str]]:
    """Choose the explanations of texts.

    Returns
    -------
    places : int64 array of shape [n]
        Places in the batch of the texts that have an explanation.
    table : pa.Table of n rows
        Of `TEXT_SCHEMA`: the explanations and their features.
    counts : Counter
        `without_text`, `no_usable_sentence` and `explanation_without_feature`.
    """
    places: list[int] = []
    rows: list[dict[str, str]] = []
    counts: Counter[str] = Counter()
    for place, text in zip(part.places.tolist(), part.texts()):
        explanation = pick(text, features)
        if explanation is None:
            counts["no_usable_sentence" if text else "without_text"] += 1
            continue
        counts["explanation_without_feature"] += not explanation.feature
        places.append(place)
        rows.append({"explanation": explanation.text, "feature": explanation.feature})
    return np.array(places, dtype=np.int64), text_table(rows), counts
