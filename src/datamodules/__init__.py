"""Token shards or instruction files to packed batches, in an order that one integer resumes."""
