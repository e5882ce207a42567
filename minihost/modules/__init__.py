"""Modules of the embedded host, named as extensions written for the WebUI expect to import them."""
