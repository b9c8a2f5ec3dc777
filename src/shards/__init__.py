"""Token shards on disk: the format, the manifest beside it, and one source read as a whole."""
