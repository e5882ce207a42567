"""Units kept under a name: what a preset's file says, and the folder that holds the files."""
