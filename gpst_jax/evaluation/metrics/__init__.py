"""One file per measured quantity, registered in `METRICS` of `registry`; what they share in `base`.

A new metric is a file here with a subclass of `base.Metric`, and its entry in `registry.METRICS`.
"""
