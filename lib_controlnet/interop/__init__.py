"""All that other extensions import, and the paths by which they do."""
