"""The Space: a page (`page/`) and the API behind it, over a model and its dataset.

    python space/app.py --model runs/sample --dataset data/sample     # prints the address
    python app.py              # beside a space.json, which names both; on the Hub it is started like this

Every answer of the page is an endpoint of Gradio's API, too:

    Client("http://127.0.0.1:7860").predict(["B004756YJA"], api_name="/recommend")
"""

import argparse
import os
import sys
from pathlib import Path


# Neither the page nor its server calls home; read when gradio is imported.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr  # noqa: E402
from fastapi.responses import FileResponse  # noqa: E402
from fastapi.staticfiles import StaticFiles  # noqa: E402

from answers import Recommender  # noqa: E402


HERE = Path(__file__).resolve().parent
# The page takes everything from its own host, and whatever a title holds, no browser runs it.
POLICY = "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'"


def space(recommender: Recommender) -> gr.Server:
    """The page and its API; `launch()` starts it."""
    server = gr.Server(title="RDRec", docs_url=None, redoc_url=None, openapi_url=None)

    @server.get("/")
    def page() -> FileResponse:
        return FileResponse(HERE / "page" / "index.html", headers={"Content-Security-Policy": POLICY})

    server.mount("/page", StaticFiles(directory=HERE / "page"))

    def about() -> dict:
        """What is shown here: the model, its dataset, how good it is, and example tastes to start from."""
        return recommender.about()

    def search(words: str, kind: str = "item", k: int = 8) -> dict:
        """Items by words of their title or by id, or users by id (kind "user"); for slips, what may be meant."""
        return told(recommender.search, words, kind, k)

    def recommend(history: list[str] | None = None, user: str | None = None, k: int = 8) -> dict:
        """The next items after a history (ids, oldest first), or after that of a user of the dataset, best first."""
        return told(recommender.recommend, history, user, k)

    def explain(items: list[str], history: list[str] | None = None, user: str | None = None) -> list:
        """What items offer, what this user or the owner of this history likes, and what these sentences rest on."""
        return told(recommender.explain, items, history, user)

    def without(item: str, history: list[str], user: str | None = None, k: int = 8) -> list:
        """Where a recommended item would stand without each item of the history in turn."""
        return told(recommender.without, item, history, user, k)

    for answer in (about, search):
        server.api(answer, name=answer.__name__, concurrency_limit=None)
    # One id: visitors take turns at the model.
    for answer in (recommend, explain, without):
        server.api(answer, name=answer.__name__, concurrency_id="model", concurrency_limit=1)
    return server


def told(answer, *given):
    """What the visitor can mend is a message on the page; all else stays a fault in the log."""
    try:
        return answer(*given)
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from error


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Show a model on a page of this machine.")
    parser.add_argument("--model", help="checkpoint: folder or repo id")
    parser.add_argument("--dataset", help="the dataset it was trained on: folder or repo id")
    parser.add_argument("--revision", help="branch, tag or commit of both, for repos")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    asked = parser.parse_args(argv)
    if (asked.model is None) != (asked.dataset is None):
        parser.error("--model and --dataset go together: give both, or neither beside a space.json")
    try:
        if asked.model is None:
            recommender = Recommender.load(HERE)
        else:
            names = {"model": asked.model, "dataset": asked.dataset}
            recommender = Recommender({kind: {"id": name, "revision": asked.revision} for kind, name in names.items()})
    except (OSError, ValueError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    space(recommender).launch(server_port=asked.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
