"""Everything that knows the WebUI: the only place besides `scripts/` that imports `modules`."""
