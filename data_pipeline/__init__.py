"""Host side: recordings to tokens, shards and packed batches. No module here imports jax."""
