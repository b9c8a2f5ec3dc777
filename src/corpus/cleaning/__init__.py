"""Cleaning steps: what a text must be to stay in a corpus, and what is changed in it on the way.

Every step is a `src.corpus.steps.CleaningStep`; which run, in what order and with what thresholds is said for each
language in ``configs/cleaning/``.
"""
