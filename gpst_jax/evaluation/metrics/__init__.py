"""One file per measured quantity, and the statistics that they share."""
