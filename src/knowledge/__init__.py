"""Facts: triples with where they come from, a store that answers questions, and files other programs read."""
