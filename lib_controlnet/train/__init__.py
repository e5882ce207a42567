"""Training of ControlNets (Zhang et al., arXiv:2302.05543): `python -m lib_controlnet.train`.

Runs from the extension's folder, without a WebUI. What training needs besides the WebUI's packages
(diffusers, transformers, accelerate) is imported where it is used; `packages.py` names what is
missing.
"""
