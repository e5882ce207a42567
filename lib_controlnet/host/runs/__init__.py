"""Several pictures for one press: batches, animations, movies and grids."""
