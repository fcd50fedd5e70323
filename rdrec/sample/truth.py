"""Whether explanations of the sample are true: what they claim against what was planted.

    planted_truth(world_from_info(info), ["ASAMPLEUSR0027"], ["B0SAMPL101"], ["A sturdy teapot."])
    # {"names_item": 100.0, "names_user": 0.0, "names_both": 0.0, "untrue": 0.0}

A sentence claims what its words name: traits (their adjective, or words of praise, complaint or liking), hobbies and
products of the shop.
"""

from collections.abc import Sequence

import numpy as np

from .world import HOBBIES, TRAITS, World, product_of


_HOBBIES = [name.lower() for name in HOBBIES]
_PRODUCTS = sorted({product for products in HOBBIES.values() for product in products})


def planted_truth(
    world: World, users: Sequence[str], items: Sequence[str], sentences: Sequence[str]
) -> dict[str, float]:
    """Shares of sentences, in percent.

    Parameters
    ----------
    users, items : sequence of str
        Raw ids of whom and what each sentence is about.

    Returns
    -------
    dict
        `names_item`: it names a trait that the item has, its hobby or its product. `names_user`: a trait that the user
        likes or dislikes, or a favourite hobby. `names_both`: both. `untrue`: it names a trait, hobby or product that
        the item has not.

    Raises
    ------
    DatasetError
        An id that is not of this world.
    """
    found = np.array([_claims(world, *one) for one in zip(users, items, sentences, strict=True)], dtype=bool)
    of_item, of_user, untrue = found.reshape(-1, 3).T
    shares = {"names_item": of_item, "names_user": of_user, "names_both": of_item & of_user, "untrue": untrue}
    return {name: 100.0 * float(hits.mean()) if len(hits) else 0.0 for name, hits in shares.items()}


def _claims(world: World, user_raw: str, item_raw: str, sentence: str) -> tuple[bool, bool, bool]:
    """Whether a sentence names what is true of the item, what is true of the user, and what is not true of the item."""
    user, item, text = world.user_number(user_raw), world.item_number(item_raw), sentence.lower()
    traits = np.array([any(words in text for words in said) for said in _TRAIT_WORDS])
    hobbies = np.array([name in text for name in _HOBBIES])
    products = {product for product in _PRODUCTS if product in text}
    has, hobby = world.traits[item] > 0, world.hobby[item]
    own = {product_of(hobby, world.place[item])}
    of_item = (traits & has).any() or hobbies[hobby] or bool(products & own)
    of_user = (traits & (world.trait_taste[user] != 0)).any() or (hobbies & (world.hobby_taste[user] > 0)).any()
    untrue = (traits & ~has).any() or (hobbies & (np.arange(len(hobbies)) != hobby)).any() or bool(products - own)
    return bool(of_item), bool(of_user), bool(untrue)


_TRAIT_WORDS = [
    tuple(words.lower() for words in (trait.adjective, trait.liking, *trait.praise, *trait.complaint))
    for trait in TRAITS
]
