"""The prompts: how a training row of each task may be worded. The first is the bare prompt, which inference uses and
`modeling_rdrec/prompts.py` defines.

Each `{user}` and `{item}` is filled with `user_12` and `item_34`, `{items}` with items separated by spaces. To try
other words, change these tuples; every wording must keep the fields that the bare form of its task has.
"""

from modeling_rdrec.prompts import BARE


WORDINGS: dict[str, tuple[str, ...]] = {
    "explanation": (
        BARE["explanation"],
        "Tell why {user} bought {item}.",
        "What does {user} say about {item} ?",
        "{user} picked {item} . Give the reason in one sentence.",
        "Write the sentence with which {user} would justify {item}.",
        "Reason for the purchase of {item} by {user}:",
        "Speak for {user} and explain the choice of {item}.",
    ),
    "sequential": (
        BARE["sequential"],
        "{user} bought {items} in this order. What comes next?",
        "After {items} , which item will {user} buy?",
        "Shopping so far of {user} : {items} . Name the next item.",
        "Continue the list of {user} by one item: {items}",
        "Knowing that {user} owns {items} , predict the following purchase.",
        "Next item for {user} after {items} :",
    ),
    "topn": (
        BARE["topn"],
        "Which of {items} suits {user} best?",
        "Choose one item for {user} from {items} .",
        "Out of these, {user} will buy one: {items}",
        "Candidates for {user} : {items} . Name the best.",
        "Pick what {user} would like most among {items} .",
        "One of {items} belongs to {user} . Which one?",
    ),
    "user_preference": (
        BARE["user_preference"],
        "What is {user} looking for?",
        "Describe the taste of {user}.",
        "Preference of {user} :",
        "Say in a sentence what {user} cares about.",
        "What kind of product does {user} want?",
    ),
    "item_attributes": (
        BARE["item_attributes"],
        "What does {item} offer?",
        "Describe {item} in a sentence.",
        "Attributes of {item} :",
        "What is {item} like?",
        "Name the qualities of {item}.",
    ),
}
