"""How frames are drawn in each codebook pattern, see `gpst_jax.models.patterns`."""
