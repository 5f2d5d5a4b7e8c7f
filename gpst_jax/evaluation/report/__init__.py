"""Tables, plots and one HTML page of the results."""
