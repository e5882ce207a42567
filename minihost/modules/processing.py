"""Running a generation: the order of events that extensions rely on."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from modules import (
    devices,
    extra_networks,
    images,
    rng,
    scripts,
    sd_models,
    sd_samplers,
    sd_unet,
    shared,
)
from modules.paths_internal import data_path
from modules.processing_base import StableDiffusionProcessing, create_random_tensors  # noqa: F401
from modules.processing_images import (  # noqa: F401 (extensions take all of these from here)
    DecodedSamples,
    apply_overlay,
    create_binary_mask,
    decode_latent_batch,
    opt_C,
    opt_f,
    to_picture,
    uncrop,
)
from modules.processing_img2img import StableDiffusionProcessingImg2Img  # noqa: F401
from modules.processing_infotext import Processed, create_infotext, program_version  # noqa: F401
from modules.processing_txt2img import StableDiffusionProcessingTxt2Img  # noqa: F401
from modules.sd_hijack import model_hijack
from modules.sd_samplers_common import (  # noqa: F401
    decode_first_stage,
    images_tensor_to_samples,
    samples_to_images_tensor,
)
from modules.shared import opts, state
from PIL import Image

log = logging.getLogger(__name__)

MAX_SEED = 4294967294


def get_fixed_seed(seed: object) -> int:
    """The seed as a number; a random one for None, an empty text and -1."""
    if seed is None or seed == "":
        seed = -1
    try:
        number = int(seed)
    except (TypeError, ValueError):
        number = -1
    return random.randrange(MAX_SEED) if number == -1 else number


def fix_seed(p: StableDiffusionProcessing) -> None:
    """Replace random seeds by numbers, so that a job can be repeated."""
    p.seed = get_fixed_seed(p.seed)
    p.subseed = get_fixed_seed(p.subseed)


def process_images(p: StableDiffusionProcessing) -> Processed:
    """Generate; settings that the job overrides are put back afterwards if it says so."""
    if p.scripts is not None:
        p.scripts.before_process(p)
    stored = {
        key: opts.data[key] if key in opts.data else opts.get_default(key)
        for key in p.override_settings
        if key in opts.data or key in opts.data_labels
    }
    try:
        _apply_override_settings(p)
        sd_samplers.fix_p_invalid_sampler_and_scheduler(p)
        res = process_images_inner(p)
    finally:
        if p.override_settings_restore_afterwards:
            for key, value in stored.items():
                opts.set(key, value, is_api=True, run_callbacks=False)
    return res


def _apply_override_settings(p: StableDiffusionProcessing) -> None:
    wanted = p.override_settings.get("sd_model_checkpoint")
    if sd_models.checkpoint_aliases.get(wanted) is None:
        p.override_settings.pop("sd_model_checkpoint", None)
        sd_models.reload_model_weights()
    for key, value in p.override_settings.items():
        opts.set(key, value, is_api=True, run_callbacks=False)
        if key == "sd_model_checkpoint":
            sd_models.reload_model_weights()


def process_images_inner(p: StableDiffusionProcessing) -> Processed:
    """Generate with the settings as they are."""
    if isinstance(p.prompt, list) and not p.prompt:
        msg = "the list of prompts is empty; expected at least one prompt"
        raise ValueError(msg)
    devices.torch_gc()
    _setup_job(p)
    if p.scripts is not None:
        p.scripts.process(p)

    infotexts: list[str] = []
    output_images: list[Image.Image] = []
    with loop_context(p):
        with devices.autocast():
            p.init(p.all_prompts, p.all_seeds, p.all_subseeds)
            sd_unet.apply_unet()
        if state.job_count == -1:
            state.job_count = p.n_iter
        for n in range(p.n_iter):
            p.iteration = n
            if state.skipped:
                state.skipped = False
            if state.interrupted or state.stopping_generation:
                break
            if not _run_batch(p, n, output_images, infotexts):
                break
        if not infotexts:
            infotexts.append(Processed(p, []).infotext(p, 0))
        index_of_first_image = _add_grid(p, output_images, infotexts)
    devices.torch_gc()

    res = Processed(
        p,
        images_list=output_images,
        seed=p.all_seeds[0],
        info=infotexts[0],
        subseed=p.all_subseeds[0],
        index_of_first_image=index_of_first_image,
        infotexts=infotexts,
    )
    if p.scripts is not None:
        p.scripts.postprocess(p, res)
    return res


@contextmanager
def loop_context(p: StableDiffusionProcessing) -> Iterator[None]:
    """In which all batches are generated."""
    with torch.no_grad(), p.sd_model.ema_scope():
        yield


def _setup_job(p: StableDiffusionProcessing) -> None:
    """Seeds, prompts and everything else that is fixed before the scripts' `process`."""
    seed = get_fixed_seed(p.seed[0] if isinstance(p.seed, list) else p.seed)
    subseed = get_fixed_seed(p.subseed[0] if isinstance(p.subseed, list) else p.subseed)
    if p.refiner_checkpoint not in (None, "", "None", "none"):
        p.refiner_checkpoint_info = sd_models.get_closet_checkpoint_match(p.refiner_checkpoint)
        if p.refiner_checkpoint_info is None:
            msg = (
                f"refiner checkpoint '{p.refiner_checkpoint}' is not known; expected one of: "
                f"{', '.join(sd_models.checkpoint_tiles())}"
            )
            raise RuntimeError(msg)
    model = shared.sd_model
    p.sd_model_name = model.sd_checkpoint_info.name_for_extra
    p.sd_model_hash = model.sd_model_hash
    model_hijack.clear_comments()
    p.fill_fields_from_opts()
    p.setup_prompts()
    count = len(p.all_prompts)
    step = 1 if p.subseed_strength == 0 else 0
    p.all_seeds = p.seed if isinstance(p.seed, list) else [seed + i * step for i in range(count)]
    p.all_subseeds = (
        p.subseed if isinstance(p.subseed, list) else [subseed + i for i in range(count)]
    )


def _run_batch(
    p: StableDiffusionProcessing,
    n: int,
    output_images: list[Image.Image],
    infotexts: list[str],
) -> bool:
    """Batch number `n`; False when there is nothing left to do."""
    sd_models.reload_model_weights()  # the refiner or the hires pass may have changed it
    batch = slice(n * p.batch_size, (n + 1) * p.batch_size)
    p.prompts = p.all_prompts[batch]
    p.negative_prompts = p.all_negative_prompts[batch]
    p.seeds = p.all_seeds[batch]
    p.subseeds = p.all_subseeds[batch]
    p.rng = rng.ImageRNG(
        (opt_C, p.height // opt_f, p.width // opt_f),
        p.seeds,
        subseeds=p.subseeds,
        subseed_strength=p.subseed_strength,
    )
    _run_scripts(p, "before_process_batch", n)
    if len(p.prompts) == 0:
        return False
    p.parse_extra_network_prompts()
    extra_networks.activate(p, p.extra_network_data)
    _run_scripts(p, "process_batch", n)
    p.setup_conds()
    if n == 0:
        text = Processed(p, []).infotext(p, 0)
        Path(data_path).mkdir(parents=True, exist_ok=True)
        (Path(data_path) / "params.txt").write_text(text, encoding="utf8")
    for comment in model_hijack.comments:
        p.comment(comment)
    if p.n_iter > 1:
        state.job = f"Batch {n + 1} out of {p.n_iter}"
    sd_models.apply_alpha_schedule_override(p.sd_model, p)

    context = devices.without_autocast() if devices.unet_needs_upcast else devices.autocast()
    with context:
        samples = p.sample(
            conditioning=p.c,
            unconditional_conditioning=p.uc,
            seeds=p.seeds,
            subseeds=p.subseeds,
            subseed_strength=p.subseed_strength,
            prompts=p.prompts,
        )
    _finish_batch(p, n, samples, (output_images, infotexts))
    return True


def _run_scripts(p: StableDiffusionProcessing, hook: str, n: int) -> None:
    if p.scripts is not None:
        getattr(p.scripts, hook)(
            p, batch_number=n, prompts=p.prompts, seeds=p.seeds, subseeds=p.subseeds
        )


def _finish_batch(
    p: StableDiffusionProcessing,
    n: int,
    samples: object,
    results: tuple[list[Image.Image], list[str]],
) -> None:
    """Decode, run the scripts on the batch, then finish every picture."""
    if p.scripts is not None:
        args = scripts.PostSampleArgs(samples)
        p.scripts.post_sample(p, args)
        samples = args.samples
    if not getattr(samples, "already_decoded", False):
        devices.test_for_nans(samples, "unet")
        samples = decode_latent_batch(
            p.sd_model, samples, target_device=devices.cpu, check_for_nans=True
        )
    batch = torch.clamp((torch.stack(list(samples)).float() + 1.0) / 2.0, min=0.0, max=1.0)
    devices.torch_gc()
    state.nextjob()

    pictures = list(batch)
    if p.scripts is not None:
        p.scripts.postprocess_batch(p, batch, batch_number=n)
        chosen = slice(n * p.batch_size, (n + 1) * p.batch_size)
        p.prompts = p.all_prompts[chosen]
        p.negative_prompts = p.all_negative_prompts[chosen]
        args = scripts.PostprocessBatchListArgs(list(batch))
        p.scripts.postprocess_batch_list(p, args, batch_number=n)
        pictures = args.images
    for index, picture in enumerate(pictures):
        p.batch_index = index
        _finish_picture(p, index, to_picture(picture), results)


def _infotext(p: StableDiffusionProcessing, index: int = 0, use_main_prompt: bool = False) -> str:
    return create_infotext(
        p,
        p.prompts,
        p.seeds,
        p.subseeds,
        use_main_prompt=use_main_prompt,
        index=index,
        all_negative_prompts=p.negative_prompts,
    )


def _finish_picture(
    p: StableDiffusionProcessing,
    index: int,
    image: Image.Image,
    results: tuple[list[Image.Image], list[str]],
) -> None:
    """Scripts, colours, overlay, saving."""
    output_images, infotexts = results
    if p.scripts is not None:
        args = scripts.PostprocessImageArgs(image)
        p.scripts.postprocess_image(p, args)
        image = args.image
    mask_for_overlay = getattr(p, "mask_for_overlay", None)
    overlays = p.overlay_images
    overlay = overlays[index] if overlays is not None and index < len(overlays) else None
    if p.scripts is not None:
        args = scripts.PostProcessMaskOverlayArgs(index, mask_for_overlay, overlay)
        p.scripts.postprocess_maskoverlay(p, args)
        overlay = args.overlay_image
    image = apply_overlay(image, p.paste_to, overlay)
    if p.scripts is not None:
        args = scripts.PostprocessImageArgs(image)
        p.scripts.postprocess_image_after_composite(p, args)
        image = args.image

    _save(p, image, index)
    text = _infotext(p, index)
    infotexts.append(text)
    image.info["parameters"] = text
    output_images.append(image)


def _save(p: StableDiffusionProcessing, image: Image.Image, index: int) -> None:
    if not p.save_samples() or not p.outpath_samples:
        return
    images.save_image(
        image,
        p.outpath_samples,
        "",
        p.seeds[index],
        p.prompts[index],
        opts.samples_format,
        info=_infotext(p, index),
        p=p,
    )


def _add_grid(
    p: StableDiffusionProcessing, output_images: list[Image.Image], infotexts: list[str]
) -> int:
    """Make the grid if wanted; gives the index of the first single picture."""
    too_few = len(output_images) < 2 and opts.grid_only_if_multiple
    wanted = (opts.return_grid or opts.grid_save) and not p.do_not_save_grid
    if not wanted or too_few or not output_images:
        return 0
    grid = images.image_grid(output_images, p.batch_size)
    text = _infotext(p, use_main_prompt=True)
    if opts.grid_save and p.outpath_grids:
        images.save_image(
            grid,
            p.outpath_grids,
            "grid",
            p.all_seeds[0],
            p.all_prompts[0],
            opts.samples_format,
            info=text,
            short_filename=True,
            p=p,
        )
    if not opts.return_grid:
        return 0
    infotexts.insert(0, text)
    grid.info["parameters"] = text
    output_images.insert(0, grid)
    return 1
