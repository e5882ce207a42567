"""Pictures as pixels: reading, sizes, maps, regions, movies."""
