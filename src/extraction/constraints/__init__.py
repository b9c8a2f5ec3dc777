"""What a model may write: grammars of the answers, and how one that is cut is completed."""
