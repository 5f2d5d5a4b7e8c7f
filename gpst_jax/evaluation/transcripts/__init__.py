"""What is recognised in speech: recognisers, rules of normalisation, and error counts."""
