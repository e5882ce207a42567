"""Changed weights: what units add to tensors of the U-Net is in them while a call lasts.

A layer with changed weights costs what it always costs; one that computes a change beside it costs
as much again. No tensor of the host is written to. For the time of a call a stand-in lies in a
tensor's place: an alias of it for whoever reads, copies or writes it, so that a LoRA of the host
which changes weights in the middle of the call finds, backs up and changes what is the host's; only
the functions that compute a layer's output are given the sum. A sum is made again when its tensor
was written to, moved or replaced. After the call the very objects lie where they lay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef  # Python's own dangle in torch 2.1

from lib_controlnet.engine.unet import own_modules
from lib_controlnet.errors import is_out_of_memory

if TYPE_CHECKING:
    from lib_controlnet.engine.injection import Rows
    from lib_controlnet.engine.memory import Memory
    from lib_controlnet.engine.step import StepContext

COMPUTING: Final = frozenset(
    {torch._C._nn.linear, torch.conv1d, torch.conv2d, torch.conv3d}
    | {torch.group_norm, torch.layer_norm}
)
"""Functions of torch that make a layer's output of its tensors."""

NORMS: Final = ("group_norm", "layer_norm")
"""Those of `torch.nn.functional` around them; what a host has put there says that it is called."""

PRECISIONS: Final = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})
"""In which a sum is what its parts are."""

FEW: Final = 2**28
"""Bytes for which nobody is asked whether they are there."""

KEPT_FREE: Final = 2 * 2**30
PER_CELL: Final = 2**16
"""Bytes that the host gets to keep: at any rate, and for each cell of the latents of a call."""

LEAVES: Final = frozenset({"weight", "bias"})
"""Tensors of a layer by which it computes as torch does."""

MOST_EXCHANGES: Final = 3
"""How often in a pass sums follow a host that puts other tensors in the place of its own."""

Place = tuple[str, str]
"""Path of a layer among the U-Net's `own_modules`, and the name of one of its tensors."""


@dataclass(frozen=True, eq=False)
class WeightChange:
    """What one unit adds to tensors of the U-Net in one pass, wherever in the picture it is.

    Attributes:
        name: the unit's, for messages.
        network: the change is read from it, and lies on the device meanwhile.
        rows: gives the rows of a call on which the unit acts.
        places: the tensors that it changes.
        read: gives the change of one of them, float32, its strength times a factor in it.
        beside: by the path of a layer: gives what the change adds to the output, of the input; for
            calls in which the unit's weights cannot stand in the U-Net.
        say: is told why they cannot, where the user has not asked for it.
        factor: what the strength is multiplied by in a call.
    """

    name: str
    network: Any
    rows: Callable[[StepContext], Rows]
    places: Sequence[Place]
    read: Callable[[Place, float], Tensor]
    beside: Mapping[str, Callable[[Tensor, StepContext], Tensor | None]]
    say: Callable[[str], None]
    factor: Callable[[StepContext], float] = lambda _step: 1.0

    def is_whole(self, step: StepContext) -> bool:
        """Whether the unit acts on all rows of a call."""
        return len(self.rows(step)) == len(step.rows)


class Sum:
    """A tensor of the U-Net with what units add to it.

    Args:
        plain: the host's, only ever read.
        reads: each gives an addition.

    Attributes:
        is_used: a layer has computed with it in the present call.
    """

    def __init__(self, plain: nn.Parameter, reads: Sequence[Callable[[], Tensor]]) -> None:
        self.plain = plain
        self.is_used = False
        self._reads = reads
        self._made: Tensor | None = None
        self._version = 0
        self._storage = StorageWeakRef(plain.untyped_storage())

    @property
    def nbytes(self) -> int:
        """Bytes that it takes now."""
        return 0 if self._made is None else self._made.nbytes

    @property
    def is_fresh(self) -> bool:
        """Whether it is there, and the tensor what it was made of."""
        # An address alone would not do: memory is given out again, but not while this refers to it.
        return (
            self._made is not None
            and self._version == self.plain._version
            and self._storage.cdata == self.plain.untyped_storage()._cdata
        )

    def get(self) -> Tensor:
        """The sum, made again if need be."""
        made = self._made  # another thread may drop it at any moment
        if made is None or not self.is_fresh:
            made = self.make()
        self.is_used = True
        return made

    @torch.no_grad()
    def make(self) -> Tensor:
        """Add in float32 or better, and round once; memory that it has is used again."""
        plain, made = self.plain.detach(), self._made
        if made is None or (made.dtype, made.device) != (plain.dtype, plain.device):
            self._made = None
            made = torch.empty_like(plain)
        total = plain if plain.dtype is torch.float64 else plain.float()
        for read in self._reads:
            total = total + read().to(plain.device)
        made.copy_(total)
        self._made, self._version = made, self.plain._version
        self._storage = StorageWeakRef(self.plain.untyped_storage())
        return made

    def outdate(self) -> None:
        """What is added is another now; the memory stays, to be used again."""
        self._version = -1

    def drop(self) -> None:
        """Let go of the memory."""
        self._made = None


class StandIn(nn.Parameter):
    """Lies in a tensor's place during a call, see the module."""

    stands_for: Sum

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Give the sum to what computes, the host's tensor to everything else."""
        del types
        named = dict(kwargs or {})
        if func in COMPUTING or any(func is getattr(F, name) for name in NORMS):
            given = [arg.stands_for.get() if type(arg) is cls else arg for arg in args]
            for name, arg in named.items():
                if type(arg) is cls:
                    named[name] = arg.stands_for.get()
            return func(*given, **named)
        with torch._C.DisableTorchFunctionSubclass():
            if func == torch.Tensor.data.__set__:  # type: ignore[attr-defined]  # a C descriptor
                mine, value = args
                if value is not mine:  # moved, or brought to another precision
                    mine.stands_for.plain.data = value
            return func(*args, **named)


@dataclass(eq=False)
class _Changed:
    """A tensor of the U-Net that is changed.

    Attributes:
        owner: the module that holds it.
        name: its name there.
        sum: what is computed with.
        stand_in: what lies in its place in the present call.
    """

    owner: nn.Module
    name: str
    sum: Sum
    stand_in: StandIn | None = None

    @property
    def is_there(self) -> bool:
        """Whether the host's tensor still lies where it was found."""
        return self.owner._parameters.get(self.name) is self.sum.plain

    def swap(self) -> None:
        """The stand-in, for a call.

        A new one: between two calls the host may move its tensor, and the memory where it was has
        to be free then.
        """
        plain = self.sum.plain
        self.sum.is_used = False
        self.stand_in = StandIn(plain, plain.requires_grad)
        self.stand_in.stands_for = self.sum
        self.owner._parameters[self.name] = self.stand_in

    def put_back(self) -> None:
        """The host's own object again; one that it has put here meanwhile stays."""
        stand_in, self.stand_in = self.stand_in, None
        if stand_in is not None and self.owner._parameters.get(self.name) is stand_in:
            self.owner._parameters[self.name] = self.sum.plain


class ChangedWeights:
    """The changes of all units to the weights of one U-Net, and their sums.

    Args:
        memory: has the networks on the device, and counts what is made of them.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._asked: list[WeightChange] = []
        self._refused: set[WeightChange] = set()
        self._present: list[WeightChange] = []
        self._last: list[WeightChange] = []
        self._changed: list[_Changed] = []
        self._factors: dict[WeightChange, float] = {}
        self._exchanges = 0
        self._is_in = False

    def ask(self, change: WeightChange) -> None:
        """Have a change act in every call in which its unit does."""
        self._asked.append(change)

    @property
    def nbytes(self) -> int:
        """Bytes of the sums, see `Derived`."""
        return sum(one.sum.nbytes for one in self._changed)

    def drop(self) -> bool:
        """Let go of the sums, see `Derived`; they are made again when they are needed."""
        had = self.nbytes > 0
        for one in self._changed:
            one.sum.drop()
        return had

    def forget(self) -> None:
        """Let go of everything that belongs to the present U-Net."""
        self.put_back()
        self.drop()
        self._changed, self._present, self._last = [], [], []
        self._refused.clear()
        self._exchanges = 0

    def begin(self, unet: nn.Module, step: StepContext, stay: ExitStack) -> list[WeightChange]:
        """Put changes into the weights for a call that begins.

        Args:
            unet: what is called.
            step: the call.
            stay: is left when it is over.

        Returns:
            The changes that have to act beside the layers in this call, their networks on the
            device.
        """
        self._weigh(step)
        acting = [change for change in self._asked if change.rows(step)]
        whole = [change for change in acting if change.is_whole(step)]
        merged = [change for change in whole if self._can_stand(unet, change, step)]
        if merged and not self._settle(unet, merged):
            merged = []
        if merged:
            stay.callback(self.put_back)
            self._is_in = True
            for one in self._changed:
                one.swap()
        beside = [change for change in acting if change not in merged]
        for change in beside:
            stay.enter_context(self._memory.on_device(change.network))
        return beside

    def _weigh(self, step: StepContext) -> None:
        """Sums are made again where a weight curve has moved on."""
        before = self._factors
        self._factors = {change: change.factor(step) for change in self._asked}
        if any(self._factors[change] != before.get(change) for change in self._present):
            for one in self._changed:
                one.sum.outdate()

    def finish(self) -> None:
        """A call is over: stand by what its layers have not computed from their tensors."""
        unused = [one for one in self._changed if not one.sum.is_used] if self._is_in else []
        if unused:
            self._refuse(
                self._present,
                f"{len(unused)} of {len(self._changed)} tensors were not read in a step; another "
                "extension leaves out layers, or computes them in its own way",
            )

    def put_back(self) -> None:
        """Every tensor lies where it lay."""
        for one in self._changed:
            one.put_back()
        self._is_in = False
        if not self._present:
            self.drop()

    def _settle(self, unet: nn.Module, wanted: list[WeightChange]) -> bool:
        """Have the sums of these changes at hand.

        A pass in which calls with other rows take turns keeps the sums of those that came first.
        """
        is_new = wanted != self._last
        self._last = wanted
        if wanted != self._present:
            if self._present and is_new:
                return False
            self._lay_out(unet, wanted)
        elif not all(one.is_there for one in self._changed):
            self._exchanges += 1
            if self._exchanges > MOST_EXCHANGES:
                self._refuse(wanted, "the WebUI puts other tensors in the place of the weights")
                return False
            self._lay_out(unet, wanted)
        return self._make(wanted)

    def _lay_out(self, unet: nn.Module, wanted: list[WeightChange]) -> None:
        """Find all tensors that are changed, and how."""
        self.drop()
        reads: dict[Place, list[Callable[[], Tensor]]] = {}
        for change in wanted:
            for place in change.places:
                reads.setdefault(place, []).append(self._reader(change, place))
        self._changed, own = [], own_modules(unet)
        for (path, name), additions in reads.items():
            owner = own[path]
            plain = owner._parameters[name]
            assert plain is not None
            self._changed.append(_Changed(owner, name, Sum(plain, additions)))
        self._present = wanted

    def _reader(self, change: WeightChange, place: Place) -> Callable[[], Tensor]:
        return lambda: change.read(place, self._factors[change])

    def _make(self, wanted: list[WeightChange]) -> bool:
        """Make what sums are not fresh; False where memory does not suffice."""
        due = [one.sum for one in self._changed if not one.sum.is_fresh]
        if not due:
            return True
        try:
            with ExitStack() as stack:
                for change in wanted:
                    stack.enter_context(self._memory.on_device(change.network))
                for one in due:
                    one.make()
        except Exception as error:  # each device has its own for this
            if not is_out_of_memory(error):
                raise
        else:
            self._memory.count(wanted[0].network, self)
            return True
        self.drop()
        self._refuse(wanted, "there is not enough memory for changed weights beside the plain ones")
        return False

    def _can_stand(self, unet: nn.Module, change: WeightChange, step: StepContext) -> bool:
        """Whether a change can be put into the weights; where not, that is said once."""
        if change in self._refused:
            return False
        if change in self._present and not self._memory.is_scarce and self._is_as_found:
            return True
        own = own_modules(unet)
        plain = [_find_tensor(own[path], name) for path, name in change.places]
        obstacle = self._find_obstacle(plain, step)
        if obstacle:
            self._refuse([change], obstacle)
        return not obstacle

    @property
    def _is_as_found(self) -> bool:
        """Whether the host's tensors are those that were looked at."""
        return all(one.is_there and one.sum.plain.dtype in PRECISIONS for one in self._changed)

    def _find_obstacle(self, plain: Sequence[Tensor | None], step: StepContext) -> str:
        """Why some tensors of the U-Net cannot have changed ones beside them; "" if they can."""
        found = [one for one in plain if one is not None]
        if len(found) < len(plain) or any(
            type(one) is not nn.Parameter or one.is_meta or one.is_inference() for one in found
        ):
            return "the WebUI holds the checkpoint's weights in a way of its own"
        strange = [one.dtype for one in found if one.dtype not in PRECISIONS]
        if strange:
            return f"the WebUI keeps the checkpoint's weights as {strange[0]} (see FP8 weight)"
        size = sum(one.nbytes for one in found)
        if self._memory.is_scarce:
            return (
                "memory is to be spared (--lowvram, or Low VRAM), and changed weights take "
                f"{size / 1e9:.1f} GB"
            )
        device = found[0].device if found else step.x.device
        room = None if size <= FEW else self._memory.find_room(device)
        wanted = size + KEPT_FREE + PER_CELL * step.x[:, 0].nelement()
        if room is not None and room < wanted:
            return (
                f"changed weights take {size / 1e9:.1f} GB, and with what a step needs "
                f"{wanted / 1e9:.1f} GB would have to be free on {device}, where "
                f"{room / 1e9:.1f} GB are"
            )
        return ""

    def _refuse(self, changes: Sequence[WeightChange], why: str) -> None:
        """Have changes act beside the layers from now on."""
        self._refused.update(changes)
        self._present = []
        if not self._is_in:
            self.drop()
        for change in changes:
            change.say(
                f"ControlNet {change.name}: {change.network.name} acts beside the U-Net's layers "
                f"instead of in their weights, which makes a step slower: {why}"
            )


def _find_tensor(layer: nn.Module, name: str) -> nn.Parameter | None:
    """A tensor of a layer; None where its output depends on others as well, such as a factor."""
    others = {key for key, one in layer._parameters.items() if one is not None} - LEAVES
    return None if others else layer._parameters.get(name)
