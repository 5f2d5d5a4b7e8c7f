"""The on-disk contract: what `dataset.json` states, length indices, and records.

Fields of `dataset.json`: `token_dataset` (speech tokens), `sequence_dataset` (text with units),
both over `dataset_json`; fields of a record: `token_records` and `sequence_records`.
"""
