"""GGUF, the file format of llama.cpp: written, quantised, compared with the source."""
