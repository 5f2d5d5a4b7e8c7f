"""Token ids of GPST's speech streams, and of text with units. The public import path."""

from data_pipeline.tokens.layout import *  # noqa: F403
