"""Sampling tokens: `*_decode` is a jitted loop, `*_sampler` batches requests on the host."""
