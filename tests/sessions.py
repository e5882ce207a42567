"""A session without a WebUI: a host that answers the core, and units that are ready to bind."""

from types import SimpleNamespace

import numpy as np
import torch

from annotator.embedding import VECTORS, Embedding
from lib_controlnet.engine.memory import Between
from lib_controlnet.engine.network import GuideKind
from lib_controlnet.engine.pass_info import PassInfo
from lib_controlnet.engine.prepared import PreparedUnit
from lib_controlnet.engine.residency import Residency
from lib_controlnet.enums import ResizeMode
from lib_controlnet.families.residual import Group
from lib_controlnet.pictures.maps import Size
from lib_controlnet.pictures.placement import PassGeometry
from lib_controlnet.pictures.region import Region
from lib_controlnet.settings import DEFAULTS
from lib_controlnet.units.unit import ControlUnit

LATENT = Size(16, 8)


class FakeHost:
    """A host without a WebUI; honours `ports.Host`."""

    device = torch.device("cpu")
    between = Between.NEVER
    network_dtype = torch.float32

    def __init__(self):
        self.residency = Residency(1, 0)

    def measure_coming(self, device):
        return 0

    def option(self, key):
        return DEFAULTS[key]

    alphas = torch.linspace(0.9991, 0.0047, 1000)

    def vae_encode(self, image):
        return torch.nn.functional.avg_pool2d(image, 8)[:, [0, 1, 2, 0]]

    def model_folders(self):
        return []

    def is_interrupted(self):
        return False

    def report(self, text):
        pass


def picture(seed=3):
    return np.random.default_rng(seed).integers(0, 256, (64, 128, 3), np.uint8)


def shown_to(network, seed=3):
    """A random picture, with a mask where the network sees nothing else of the rest."""
    made = picture(seed)
    if not network.wants.has_mask:
        return made
    return np.dstack([made, np.where(made[:, :, 0] > 250, 255, 0).astype(np.uint8)])


def embedding(network, seed=3):
    """A random embedding of what the network reads."""
    tensors = {}
    for name, width in network.wants.tensors:
        shape = (1, width) if name in VECTORS else (1, 5, width)
        tensors[name] = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return Embedding(tensors)


def embeddings(network, *seeds):
    """Those of a unit with one picture, or of as many frames as there are seeds."""
    if network.wants.kind is not GuideKind.EMBEDDING:
        return ()
    return tuple((embedding(network, seed),) for seed in seeds)


def prepared(network, seed=3, region=None, effect=None, **fields):
    """A unit on `network`; `region` is a uint8 (64, 128) mask or None."""
    unit = ControlUnit(enabled=True, module="none", model="tiny", **fields)
    return PreparedUnit(
        unit,
        ResizeMode.INNER_FIT,
        shown_to(network, seed),
        SimpleNamespace(network=lambda _base: network),
        region=None if region is None else Region(region, ResizeMode.INNER_FIT),
        effect=effect,
        embeddings=embeddings(network, seed),
    )


def info(base, **changes):
    return PassInfo(PassGeometry.of_latent(LATENT), base, alphas=FakeHost.alphas, **changes)


def evaluate_group(controls, step, rows):
    """Residuals of units that share a network, evaluated as one batch; one for each unit."""
    group = Group(controls, step, rows)
    return group.finish(group.evaluate())
