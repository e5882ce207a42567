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
    sd_vae,
    shared,
)
from modules.api import middleware, models
from modules.api.pictures import decode_base64_to_image, encode_pil_to_base64, verify_url
from modules.api.script_args import (
    apply_infotext,
    default_script_args,
    get_selectable_script,
    init_script_args,
    script_name_to_index,
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
        for method, name, endpoint, response in self._routes():
            self.add_api_route(
                f"/sdapi/v1/{name}", endpoint, methods=[method], response_model=response
            )

    def _routes(self) -> list[tuple[str, str, Any, Any]]:
        routes = [
            ("POST", "txt2img", self.text2imgapi, models.TextToImageResponse),
            ("POST", "img2img", self.img2imgapi, models.ImageToImageResponse),
            ("POST", "png-info", self.pnginfoapi, models.PNGInfoResponse),
            ("GET", "progress", self.progressapi, models.ProgressResponse),
            ("POST", "interrupt", self.interruptapi, None),
            ("POST", "skip", self.skip, None),
            ("GET", "options", self.get_config, models.OptionsModel),
            ("POST", "options", self.set_config, None),
            ("GET", "cmd-flags", self.get_cmd_flags, models.FlagsModel),
            ("GET", "samplers", self.get_samplers, list[models.SamplerItem]),
            ("GET", "schedulers", self.get_schedulers, list[models.SchedulerItem]),
            ("GET", "upscalers", self.get_upscalers, list[models.UpscalerItem]),
            (
                "GET", "latent-upscale-modes", self.get_latent_upscale_modes,
                list[models.LatentUpscalerModeItem],
            ),
            ("GET", "sd-models", self.get_sd_models, list[models.SDModelItem]),
            ("GET", "sd-vae", self.get_sd_vaes, list[models.SDVaeItem]),
            ("POST", "refresh-checkpoints", self.refresh_checkpoints, None),
            ("POST", "refresh-vae", self.refresh_vae, None),
            ("POST", "unload-checkpoint", self.unloadapi, None),
            ("POST", "reload-checkpoint", self.reloadapi, None),
            ("GET", "scripts", self.get_scripts_list, models.ScriptsList),
            ("GET", "script-info", self.get_script_info, list[models.ScriptInfo]),
            ("GET", "extensions", self.get_extensions_list, list[models.ExtensionItem]),
        ]  # fmt: skip
        if shared.cmd_opts.api_server_stop:
            routes.append(("POST", "server-stop", self.stop_webui, None))
            routes.append(("POST", "server-restart", self.restart_webui, None))
        return routes

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

    def get_script(self, script_name: str | None, script_runner: Any) -> Any:
        """The script with this title; None for an empty name, 422 for an unknown one."""
        if script_name is None or script_name == "":
            return None
        index = script_name_to_index(script_name, script_runner.scripts)
        return script_runner.scripts[index]

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
                shared.total_tqdm.clear()
        return processed

    def text2imgapi(
        self, txt2imgreq: models.StableDiffusionTxt2ImgProcessingAPI
    ) -> models.TextToImageResponse:
        """Generate from text."""
        mentioned = apply_infotext(txt2imgreq, "txt2img", scripts.scripts_txt2img)
        args = self._arguments(txt2imgreq)
        processed = self._generate(
            txt2imgreq, "txt2img", StableDiffusionProcessingTxt2Img, args, mentioned
        )
        return models.TextToImageResponse(
            images=_encoded(processed, txt2imgreq.send_images),
            parameters=vars(txt2imgreq),
            info=processed.js(),
        )

    def img2imgapi(
        self, img2imgreq: models.StableDiffusionImg2ImgProcessingAPI
    ) -> models.ImageToImageResponse:
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
        return models.ImageToImageResponse(
            images=_encoded(processed, img2imgreq.send_images),
            parameters=vars(img2imgreq),
            info=processed.js(),
        )

    def pnginfoapi(self, req: models.PNGInfoRequest) -> models.PNGInfoResponse:
        """Read the infotext of a picture."""
        from modules import script_callbacks

        image = decode_base64_to_image(req.image.strip())
        if image is None:
            return models.PNGInfoResponse(info="", items={}, parameters={})
        geninfo, items = images.read_info_from_image(image)
        geninfo = geninfo or ""
        params = infotext_utils.parse_generation_parameters(geninfo)
        script_callbacks.infotext_pasted_callback(geninfo, params)
        return models.PNGInfoResponse(info=geninfo, items=items, parameters=params)

    def progressapi(self, skip_current_image: bool = False) -> models.ProgressResponse:
        """How far the running job is."""
        state = shared.state
        if state.job_count == 0:
            return models.ProgressResponse(
                progress=0, eta_relative=0, state=state.dict(), textinfo=state.textinfo
            )
        # Never zero, so that the estimate is finite.
        done = min(0.01 + progress.job_progress(), 1.0)
        elapsed = time.time() - (state.time_start or time.time())
        state.set_current_image()
        image = None
        if state.current_image is not None and not skip_current_image:
            image = encode_pil_to_base64(state.current_image)
        return models.ProgressResponse(
            progress=done, eta_relative=elapsed / done - elapsed, state=state.dict(),
            current_image=image, textinfo=state.textinfo,
        )  # fmt: skip

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
        return {key: opts.data.get(key) for key in [*opts.data]}

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
        return [
            {
                "name": x.name,
                "model_name": getattr(x.scaler, "model_name", None),
                "model_path": x.data_path,
                "model_url": None,
                "scale": x.scale,
            }
            for x in shared.sd_upscalers
        ]

    def get_latent_upscale_modes(self) -> list[dict]:
        """The latent upscalers."""
        return [{"name": name} for name in shared.latent_upscale_modes]

    def get_sd_models(self) -> list[dict]:
        """The checkpoints."""
        return [
            {
                "title": x.title, "model_name": x.model_name, "hash": x.shorthash,
                "sha256": x.sha256, "filename": str(x.filename),
                "config": str(getattr(x, "config", None) or "") or None,
            }
            for x in sd_models.checkpoints_list.values()
        ]  # fmt: skip

    def get_sd_vaes(self) -> list[dict]:
        """The VAE files."""
        return [
            {"model_name": name, "filename": str(path)} for name, path in sd_vae.vae_dict.items()
        ]

    def refresh_checkpoints(self) -> None:
        """Look for checkpoints again."""
        with self.queue_lock:
            shared.refresh_checkpoints()

    def refresh_vae(self) -> None:
        """Look for VAE files again."""
        with self.queue_lock:
            sd_vae.refresh_vae_list()

    def get_scripts_list(self) -> models.ScriptsList:
        """Names of the scripts."""
        names = {
            kind: [x.name for x in getattr(scripts, f"scripts_{kind}").scripts if x.name]
            for kind in ("txt2img", "img2img")
        }
        return models.ScriptsList(**names)

    def get_script_info(self) -> list[models.ScriptInfo]:
        """The scripts with their arguments."""
        both = [*scripts.scripts_txt2img.scripts, *scripts.scripts_img2img.scripts]
        return [script.api_info for script in both if script.api_info is not None]

    def get_extensions_list(self) -> list[dict]:
        """The extensions."""
        names = ("name", "remote", "branch", "commit_hash", "version", "enabled")
        return [{n: getattr(x, n) for n in names} for x in extensions.extensions]

    def stop_webui(self) -> None:
        """End the server."""
        shared.state.server_command = "stop"

    def restart_webui(self) -> None:
        """Build page and application again."""
        shared.state.server_command = "restart"


def _encoded(processed: Any, wanted: bool | None) -> list:
    if not wanted:
        return []
    return [encode_pil_to_base64(image) for image in processed.images]


__all__ = ["Api", "decode_base64_to_image", "encode_pil_to_base64", "verify_url"]
