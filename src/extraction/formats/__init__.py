"""How questions are put to a model and how its answers are read."""
