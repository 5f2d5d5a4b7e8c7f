"""Measured numbers to tables, plots and one HTML page."""
