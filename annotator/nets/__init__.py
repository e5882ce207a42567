"""Networks of the preprocessors: plain modules with the key names of the published files.

Imported by the preprocessors only when they run, because they import torch.
"""
