"""From annotated texts to training records, and scores while training."""
