"""What other extensions reach into while a generation runs: a thin view over the session.

Tiled Diffusion and AnimateDiff read `script.latest_network.control_params[i].hint_cond` and assign
another tensor to it before a U-Net call. The view holds no state of the engine: reading computes
from the prepared unit, assigning goes to the control that is bound in the present pass.
"""

from __future__ import annotations

import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor

from lib_controlnet.detect import listing
from lib_controlnet.enums import LATENT_SCALE, BatchOption, ControlMode
from lib_controlnet.errors import HostError
from lib_controlnet.host import request
from lib_controlnet.host.members import find_model, member_of
from lib_controlnet.host.runtime import runtime
from lib_controlnet.host.sessions import session_of
from lib_controlnet.interop.unit import to_unit
from lib_controlnet.interop.values import ControlModelType
from lib_controlnet.pictures.maps import Size
from lib_controlnet.pictures.placement import MASKED, PassGeometry
from lib_controlnet.prepare import crop
from lib_controlnet.units.unit import FIELDS

if TYPE_CHECKING:
    from PIL import Image

    from lib_controlnet.engine.prepared import PreparedUnit
    from lib_controlnet.engine.residency import Residency
    from lib_controlnet.engine.session import ControlSession

VIEW_ATTRIBUTE: Final = "controlnet_view"
HINT_AXES: Final = (3, 4)


class ControlParams:
    """One unit that is steered by a control image, seen from outside.

    Further attributes may be put on it. The hints are those of the first pass (`hint_cond`) and
    of the hires pass (`hr_hint_cond`): float32 (1, 3, H, W) in pixels, -1 where masked, or
    (2n, 3, H, W) of an animation's n frames, for its cond rows and again for its uncond rows. What
    is assigned acts from the next U-Net call on: one hint, one for each row of the call, or one for
    each picture. None, or the tensor that was there at first, restores the unit's own.
    """

    def __init__(self, view: LatestNetwork, prepared: PreparedUnit) -> None:
        self._view = view
        self._prepared = prepared
        self._own: dict[bool, Tensor] = {}
        self._given: dict[bool, Tensor] = {}

    @property
    def hint_cond(self) -> Tensor:
        """The first pass's hint."""
        found = self._read(is_hires=False)
        assert found is not None
        return found

    @hint_cond.setter
    def hint_cond(self, hint: Tensor | None) -> None:
        self._assign(hint, is_hires=False)

    @property
    def hr_hint_cond(self) -> Tensor | None:
        """The hires pass's hint; None without one, or while its size is not known."""
        return self._read(is_hires=True)

    @hr_hint_cond.setter
    def hr_hint_cond(self, hint: Tensor | None) -> None:
        if hint is not None or self._view.has_hires:
            self._assign(hint, is_hires=True)

    def _read(self, is_hires: bool) -> Tensor | None:
        given = self._given.get(is_hires)
        if given is not None:
            return given
        if is_hires not in self._own:
            geometry = self._view.geometry(is_hires)
            if geometry is None:
                return None
            placed = self._prepared.look_at(geometry)
            self._own[is_hires] = _for_rows(placed.hint(MASKED)[0])
        return self._own[is_hires]

    def _assign(self, hint: Tensor | None, is_hires: bool) -> None:
        own = self._own.get(is_hires)
        if hint is None or hint is own:
            self._given.pop(is_hires, None)
            hint = self._read(is_hires)
        elif not isinstance(hint, Tensor) or hint.dim() not in HINT_AXES:
            shape = tuple(getattr(hint, "shape", ()))
            msg = (
                f"{self._prepared.unit.name}: hint_cond was set to {type(hint).__name__} {shape} "
                "by another extension, must be a tensor (n, 3, H, W)"
            )
            raise HostError(msg)
        else:
            self._given[is_hires] = hint
        control = self._control
        if hint is not None and hasattr(control, "hint") and self._view.bound_pass is is_hires:
            control.replace_hint(hint)

    def follow(self, is_hires: bool) -> None:
        """The unit was bound to a pass: what was assigned before holds for it too."""
        control = self._control
        if not hasattr(control, "hint"):
            return
        given, own = self._given.get(is_hires), self._own.get(is_hires)
        if given is not None:
            control.replace_hint(given)
            return
        hint = _for_rows(control.hint)
        if own is None or own.shape != hint.shape:
            self._own[is_hires] = hint

    @property
    def used_hint_cond(self) -> Tensor | None:
        """The hint that acts in the present pass."""
        control = self._control
        return getattr(control, "hint", None)

    @property
    def _control(self) -> Any:
        """The unit's control in the present pass."""
        session = self._view.session
        bound = None if session is None else session.find_bound(self._prepared)
        return None if bound is None else bound.control

    @property
    def used_hint_cond_latent(self) -> None:
        """No family here keeps a latent of its hint."""
        return

    @property
    def control_model(self) -> Any:
        """The network's torch module, once the unit is bound."""
        control = self._control
        return None if control is None else control.network.module

    @property
    def control_model_type(self) -> ControlModelType:
        """The network's family; ControlNet while it is not known."""
        control = self._control
        family = "" if control is None else control.network.family
        return ControlModelType.__members__.get(family, ControlModelType.ControlNet)

    @property
    def global_average_pooling(self) -> bool:
        """Whether the residuals are averaged over the picture (shuffle)."""
        control = self._control
        return bool(getattr(getattr(control, "network", None), "global_average_pooling", False))

    @property
    def guidance_stopped(self) -> bool:
        """Whether the unit does not act at the present step."""
        control, session = self._control, self._view.session
        if control is None or session is None:
            return True
        return not control.terms.window.is_open(session.cursor.progress)

    @property
    def preprocessor(self) -> dict[str, Any]:
        """Name and slider values."""
        unit = self._prepared.unit
        return {
            "name": unit.module,
            "preprocessor_resolution": unit.processor_res,
            "threshold_a": unit.threshold_a,
            "threshold_b": unit.threshold_b,
        }

    @property
    def soft_injection(self) -> bool:
        """Whether the strength falls off towards the shallow skips."""
        return self._prepared.unit.control_mode is not ControlMode.BALANCED

    @property
    def cfg_injection(self) -> bool:
        """Whether the unit acts on cond rows only."""
        return self._prepared.unit.control_mode is ControlMode.CONTROL

    @property
    def union_control_types(self) -> list[Any]:
        """What a union model is asked to follow."""
        return [self._prepared.unit.union_control_type]

    def __getattr__(self, name: str) -> Any:
        """Fields of the unit, under the names that neighbours know."""
        field = next((field for field in FIELDS.values() if field.view == name != ""), None)
        if field is None:
            msg = f"control_params has no {name!r}"
            raise AttributeError(msg)
        return getattr(self._prepared.unit, field.name)


def _for_rows(hint: Tensor) -> Tensor:
    """Hints of frames as AnimateDiff picks them, by rows: all cond rows, then all uncond rows."""
    return hint if len(hint) == 1 else torch.cat([hint, hint])


class LatestNetwork:
    """The units of one generation; `control_params` is None when it is over."""

    def __init__(self, p: Any, session: ControlSession) -> None:
        self._p = weakref.ref(p)
        self._session = weakref.ref(session)
        self._params = [
            ControlParams(self, made) for made in session.prepared if made.model is not None
        ]
        self.bound_pass: bool | None = None

    @property
    def session(self) -> ControlSession | None:
        """The generation's session while it lasts."""
        return self._session()

    @property
    def control_params(self) -> list[ControlParams] | None:
        """The units that are steered by a control image, in the user's order."""
        return None if self.session is None else self._params

    @property
    def model(self) -> Any:
        """The U-Net that is loaded now."""
        with suppress(HostError):  # something else is called in its place
            return member_of(self.sd_ldm).find_unet(self.sd_ldm)
        return None

    @property
    def sd_ldm(self) -> Any:
        """The checkpoint that is loaded now."""
        return find_model()

    @property
    def lowvram(self) -> bool:
        """Whether a unit asks to keep networks off the device between uses."""
        session = self.session
        return session is not None and any(made.unit.low_vram for made in session.prepared)

    @property
    def has_hires(self) -> bool:
        """Whether the generation has a hires pass."""
        return bool(getattr(self._p(), "enable_hr", False))

    def belongs_to(self, p: Any, session: ControlSession) -> bool:
        """Whether this is the view of that very object and session, not of a copy's."""
        return self._p() is p and self.session is session

    def is_view_of(self, p: Any) -> bool:
        """Whether it was made for that very object, not for one that it was copied to."""
        return self._p() is p

    def geometry(self, is_hires: bool) -> PassGeometry | None:
        """Geometry of a pass, also before it is bound; None if the host has not settled it."""
        p = self._p()
        if p is None:
            return None
        if not is_hires:
            canvas = Size(int(p.width), int(p.height))
            cells = Size(canvas.width // LATENT_SCALE, canvas.height // LATENT_SCALE)
            return PassGeometry.of_latent(cells, canvas)
        layout = request.hires_layout(p) if self.has_hires else None
        if layout is None:
            return None
        latent = Size(
            layout.cells.width - int(getattr(p, "truncate_x", 0)),
            layout.cells.height - int(getattr(p, "truncate_y", 0)),
        )
        return PassGeometry.of_latent(latent, layout.canvas, layout.cells)

    def follow(self, is_hires: bool) -> None:
        """The session was bound to a pass."""
        self.bound_pass = is_hires
        for param in self._params:
            param.follow(is_hires)

    def restore(self) -> None:
        """End the controls of this generation."""
        session = self.session
        if session is not None:
            session.release()
        self.release()

    def release(self) -> None:
        """Let go of the units, which know this view."""
        self._params = []


class ScriptViews:
    """Attributes of the script object that other extensions read.

    The same object serves both a generation and the generations nested in it, so every host
    callback that belongs to one lets the attributes speak of that one again. It lives as long as
    the WebUI, so it holds nothing of a generation, only the way to its processing object.
    """

    def __init__(self) -> None:
        super().__init__()
        self._shown: weakref.ref[Any] | None = None
        self.input_image: Any = None
        self.latest_model_hash = ""
        self.post_processors: list[Any] = []
        self.noise_modifier: Any = None

    @property
    def _session(self) -> ControlSession | None:
        p = None if self._shown is None else self._shown()
        return None if p is None else session_of(p)

    @property
    def latest_network(self) -> LatestNetwork | None:
        """The view of the generation that runs, None between generations and without units."""
        session = self._session
        return None if session is None or self._shown is None else _view(self._shown(), session)

    @property
    def enabled_units(self) -> list[Any]:
        """The units that take part in the generation that runs."""
        session = self._session
        return [] if session is None else [to_unit(made.unit) for made in session.prepared]

    @property
    def detected_map(self) -> list[tuple[Any, str]]:
        """Detected maps of these units, with the preprocessors' names."""
        session = self._session
        made = [] if session is None else session.prepared
        return [(one.detected, one.unit.module) for one in made]

    @property
    def ui_batch_option_state(self) -> list[Any]:
        """Batch option of the generation that runs, and whether styles are aligned."""
        session = self._session
        asked = [] if session is None else [made.unit.batch_option for made in session.prepared]
        option = next((one for one in asked if one is not BatchOption.DEFAULT), BatchOption.DEFAULT)
        return [option.value, session is not None and session.aligns]

    @property
    def model_cache(self) -> Residency:
        """The control models that are kept loaded."""
        return runtime().residency

    @staticmethod
    def clear_control_model_cache() -> None:
        """Let go of all control models."""
        runtime().residency.clear()

    @staticmethod
    def get_target_dimensions(p: Any) -> tuple[int, int, int, int]:
        """Height and width of the first pass's picture and of the hires pass's, in pixels."""
        first = Size(int(p.width), int(p.height)).multiple_of_down(LATENT_SCALE)
        if not getattr(p, "enable_hr", False):
            return first.height, first.width, first.height, first.width
        canvas = request.hires_canvas(p)
        if canvas is None and hasattr(p, "calculate_target_resolution"):
            p.calculate_target_resolution()
            canvas = request.hires_canvas(p)
        second = (canvas or first).multiple_of_down(LATENT_SCALE)
        return first.height, first.width, second.height, second.width

    def show_generation(self, p: Any) -> None:
        """Let the attributes speak of a processing object's generation, from `process` on."""
        self._shown = weakref.ref(p)
        self.latest_model_hash = str(getattr(find_model(), "sd_model_hash", None) or "")

    def show_pass(self, p: Any) -> None:
        """The session was bound to the pass that is about to be sampled."""
        self.show_generation(p)
        view = self.latest_network
        if view is not None:
            view.follow(bool(getattr(p, "is_hr_pass", False)))

    def hide_generation(self) -> None:
        """The generation is over; its processing object may live on, its units need not."""
        p = None if self._shown is None else self._shown()
        if p is not None:
            end_view(p)
        self._shown = None


def end_view(p: Any) -> None:
    """The generation of `p` is over: its view lets go of the units, who may hold the view."""
    present = vars(p).pop(VIEW_ATTRIBUTE, None)
    if present is not None and present.is_view_of(p):
        present.release()


def _view(p: Any, session: ControlSession) -> LatestNetwork | None:
    """The object's view: one and the same as long as its session lasts."""
    present = getattr(p, VIEW_ATTRIBUTE, None)
    if isinstance(present, LatestNetwork) and present.belongs_to(p, session):
        return present
    view = LatestNetwork(p, session)
    setattr(p, VIEW_ATTRIBUTE, view)
    return view if view.control_params else None


def prepare_mask(mask: Image.Image, p: Any) -> Image.Image:
    """A mask as the host uses it in this generation: grey, inverted and blurred as asked."""
    return crop.prepare_mask(request.inpaint_rules(mask, p))


def set_numpy_seed(p: Any) -> int:
    """Seed numpy's own generator as preprocessors are seeded; the seed is given back."""
    seed = request.preparation_seed(p)
    np.random.seed(seed)
    return seed


def find_closest_lora_model_name(search: str) -> str | None:
    """Display name of the control model that a text means, None for none (loras have no part)."""
    return listing.find_offered(runtime().catalog, search)


FUNCTIONS: Final = {
    "find_closest_lora_model_name": find_closest_lora_model_name,
    "prepare_mask": prepare_mask,
    "set_numpy_seed": set_numpy_seed,
}
"""What others import from the script's module, `scripts.controlnet`."""

PUBLISHED: Final = {"ControlParams": ControlParams, "UnetHook": LatestNetwork}
"""The views' classes, by the names under which other extensions import them."""
