"""The routes `/sdapi/v1/*`."""

from __future__ import annotations

import secrets
import time
from contextlib import closing
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.exceptions import HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from modules import (
    extensions,
    images,
    infotext_utils,
    progress,
    scripts,
    sd_models,
    sd_samplers,
    sd_schedulers,
    shared,
)
from modules.api import middleware, models
from modules.api.pictures import decode_base64_to_image, encode_pil_to_base64, verify_url
from modules.api.script_args import (
    apply_infotext,
    default_script_args,
    get_selectable_script,
    init_script_args,
)
from modules.processing import (
    StableDiffusionProcessingImg2Img,
    StableDiffusionProcessingTxt2Img,
    process_images,
)
from modules.shared import opts

_NOT_FOR_PROCESSING = (
    "script_name", "script_args", "alwayson_scripts", "infotext", "send_images", "save_images",
    "force_task_id", "sampler_index", "include_init_images",
)  # fmt: skip


def validate_sampler_name(name: str) -> str:
    """The name itself, or 400 if there is no such sampler."""
    if sd_samplers.all_samplers_map.get(name) is None:
        raise HTTPException(status_code=400, detail="Sampler not found")
    return name


class Api:
    """Adds the routes to an application; with `--api-auth` each asks for a password."""

    def __init__(self, app: FastAPI, queue_lock: Any) -> None:
        self.credentials: dict[str, str] = {}
        for pair in (shared.cmd_opts.api_auth or "").split(","):
            if pair:
                user, password = pair.split(":")
                self.credentials[user] = password
        self.router = APIRouter()
        self.app = app
        self.queue_lock = queue_lock
        middleware.api_middleware(app)
        self._add_routes()
        if not scripts.scripts_txt2img.scripts:
            from modules import ui

            ui.create_ui()
        self.default_script_arg_txt2img = default_script_args(scripts.scripts_txt2img)
        self.default_script_arg_img2img = default_script_args(scripts.scripts_img2img)

    def _add_routes(self) -> None:
        posts = {
            "txt2img": self.text2imgapi, "img2img": self.img2imgapi, "png-info": self.pnginfoapi,
            "interrupt": self.interruptapi, "skip": self.skip, "options": self.set_config,
            "refresh-checkpoints": self.refresh_checkpoints,
            "unload-checkpoint": self.unloadapi, "reload-checkpoint": self.reloadapi,
        }  # fmt: skip
        gets = {
            "progress": self.progressapi, "options": self.get_config,
            "cmd-flags": self.get_cmd_flags, "samplers": self.get_samplers,
            "schedulers": self.get_schedulers, "upscalers": self.get_upscalers,
            "latent-upscale-modes": self.get_latent_upscale_modes,
            "sd-models": self.get_sd_models, "scripts": self.get_scripts_list,
            "script-info": self.get_script_info, "extensions": self.get_extensions_list,
        }  # fmt: skip
        for method, routes in (("POST", posts), ("GET", gets)):
            for name, endpoint in routes.items():
                self.add_api_route(f"/sdapi/v1/{name}", endpoint, methods=[method])

    def add_api_route(self, path: str, endpoint: Any, **kwargs: Any) -> None:
        """Add a route, guarded by `--api-auth` if that is given."""
        if self.credentials:
            kwargs["dependencies"] = [Depends(self.auth)]
        self.app.add_api_route(path, endpoint, **kwargs)

    def auth(self, credentials: HTTPBasicCredentials = Depends(HTTPBasic())) -> bool:  # noqa: B008
        """Accept the passwords of `--api-auth`; 401 otherwise."""
        expected = self.credentials.get(credentials.username)
        if expected is not None and secrets.compare_digest(
            credentials.password.encode(), expected.encode()
        ):
            return True
        raise HTTPException(
            status_code=401,
            detail="Incorrect username or password",
            headers={"WWW-Authenticate": "Basic"},
        )

    def _arguments(self, request: Any) -> dict[str, Any]:
        sampler, scheduler = sd_samplers.get_sampler_and_scheduler(
            request.sampler_name or request.sampler_index, request.scheduler
        )
        args = dict(vars(request))
        args |= {
            "sampler_name": validate_sampler_name(sampler),
            "do_not_save_samples": not request.save_images,
            "do_not_save_grid": not request.save_images,
        }
        if not args["scheduler"] and scheduler != "Automatic":
            args["scheduler"] = scheduler
        for name in _NOT_FOR_PROCESSING:
            args.pop(name, None)
        return args

    def _generate(
        self,
        request: Any,
        kind: str,
        processing: type,
        args: dict[str, Any],
        mentioned: dict[int, Any],
        init_images: list | None = None,
    ) -> Any:
        task_id = request.force_task_id or progress.create_task_id(kind)
        runner = getattr(scripts, f"scripts_{kind}")
        script, index = get_selectable_script(request.script_name, runner)
        defaults = getattr(self, f"default_script_arg_{kind}")
        script_args = init_script_args(
            request, defaults, script, index, runner, input_script_args=mentioned
        )
        progress.add_task_to_queue(task_id)
        with self.queue_lock, closing(processing(sd_model=shared.sd_model, **args)) as p:
            if init_images is not None:
                p.init_images = [decode_base64_to_image(x) for x in init_images]
            p.is_api = True
            p.scripts = runner
            p.outpath_grids = getattr(opts, f"outdir_{kind}_grids")
            p.outpath_samples = getattr(opts, f"outdir_{kind}_samples")
            try:
                shared.state.begin(job=f"scripts_{kind}")
                progress.start_task(task_id)
                if script is not None:
                    p.script_args = script_args
                    processed = runner.run(p, *p.script_args)
                else:
                    p.script_args = tuple(script_args)
                    processed = process_images(p)
                progress.finish_task(task_id)
            finally:
                shared.state.end()
        return processed

    def text2imgapi(self, txt2imgreq: models.StableDiffusionTxt2ImgProcessingAPI) -> dict[str, Any]:
        """Generate from text."""
        mentioned = apply_infotext(txt2imgreq, "txt2img", scripts.scripts_txt2img)
        args = self._arguments(txt2imgreq)
        processed = self._generate(
            txt2imgreq, "txt2img", StableDiffusionProcessingTxt2Img, args, mentioned
        )
        return _answer(processed, txt2imgreq)

    def img2imgapi(self, img2imgreq: models.StableDiffusionImg2ImgProcessingAPI) -> dict[str, Any]:
        """Generate from a picture."""
        init_images = img2imgreq.init_images
        if init_images is None:
            raise HTTPException(status_code=404, detail="Init image not found")
        mentioned = apply_infotext(img2imgreq, "img2img", scripts.scripts_img2img)
        args = self._arguments(img2imgreq)
        args.pop("init_images", None)
        mask = img2imgreq.mask
        args["mask"] = decode_base64_to_image(mask) if mask else None
        processed = self._generate(
            img2imgreq, "img2img", StableDiffusionProcessingImg2Img, args, mentioned, init_images
        )
        if not img2imgreq.include_init_images:
            img2imgreq.init_images = None
            img2imgreq.mask = None
        return _answer(processed, img2imgreq)

    def pnginfoapi(self, req: dict[str, str]) -> dict[str, Any]:
        """Read the infotext of a picture."""
        from modules import script_callbacks

        image = decode_base64_to_image(req["image"].strip())
        geninfo, items = images.read_info_from_image(image)
        geninfo = geninfo or ""
        params = infotext_utils.parse_generation_parameters(geninfo)
        script_callbacks.infotext_pasted_callback(geninfo, params)
        return {"info": geninfo, "items": items, "parameters": params}

    def progressapi(self, skip_current_image: bool = False) -> dict[str, Any]:
        """How far the running job is."""
        state, image, done, left = shared.state, None, 0.0, 0.0
        if state.job_count != 0:
            # Never zero, so that the estimate is finite.
            done = min(0.01 + progress.job_progress(), 1.0)
            elapsed = time.time() - (state.time_start or time.time())
            left = elapsed / done - elapsed
            state.set_current_image()
            if state.current_image is not None and not skip_current_image:
                image = encode_pil_to_base64(state.current_image)
        return {
            "progress": done, "eta_relative": left, "state": state.dict(),
            "current_image": image, "textinfo": state.textinfo,
        }  # fmt: skip

    def interruptapi(self) -> dict:
        """Stop the running job."""
        shared.state.interrupt()
        return {}

    def skip(self) -> None:
        """Leave the running batch."""
        shared.state.skip()

    def unloadapi(self) -> dict:
        """Forget the loaded checkpoint."""
        sd_models.unload_model_weights()
        return {}

    def reloadapi(self) -> dict:
        """Load the checkpoint again."""
        sd_models.send_model_to_device(shared.sd_model)
        return {}

    def get_config(self) -> dict[str, Any]:
        """Values of the settings."""
        return dict(opts.data)

    def set_config(self, req: dict[str, Any]) -> None:
        """Change settings and save them."""
        name = req.get("sd_model_checkpoint")
        if name is not None and name not in sd_models.checkpoint_aliases:
            msg = f"model {name!r} not found"
            raise RuntimeError(msg)
        for key, value in req.items():
            opts.set(key, value, is_api=True)
        opts.save(shared.config_filename)

    def get_cmd_flags(self) -> dict[str, Any]:
        """Values of the command line."""
        return vars(shared.cmd_opts)

    def get_samplers(self) -> list[dict]:
        """The samplers."""
        return [
            {"name": x.name, "aliases": x.aliases, "options": x.options}
            for x in sd_samplers.all_samplers
        ]

    def get_schedulers(self) -> list[dict]:
        """The schedules."""
        names = ("name", "label", "aliases", "default_rho", "need_inner_model")
        return [{n: getattr(x, n) for n in names} for x in sd_schedulers.schedulers]

    def get_upscalers(self) -> list[dict]:
        """The picture upscalers."""
        none = dict.fromkeys(("model_name", "model_path", "model_url"))
        return [{"name": x.name, **none, "scale": x.scale} for x in shared.sd_upscalers]

    def get_latent_upscale_modes(self) -> list[dict]:
        """The latent upscalers."""
        return [{"name": name} for name in shared.latent_upscale_modes]

    def get_sd_models(self) -> list[dict]:
        """The checkpoints."""
        return [
            {
                "title": x.title, "model_name": x.model_name, "hash": x.shorthash,
                "sha256": x.sha256, "filename": str(x.filename),
                "config": None,
            }
            for x in sd_models.checkpoints_list.values()
        ]  # fmt: skip

    def refresh_checkpoints(self) -> None:
        """Look for checkpoints again."""
        with self.queue_lock:
            shared.refresh_checkpoints()

    def get_scripts_list(self) -> dict[str, list[str]]:
        """Names of the scripts."""
        return {
            kind: [x.name for x in getattr(scripts, f"scripts_{kind}").scripts if x.name]
            for kind in ("txt2img", "img2img")
        }

    def get_script_info(self) -> list[models.ScriptInfo]:
        """The scripts with their arguments."""
        both = [*scripts.scripts_txt2img.scripts, *scripts.scripts_img2img.scripts]
        return [script.api_info for script in both if script.api_info is not None]

    def get_extensions_list(self) -> list[dict]:
        """The extensions."""
        return [{"name": x.name, "enabled": x.enabled} for x in extensions.extensions]


def _answer(processed: Any, request: Any) -> dict[str, Any]:
    pictures = processed.images if request.send_images else []
    encoded = [encode_pil_to_base64(image) for image in pictures]
    return {"images": encoded, "parameters": vars(request), "info": processed.js()}


__all__ = ["Api", "decode_base64_to_image", "encode_pil_to_base64", "verify_url"]
