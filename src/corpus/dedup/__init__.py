"""Duplicates in a corpus: equal documents, near-duplicates by MinHash-LSH, and lines that come back."""
