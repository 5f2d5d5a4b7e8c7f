"""Token ids: the speech streams of GPST, and text with units. The public import path."""

from data_pipeline.tokens.layout import *  # noqa: F403
