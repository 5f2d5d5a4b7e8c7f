"""Statistics of a dataset, and the page that shows them."""
