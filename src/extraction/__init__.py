"""Text to triples: parsing what a model wrote, and scores."""
