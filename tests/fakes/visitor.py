"""A visitor of the Space: starts what was pushed as the Hub does, and asks its page and its API.

    python -I tests/fakes/visitor.py FOLDER USER_RAW_ID

Prints what came back, as JSON on the last line, for `test_publishing.py`.
"""

import json
import re
import subprocess
import sys

import httpx2
from gradio_client import Client
from gradio_client.exceptions import AppError


def main(folder: str, user: str) -> dict:
    server = subprocess.Popen([sys.executable, "-u", "app.py"], cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        printed = ""
        for line in server.stdout:
            printed += line
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        else:
            raise SystemExit(f"the Space did not start: {printed}")
        url = found[0]
        made = {name: httpx2.get(f"{url}/{name}").text for name in ("", "page/page.js", "page/page.css")}
        client = Client(url, verbose=False)
        made["about"] = client.predict(api_name="/about")
        made["recommended"] = client.predict(user=user, k=4, api_name="/recommend")
        item = made["recommended"]["items"][0]["id"]
        # A session of its own: nothing needs to have been asked before.
        made["explained"] = Client(url, verbose=False).predict([item], user=user, api_name="/explain")
        try:
            client.predict(["<b>nothing</b>"], api_name="/recommend")
        except AppError as error:
            made["error"] = str(error)
    finally:
        server.terminate()
        server.wait()
    return made


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
