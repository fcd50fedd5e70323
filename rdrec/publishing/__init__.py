"""Pushing to the Hub: what is asked for (`settings.py`), what goes into each repo (`contents.py`), its card
(`cards.py`), the push of one repo (`hub.py`), the check of what arrived (`verify.py`), all of it together (`push.py`).
"""
