"""Distillation: a large language model reads each review and writes its rationale (stage one of RDRec).

settings.py   the flags of distill.py
prompts.py    versioned prompts; how a review becomes data that cannot break out of its place
client.py     the servers: requests, retries, guided decoding     limiter.py  how many requests at once
journal.py    every answer on disk before it counts
parse.py      an answer becomes two halves and flags
run.py        all of it, and the Parquet file at the end
"""
