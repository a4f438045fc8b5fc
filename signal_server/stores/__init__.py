"""Where the offers and the pairs are kept, and each decision is made in one atomic step."""
