"""`python dev.py bench --webui-url URL`: what control costs in any WebUI, measured over HTTP.

It talks to A1111 with any ControlNet extension that has the common interface
(`alwayson_scripts.controlnet.args`). With two addresses both make the same pictures in turn, and
the tables have their ratios. Seconds per step are differences of two numbers of steps, so that what
a picture costs once falls out of them and has its own tables.
"""
