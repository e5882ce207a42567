"""The embedded host shaped as a member of the Forge family: `--like forge`, `--like reforge`.

What an extension meets otherwise than in A1111, and nothing else:

- the checkpoint is an engine with `forge_objects`, no module, and has no `.model` (`engine`);
- the U-Net is called through a patcher, whose clones copy their options deeply, with the negative
  prompt's rows first, whole timesteps, and options that say which rows are which (`patcher`,
  `sampling`);
- linear layers of the U-Net may be of a class of the host (`layers`);
- no callback comes between the U-Net and guidance; without guidance there are no negative rows;
- the loop runs in inference mode, the hires pass may ask scripts twice, and has a guidance of its
  own that is 1 by default (`jobs`);
- a memory manager brings models to the device, and is told what else needs room (`memory`).

Left out is what no extension of ours asks for: patches of attention, control objects, LoRA, noise
of its own for inpainting, LCM.
"""
