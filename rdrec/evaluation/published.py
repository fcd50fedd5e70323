"""Ranking as the paper's code does it, for the `published` protocol: beams over the whole vocabulary.

    ranked = rank_published(model, tokenizer, "sequential", texts, allowed)

Beams may write anything; those that are no item, or no item that is allowed, are dropped, so fewer items come back than
were asked for. They are compared by mean log-probability a token.
"""

from collections.abc import Callable, Sequence

import torch

from modeling_rdrec.configuration_rdrec import TASKS
from modeling_rdrec.generation_rdrec import ITEM_BEAMS
from modeling_rdrec.search import RankedItems


# Of its 20 beams the paper's code looks at so many, and lets them run that far.
RETURNED = {"sequential": 15, "topn": 10}
MAX_NEW_TOKENS = 50


def rank_published(
    model,
    tokenizer,
    task: str,
    texts: Sequence[str],
    allowed: Sequence[Callable[[int], bool]],
    num_beams: int = ITEM_BEAMS,
) -> list[RankedItems]:
    """Beams for each prompt, read as internal item ids.

    Parameters
    ----------
    task : str
        "sequential" or "topn".
    texts : sequence of str
        Prompts.
    allowed : sequence of callables
        For each prompt, whether an item id may be answered.
    num_beams : int

    Returns
    -------
    list of RankedItems
        Items each once, best first, and their mean log-probabilities.
    """
    returned = min(RETURNED[task], num_beams)
    batch = tokenizer(list(texts), padding=True, return_tensors="pt").to(model.device)
    batch["task_ids"] = torch.full((len(texts),), TASKS.index(task), device=model.device)
    output = model.generate(
        **batch,
        num_beams=num_beams,
        num_return_sequences=returned,
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
        early_stopping=True,
        length_penalty=1.0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    answers = tokenizer.batch_decode(output.sequences, skip_special_tokens=True)
    scores = output.sequences_scores.tolist()
    ranked = []
    for row, admits in enumerate(allowed):
        found: dict[int, float] = {}
        for place in range(row * returned, (row + 1) * returned):
            answer = answers[place].strip()
            # "012" is no item id, although int() would take it.
            if answer.isascii() and answer.isdigit() and answer[0] != "0" and admits(int(answer)):
                found.setdefault(int(answer), scores[place])
        ranked.append(RankedItems(list(found), list(found.values())))
    return ranked
