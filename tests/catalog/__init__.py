"""The catalogue, its prices, and models read from elsewhere."""
