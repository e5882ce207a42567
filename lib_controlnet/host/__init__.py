"""The only code that imports a WebUI's modules."""
