"""The studies at the published size, on a slice of a pod; pages in docs/studies/pods."""
