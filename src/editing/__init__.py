"""Changing facts in a model: which edits, where in the weights, what moved, and taking them back."""
