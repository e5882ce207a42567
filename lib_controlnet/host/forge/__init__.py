"""How the members of the Forge family hold a checkpoint and sample it."""
