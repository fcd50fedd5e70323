"""A visitor of the Space: opens its page, with nothing at hand but the Space's files and the Hub.

    python -I tests/fakes/visitor.py FOLDER USER_RAW_ID

Prints what the page answers, as JSON on the last line, for `test_space.py`.
"""

import json
import sys

from gradio_client import Client
from gradio_client.exceptions import AppError


def main(folder: str, user: str) -> dict:
    sys.path.insert(0, folder)  # as for `python app.py`
    from app import interface

    from answers import Recommender

    page = interface(Recommender.load(folder))
    page.launch(prevent_thread_lock=True, quiet=True)
    client = Client(page.local_url, verbose=False)
    # The page's list may not hold everybody: the id is typed.
    history, *_ = client.predict(user, api_name="/pick")
    table, choices, reason = client.predict(user, history, 4, api_name="/recommend")
    made = {"history": history, "table": table, "choices": choices, "reason": reason}
    made["explanation"] = client.predict(user, table["data"][0][1], api_name="/explain")
    try:
        client.predict(user, "<b>nothing</b>", 4, api_name="/recommend")
    except AppError as error:
        made["error"] = str(error)
    page.close()
    return made


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
