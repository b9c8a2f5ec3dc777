"""HTTP API over any engine: OpenAI's routes and KnowLM's, with keys, limits, metrics and a web page."""
