"""A small T5-style vocabulary trained on a dataset's own texts, for models that start from no pretrained T5.

tokenizer = train_tokenizer(texts, vocab_size=2000)
"""

import string
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram
from tokenizers.trainers import BpeTrainer

from modeling_rdrec import RDRecTokenizer
from rdrec.errors import DatasetError


PAD, EOS, UNK = "<pad>", "</s>", "<unk>"  # ids 0, 1, 2, as in T5
MARKS = ["▁user_", "▁item_", "▁user", "▁item", "_", "▁"]
ITEM_MARK = "item_"
DIGITS = list(string.digits)
# Every run of one to three digits is a piece, so that ids are short: "▁item_" + "123", as a target "▁" + "123".
NUMBERS = [f"{n:0{width}d}" for width in (1, 2, 3) for n in range(10**width)]
ALPHABET = list(string.ascii_letters + string.punctuation)  # no spelling of an English word is ever unknown


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int = 2000,
    max_whole_words: int = 512,
    num_users: int = 0,
    num_items: int = 0,
) -> RDRecTokenizer:
    """Learn pieces from `texts` and make them a vocabulary of T5's kind.

    The pieces are those of byte-pair merges, which come out equal on every run (SentencePiece's own training in
    `tokenizers` does not). They are kept in T5's unigram format with one score for all, so a word is cut into the
    fewest pieces.

    Parameters
    ----------
    texts : iterable of str
        Explanations, rationales and prompt wordings. Digits in them are left to the fixed number pieces.
    vocab_size : int
        Pieces in all, numbers and specials included; fewer where the texts do not hold that many.
    max_whole_words : int
        Handed to the tokenizer.
    num_users, num_items : int
        Give users and items up to these ids a piece each: "▁user_12", and "▁34" for an item, which a prompt writes
        "▁item_" "▁34". A model from scratch learns a token's meaning far sooner than that of a string of digits.

    Raises
    ------
    DatasetError
        For a vocabulary too small to hold the fixed pieces.
    """
    fixed = [PAD, EOS, UNK, *MARKS, *(DIGITS if num_items else NUMBERS)]
    fixed += [f"▁user_{n}" for n in range(1, num_users + 1)]
    fixed += [f"▁{n}" for n in range(1, num_items + 1)]
    least = len(fixed) + len(ALPHABET)
    if vocab_size < least:
        raise DatasetError(f"vocab_size {vocab_size}: too small for the fixed pieces, give at least {least}")
    learned = Tokenizer(BPE(unk_token=UNK))
    learned.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\d+|_"), " ")])
    learned.pre_tokenizer = _splitting()
    trainer = BpeTrainer(vocab_size=vocab_size - len(fixed), initial_alphabet=ALPHABET, show_progress=False)
    learned.train_from_iterator(texts, trainer)
    by_rank = sorted(learned.get_vocab().items(), key=lambda pair: pair[1])

    pieces = dict.fromkeys(fixed + [piece for piece, _ in by_rank])
    backend = Tokenizer(Unigram([(piece, -1.0) for piece in pieces], unk_id=fixed.index(UNK), byte_fallback=False))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = _splitting(ITEM_MARK if num_items else None)
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    backend.post_processor = processors.TemplateProcessing(single=f"$A {EOS}", special_tokens=[(EOS, fixed.index(EOS))])
    return RDRecTokenizer(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        max_whole_words=max_whole_words,
    )


def _splitting(apart: str | None = None) -> pre_tokenizers.PreTokenizer:
    """T5's own: at white space, with "▁" before each word; what stands `apart` is a word of its own."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            *([pre_tokenizers.Split(apart, "isolated")] if apart else []),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True),
        ]
    )
