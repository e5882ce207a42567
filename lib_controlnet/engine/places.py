"""The only file that registers hooks on the host's U-Net: the places in which controls act.

The host's forward, its optimisers and every neighbour stay in charge; removing the handles
restores the model exactly. What is added at one place, whatever the number of controls:

- `skips`: residuals to the skips and to the middle block's output. The host's decoder concatenates
  stream and skip itself, so a residual can be added in a forward pre-hook of each output block's
  first layer, to the skip's half of the fresh concatenation.
- `after_input`: the output of an input block, which is both the stream and the skip.
- `module`: the input or the output of any module below the U-Net. Of a block, the output as the
  host makes it: what the first two add comes on top.
- `weights`: tensors of modules, for the time of a call, see `engine.weights`.
- `carry`: what has to follow the tokens of an attention, where neighbours merge or tile them.
- `call`: a call of the whole U-Net, before its first block.

A block is never hooked itself but at its first and its last layer, see `unet.ends_of`. A place that
no call has come by is told, see `find_missed`: compiled forwards pass hooks over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

from torch import Tensor, nn

from lib_controlnet.engine.injection import Residuals, add_rows, sum_residuals, with_rows
from lib_controlnet.engine.kept import Kept
from lib_controlnet.engine.memory import Memory
from lib_controlnet.engine.meter import Meter, time_calls
from lib_controlnet.engine.step import StepContext, StepCursor
from lib_controlnet.engine.tokens import Carried, Give, Road
from lib_controlnet.engine.unet import ends_of, own_modules
from lib_controlnet.engine.weights import ChangedWeights, WeightChange
from lib_controlnet.errors import HostError

INPUT_BLOCKS: Final = "input_blocks"
MIDDLE_BLOCK: Final = "middle_block"
OUTPUT_BLOCKS: Final = "output_blocks"
BLOCK: Final = re.compile(rf"{MIDDLE_BLOCK}|({INPUT_BLOCKS}|{OUTPUT_BLOCKS})\.\d+")
ARGUMENTS: Final = ("x", "timesteps", "context", "y")
"""Of a U-Net's forward, in their order (`ldm`, `sgm`)."""

AddResiduals = Callable[[StepContext], list[Residuals]]
ChangeStream = Callable[[Tensor, StepContext], "Tensor | None"]
ChangeOutput = Callable[[Tensor, StepContext, Callable[[], Tensor]], "Tensor | None"]


class _AllSeenError(Exception):
    """An inner call has shown all that is watched; what the U-Net would still compute is unused."""


class Call:
    """One call of the U-Net that is about to be made.

    Attributes:
        context: text tokens (n, t, c); may be replaced.
        y: vector condition (n, adm) or None; may be replaced.
    """

    def __init__(self, places: Places, step: StepContext, further: dict[str, Any]) -> None:
        self.context = step.context
        self.y = step.y
        self._places = places
        self._further = further

    def inner(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None,
        y: Tensor | None,
        watch: Mapping[str, Callable[[Tensor], None]],
    ) -> None:
        """Call the same U-Net on something else, with no control acting in it.

        The call ends as soon as the last of the watched modules has given its output.

        Args:
            x: model input (m, channels, h, w).
            timesteps: (m,).
            context: (m, t, c).
            y: (m, adm) or None.
            watch: what is told the output of modules, by path.

        Raises:
            HostError: a module was not called.
        """
        given = {"x": x, "timesteps": timesteps, "context": context}
        given |= self._further if y is None else {**self._further, "y": y}
        due = dict(watch)
        with self._places.watch(due), suppress(_AllSeenError):
            self._places.unet.forward(**given)
        if due:
            raise HostError(describe_missed(list(due)))


@dataclass
class _AtModule:
    """What is asked for at one module."""

    before: list[ChangeStream] = field(default_factory=list)
    beside: list[ChangeStream] = field(default_factory=list)
    after: list[ChangeOutput] = field(default_factory=list)


class Places:
    """Hooks of one pass on one U-Net.

    Ask first, then enter `hook`. Whoever is asked is given the present call as a
    `StepContext`, only while one is under way that the host has announced.

    Args:
        unet: module with `input_blocks`, `middle_block` and `output_blocks` (LDM layout).
        cursor: rows and progress of the evaluation that is under way.
        memory: brings a network onto the device for an evaluation.
        kept: what the generation has made of its units' pictures.

    Raises:
        HostError: the module is not a U-Net of that layout (SD3, Flux).
    """

    def __init__(
        self, unet: nn.Module, cursor: StepCursor, memory: Memory, kept: Kept | None = None
    ) -> None:
        for name in (INPUT_BLOCKS, MIDDLE_BLOCK, OUTPUT_BLOCKS):
            if not hasattr(unet, name):
                msg = (
                    f"the loaded model ({type(unet).__name__}) has no {name}: controls work with "
                    "SD1.x, SD2.x and SDXL checkpoints only"
                )
                raise HostError(msg)
        self.unet = unet
        self.cursor = cursor
        self.memory = memory
        self.kept = kept or Kept()
        self._calls: list[Callable[[StepContext, Call], None]] = []
        self._skips: list[tuple[AddResiduals, Callable[[], None]]] = []
        self._inputs: dict[int, list[ChangeStream]] = {}
        self._modules: dict[str, _AtModule] = {}
        self._roads: dict[str, Road] = {}
        self._weights = ChangedWeights(memory)
        self._own: dict[str, nn.Module] = {}
        self._step: StepContext | None = None
        self._residuals: list[Residuals] = []
        self._taken = False
        self._asked: set[str] = set()
        self._reached: set[str] = set()
        self._missed: dict[str, None] = {}
        self._was_called = False
        self._handles = ExitStack()
        self._held: list[tuple[Any, Callable[[StepContext], bool]]] = []
        self._stay = ExitStack()
        self._meters: Sequence[Meter] = ()

    @contextmanager
    def clock(self, meters: Sequence[Meter]) -> Iterator[None]:
        """What is asked for inside is the work of these units, and its time theirs."""
        outer, self._meters = self._meters, meters
        try:
            yield
        finally:
            self._meters = outer

    def call(self, change: Callable[[StepContext, Call], None]) -> None:
        """Before each U-Net call: look at it, change its conditions, or call the U-Net itself."""
        self._calls.append(time_calls(self._meters, change))

    def hold(self, network: Any, is_needed: Callable[[StepContext], bool]) -> None:
        """Keep a network on the device for the whole of those U-Net calls that need it."""
        self._held.append((network, is_needed))

    def skips(self, add: AddResiduals, taken: Callable[[], None]) -> None:
        """Add residuals to skips and middle block.

        Args:
            add: gives the residuals of a call; [] adds nothing.
            taken: is told after a call whose blocks have taken residuals.
        """
        self._skips.append((time_calls(self._meters, add), taken))

    def after_input(self, block: int, add: ChangeStream) -> None:
        """Change the output of an input block, for the stream and the skip.

        Args:
            block: its number, from 0.
            add: gives the new output, made of the present one, or None; never changes it in place.
        """
        self._inputs.setdefault(block, []).append(time_calls(self._meters, add))

    def module(
        self,
        path: str,
        before: ChangeStream | None = None,
        after: ChangeOutput | None = None,
        beside: ChangeStream | None = None,
    ) -> None:
        """Change what a module below the U-Net reads or gives.

        Args:
            path: its name among the U-Net's `own_modules`.
            before: gives an addition to the module's first input, computed from what the host
                put in; the additions of all are summed. None adds nothing.
            after: gives a new output, made of the present one; several are chained in the order
                in which they were asked for. Its third argument calls the module again on the same
                input. None leaves the output.
            beside: gives an addition to the module's output, computed from what the module reads,
                the additions to that included; summed like those, and before any `after`. Not of a
                block.
        """
        asked = self._modules.setdefault(path, _AtModule())
        asked.before += [] if before is None else [time_calls(self._meters, before)]
        asked.after += [] if after is None else [time_calls(self._meters, after)]
        asked.beside += [] if beside is None else [time_calls(self._meters, beside)]

    def weights(self, change: WeightChange) -> None:
        """Add to weights of the U-Net in every call in which a unit acts.

        Where that cannot be, the change acts beside the layers, before all that `module` is asked
        to do with their outputs.
        """
        self._weights.ask(change)

    def carry(self, attention: str, give: Give) -> Carried:
        """Have something follow the tokens of an attention, see `engine.tokens`.

        Args:
            attention: its name among the U-Net's `named_modules`, such as `(...).0.attn1`.
            give: see `Carried`.
        """
        road = self._roads.setdefault(attention, Road(attention, lambda: self._step))
        return road.carry(give)

    @contextmanager
    def hook(self) -> Iterator[None]:
        """Hooks are on the U-Net inside this context and gone after it, whatever happens."""
        with self._handles:
            self._attach()
            yield

    def detach(self) -> None:
        """Take the hooks off at once, in the middle of `hook`."""
        self._handles.close()

    def move_to(self, unet: nn.Module) -> None:
        """Act on another U-Net of the same structure from now on (a refiner was switched to)."""
        self._handles.close()
        self.unet = unet
        self._attach()

    def find_missed(self) -> list[str]:
        """Places that no finished call of the U-Net has come by, once the hooks are off."""
        return list(self._missed)

    def _note_missed(self) -> None:
        if self._was_called:
            self._missed |= dict.fromkeys(sorted(self._asked - self._reached))
        self._asked, self._reached, self._was_called = set(), set(), False

    def _ends(self, path: str) -> tuple[nn.Module, nn.Module]:
        """Where the module of that path is entered and left."""
        module = self._own[path]
        return ends_of(module) if BLOCK.fullmatch(path) else (module, module)

    @contextmanager
    def watch(self, due: dict[str, Callable[[Tensor], None]]) -> Iterator[None]:
        """No control acts inside; the outputs of some modules are shown instead.

        Args:
            due: who is shown them, by path; those that have been shown go.

        Raises:
            _AllSeenError: behind the last of them.
        """
        step, self._step = self._step, None
        residuals, self._residuals = self._residuals, []
        with ExitStack() as stack:
            for path in list(due):
                _first, last = self._ends(path)
                stack.callback(last.register_forward_hook(_make_hook(path, due)).remove)
            try:
                yield
            finally:
                self._step, self._residuals = step, residuals

    def _attach(self) -> None:
        keep = self._handles.callback
        keep(self._weights.forget)
        keep(self._forget)
        unet = self.unet
        keep(unet.register_forward_pre_hook(self._begin_call, with_kwargs=True).remove)
        keep(unet.register_forward_hook(self._end_call).remove)
        keep(unet.register_forward_hook(self._leave_call, always_call=True).remove)
        self._own = own_modules(unet)
        keep(self._note_missed)
        for path, asked in self._modules.items():
            first, last = self._ends(path)
            if asked.before:
                hook = self._before_hook(path, asked.before)
                keep(first.register_forward_pre_hook(hook).remove)
            if asked.after or asked.beside:
                hook = self._after_hook(path, asked)
                keep(last.register_forward_hook(hook, with_kwargs=True).remove)
        for road in self._roads.values():  # now that all additions are in what it starts from
            road.hook(unet, keep)
        if self._skips:
            _first, last = self._ends(MIDDLE_BLOCK)
            keep(last.register_forward_hook(self._middle_hook()).remove)
            skips = len(list(unet.get_submodule(OUTPUT_BLOCKS).children()))
            for block in range(skips):
                first, _last = self._ends(f"{OUTPUT_BLOCKS}.{block}")
                # blocks pop skips from the deepest up
                hook = self._skip_hook(f"{OUTPUT_BLOCKS}.{block}", skips - 1 - block)
                keep(first.register_forward_pre_hook(hook).remove)
        for number, adders in self._inputs.items():
            path = f"{INPUT_BLOCKS}.{number}"
            _first, last = self._ends(path)
            keep(last.register_forward_hook(self._stream_hook(path, adders)).remove)

    def _forget(self) -> None:
        self._residuals, self._step = [], None
        self._stay.close()

    def _begin_call(
        self, _unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self._forget()
        self._taken = False
        given = dict(zip(ARGUMENTS, args, strict=False)) | kwargs
        arguments: list[Any] = [given.get(name) for name in ARGUMENTS]
        x, timesteps, context, y = arguments
        rows = self.cursor.next_rows(x.shape[0], context, x, given)
        if rows is None:
            return None
        step = self.cursor.describe(x, timesteps, context, y, rows)
        further = {name: value for name, value in given.items() if name not in ARGUMENTS}
        for network, is_needed in self._held:
            if is_needed(step):
                self._stay.enter_context(self.memory.on_device(network))
        call = Call(self, step, further)
        for change in self._calls:
            change(step, call)
        # Control networks read the conditions that the U-Net reads.
        step = replace(step, context=call.context, y=call.y)
        changed = {
            name: getattr(call, name)
            for name in ("context", "y")
            if getattr(call, name) is not given.get(name)
        }
        parts = [part for add, _taken in self._skips for part in add(step)]
        self._residuals = sum_residuals(parts)
        self._step = step
        self._change_weights(step)
        if not changed:
            return None
        # What was positional stays so: hooks of neighbours read it there (token merging).
        positional = tuple(
            changed.pop(name, value) for name, value in zip(ARGUMENTS, args, strict=False)
        )
        return (*positional, *args[len(positional) :]), {**kwargs, **changed}

    def _change_weights(self, step: StepContext) -> None:
        """Last of all that begins a call: what else a control computes sees the plain weights."""
        for change in self._weights.begin(self.unet, step, self._stay):
            for path, add in change.beside.items():
                hook = self._after_hook(path, _AtModule(beside=[add]))
                handle = self._own[path].register_forward_hook(hook, prepend=True, with_kwargs=True)
                self._stay.callback(handle.remove)

    def _leave_call(self, _unet: nn.Module, _args: tuple[Any, ...], _output: Any) -> None:
        """Whatever has become of a call."""
        self._forget()

    def _end_call(self, _unet: nn.Module, _args: tuple[Any, ...], _output: Any) -> None:
        self._was_called = self._was_called or self._step is not None
        self._weights.finish()
        self._forget()
        if self._taken:
            self._taken = False
            for _add, taken in self._skips:
                taken()

    def _expect(self, path: str) -> Callable[[], StepContext | None]:
        """What a hook asks first: the present call, if there is one that it is to act in."""
        self._asked.add(path)

        def come_by() -> StepContext | None:
            if self._step is not None:
                self._reached.add(path)
            return self._step

        return come_by

    def _middle_hook(self) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        come_by = self._expect(MIDDLE_BLOCK)

        def add_residual(_layer: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor:
            come_by()
            for part in self._residuals:
                residual = part.layers[-1]
                if residual is not None:  # the host may still hold the layer's own output
                    output = with_rows(output, residual, part.rows)
                    self._taken = True
            return output

        return add_residual

    def _skip_hook(self, path: str, skip: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        come_by = self._expect(path)

        def add_residual(_layer: nn.Module, args: tuple[Any, ...]) -> None:
            come_by()
            for part in self._residuals:
                residual = part.layers[skip]
                if residual is not None:
                    # args[0] is cat([stream, skip], dim=1), made for this call alone
                    add_rows(args[0], residual, part.rows)
                    self._taken = True

        return add_residual

    def _stream_hook(self, path: str, adders: list[ChangeStream]) -> Callable[..., Tensor]:
        come_by = self._expect(path)

        def change_stream(_layer: nn.Module, _args: Any, output: Tensor) -> Tensor:
            step = come_by()
            if step is None:
                return output
            for add in adders:
                changed = add(output, step)
                output = output if changed is None else changed
            return output

        return change_stream

    def _before_hook(self, path: str, adders: list[ChangeStream]) -> Callable[..., Any]:
        come_by = self._expect(path)

        def change_input(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            step = come_by()
            if step is None:
                return None
            given = [addition for add in adders if (addition := add(args[0], step)) is not None]
            return (sum(given, args[0]), *args[1:]) if given else None

        return change_input

    def _after_hook(self, path: str, asked: _AtModule) -> Callable[..., Tensor]:
        come_by = self._expect(path)

        def change_output(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
        ) -> Tensor:
            step = come_by()
            if step is None:
                return output
            for add in asked.beside:
                addition = add(args[0], step)
                output = output if addition is None else output + addition
            for change in asked.after:
                changed = change(output, step, lambda: module(*args, **kwargs))
                output = output if changed is None else changed
            return output

        return change_output


def _make_hook(
    path: str, due: dict[str, Callable[[Tensor], None]]
) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
        show = due.pop(path, None)
        if show is not None:
            show(output)
        if not due:
            raise _AllSeenError

    return hook


def describe_missed(places: Sequence[str]) -> str:
    """What to tell of layers in which units act and which the U-Net has not called."""
    count = f"{len(places)} layers" if len(places) > 1 else "a layer"
    return (
        f"ControlNet: the U-Net ran, but without calling {count} in which the units act "
        f"({', '.join(places[:2])}{' ...' if len(places) > 2 else ''}), so the picture would not "
        "be controlled as asked; a compiled U-Net (torch.compile) or an extension that replaces "
        "its forward function does this: switch that off, or the units"
    )
