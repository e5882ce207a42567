"""From what was asked to what will run: pictures, maps and models of units."""
