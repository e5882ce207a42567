"""The panel "ControlNet" in the txt2img and img2img tabs (gradio only here)."""
