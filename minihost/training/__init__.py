"""How the demo models were made: data, training and measurement, from nothing to files."""
