"""KnowLM-Lightning: raw text to a knowledgeable language model."""
