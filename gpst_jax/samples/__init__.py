"""Generated samples: evaluation items in, audio and manifests out, which evaluation reads."""
