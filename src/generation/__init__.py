"""Prompts to text: decoding presets, engines, files of prompts, cases and chat."""
