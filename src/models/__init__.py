"""The zoo: find, download, convert, load, merge and export language models and their tokenizers."""
