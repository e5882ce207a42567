"""Work on control model files from the command line: `python -m lib_controlnet.tools --help`.

`info`, `check`, `convert`, `extract`, `diff`, `transfer` and `to-lora`; see docs/tools.md. Tensors
pass through one at a time, so that the largest model needs no more memory than its largest layer.
"""
