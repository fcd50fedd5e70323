"""Distillation: a large language model reads each review and writes its rationale (stage one of RDRec).

settings.py   the flags of distill.py
prompts.py    versioned prompts; how a review becomes data that cannot break out of its place
endpoints.py  one server: what it takes, how many requests it gets at once, when it gets a pause
client.py     all servers of a run: requests, retries, refusals
responses.py  what one HTTP answer says: a completion, an error, the models there are
asking.py     all questions of a run: each answer goes into the journal, a run that cannot go on stops
journal.py    every answer on disk before it counts
thoughts.py   what a reasoning model thinks before it answers is cut away
parse.py      an answer becomes two halves and flags
second_look.py  what the policy asks again and what the judge says
run.py        all of it, and the Parquet file at the end
"""
