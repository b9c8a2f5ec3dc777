"""The web page of the server: Gradio tabs that talk to an OpenAI-compatible HTTP API."""
