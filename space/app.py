"""The Space's page: pick a user or edit the history, see recommendations, choose one and read why.

python app.py        # beside answers.py and space.json; on the Hub it is started like this
"""

import functools
import html

import gradio as gr

from answers import Recommender


MOST_ITEMS = 50
# A browser holds so many choices without a delay; every other user can be typed.
LISTED_USERS = 1000
HEADERS = ["rank", "item", "title", "score"]


def told(answer):
    """What the visitor can mend is a message on the page; all else stays a fault in the log."""

    @functools.wraps(answer)
    def wrapped(*inputs):
        try:
            return answer(*inputs)
        except ValueError as error:
            # The page takes the message for HTML, and it may hold a title or what the visitor typed.
            raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from error

    return wrapped


def interface(recommender: Recommender) -> gr.Blocks:
    """The page over a recommender."""

    def choices(recommended=()):
        return gr.Dropdown(choices=[(f"{row.item}: {row.title}", row.item) for row in recommended], value=None)

    @told
    def pick(user):
        return recommender.history(user), [], choices(), ""

    @told
    def recommend(user, history, k):
        found = recommender.recommend(user, history, int(k))
        rows = [[rank, row.item, row.title, round(row.score, 3)] for rank, row in enumerate(found, 1)]
        return rows, choices(found), ""

    @told
    def explain(user, item):
        return recommender.explain(user, item) if item else ""

    first = recommender.users[0]
    reads_users = recommender.pipeline.model.config.history == "encoder"
    unnamed = "" if reads_users else "; none at all for a history of your own"
    with gr.Blocks(title="RDRec") as page:
        gr.Markdown("# RDRec\nThe next items for a user, from the whole catalog, and a sentence on each.")
        with gr.Row():
            with gr.Column():
                user = gr.Dropdown(
                    recommender.users[:LISTED_USERS],
                    value=first,
                    allow_custom_value=True,
                    label="User",
                    info=f"{len(recommender.users):,} users; type to search, or any user's id" + unnamed,
                )
                history = gr.Textbox(
                    recommender.history(first),
                    lines=8,
                    label="History",
                    info="One item a line, oldest first: an id, or words of a title. It is read as this user's.",
                )
                k = gr.Slider(1, min(MOST_ITEMS, len(recommender.items)), value=10, step=1, label="Recommendations")
                ask = gr.Button("Recommend", variant="primary")
            with gr.Column():
                table = gr.Dataframe(
                    headers=HEADERS,
                    datatype=["number", "str", "str", "number"],
                    type="array",
                    column_widths=["12%", "24%", "46%", "18%"],
                    interactive=False,
                    wrap=True,
                    label="Best first; the score is the log-likelihood of the item's id",
                )
                item = gr.Dropdown([], label="Why this one?", interactive=True)
                reason = gr.Textbox(label="Explanation, as this user might write it", interactive=False)
        # One id: visitors take turns at the model, whose tokenizer serves one thread at a time.
        turn = {"concurrency_id": "model", "concurrency_limit": 1}
        user.change(pick, user, [history, table, item, reason], api_name="pick", show_progress="hidden")
        ask.click(
            recommend, [user, history, k], [table, item, reason], api_name="recommend", show_progress_on=table, **turn
        )
        item.input(explain, [user, item], reason, api_name="explain", **turn)
    return page


if __name__ == "__main__":
    interface(Recommender.load(".")).launch()
