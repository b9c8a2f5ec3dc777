"""Raw text to token shards, offline: read, cut into sentences and segments, tokenize, write."""
