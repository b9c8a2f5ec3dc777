"""How much of what was found is right."""
