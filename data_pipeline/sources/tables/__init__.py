"""Tables of recordings: the columns that are understood, and readers that lose one row at most."""

from data_pipeline.sources.tables.columns import NAMES, canonical, normalized
from data_pipeline.sources.tables.table import FORMATS, Row, Table, read_table

__all__ = ["FORMATS", "NAMES", "Row", "Table", "canonical", "normalized", "read_table"]
