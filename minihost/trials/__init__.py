"""What `python dev.py tried-on` does in a WebUI: the cases, and their run."""
