"""Making and selecting instruction data."""
