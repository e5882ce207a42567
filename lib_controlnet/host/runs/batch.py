"""Runs a batch on the host's processing object: its own iterations, one turn of the plan each.

`process` comes before the host's loop over `p.n_iter`, so a run makes the loop longer and repeats
prompts and seeds. Nothing of the host is replaced; what a run changes on `p` is put back when it
ends or, if the host failed in the middle, before the next one.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from modules import images, processing, shared

from lib_controlnet.errors import ControlNetError, UnitError, quote
from lib_controlnet.files.paths import PATH_FAULTS, list_folders, open_path
from lib_controlnet.host import pictures
from lib_controlnet.host.page import settings
from lib_controlnet.units.batch import ResultNames

if TYPE_CHECKING:
    from PIL import Image

    from lib_controlnet.host.runtime import Runtime
    from lib_controlnet.units.plan import Plan
    from lib_controlnet.units.unit import ControlUnit

ATTRIBUTE: Final = "controlnet_batch"
PICTURE_ATTRIBUTE: Final = "image_control"
"""What another script sets on `p` to give a turn's picture."""

_PER_PICTURE: Final = (
    *("all_prompts", "all_negative_prompts", "all_hr_prompts", "all_hr_negative_prompts"),
    "all_subseeds",
)
_RESTORED: Final = ("n_iter", "do_not_save_grid", "do_not_save_samples")
_TAB_JOB: Final = re.compile(r"([0-9]{1,9}) out of ([0-9]{1,9})")
_FILE_NUMBER: Final = "-[generation_number]"
_WRITABLE: Final = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(eq=False)
class BatchRun:
    """One call of the host's `process_images` on units with several pictures.

    Attributes:
        owned_by: the processing object; copies of it carry this value without owning it.
        plan: the pictures.
        repeats: iterations of the host per turn; 0 if the whole call is one turn.
        first: turn of the first iteration.
        stem: name of the host's own picture of this turn, if it tells.
        job: which of the host's jobs this belongs to.
        folder: where results are saved under the pictures' names, None for the host's folder.
        saves: results are saved here, not by the host.
        original: attributes of `owner` before the run.
        turn: the turn whose pictures are prepared.
        result: first result of the turn before, for units with loopback.
        done: results so far.
    """

    owned_by: weakref.ref[Any]
    plan: Plan
    repeats: int = 0
    first: int = 0
    stem: str | None = None
    job: object = None
    folder: Path | None = None
    saves: bool = False
    original: dict[str, Any] = field(default_factory=dict)
    turn: int | None = None
    result: Any = None
    names: ResultNames = field(default_factory=ResultNames)
    done: int = 0

    @property
    def owner(self) -> Any:
        """The processing object, which lives as long as the run."""
        return self.owned_by()

    def turn_of(self, iteration: int) -> int:
        """The turn that an iteration of the host belongs to."""
        return self.first + (iteration // self.repeats if self.repeats else 0)

    def restore(self) -> None:
        """Put back what the run changed on its owner."""
        for name, value in self.original.items():
            setattr(self.owner, name, value)
        self.original = {}


def run_of(p: Any) -> BatchRun | None:
    """The batch that `p` runs; None for a copy of it."""
    run = getattr(p, ATTRIBUTE, None)
    return run if run is not None and run.owner is p else None


def restore(p: Any) -> None:
    """Put back what a run that ended in an exception left on `p`."""
    if (run := run_of(p)) is not None:
        run.restore()


def leave(p: Any) -> Any:
    """End the run that `p` was in before, and put back what that left on it.

    Returns:
        Its last result, None without one.
    """
    restore(p)
    run = run_of(p)
    setattr(p, ATTRIBUTE, None)
    return None if run is None else run.result


def forget(p: Any, runtime: Runtime) -> None:
    """The job is over, however it ended: `p` and the runtime know nothing of its batch."""
    run = run_of(p)
    leave(p)
    if run is not None and runtime.batch in (None, run):  # else a generation inside of one
        runtime.batch = None
        runtime.detections.ahead.clear()


def start(p: Any, plan: Plan, last: Any, runtime: Runtime) -> BatchRun | None:
    """Prepare `p` for the turns of a plan; None where it has none.

    Args:
        p: the host's processing object.
        plan: of this generation.
        last: from `leave`.
        runtime: what all generations share.

    Raises:
        UnitError: `p` cannot run a batch.
    """
    if not plan.turns:
        return None
    run = BatchRun(weakref.ref(p), plan, job=shared.state.time_start, result=last)
    tab, outer = tab_turn(p), runtime.batch
    if outer is not None and outer.owner is not p and outer.job == run.job:
        # A generation inside the batch (a face detailer's): it belongs to the present turn.
        run.first = min(outer.turn or 0, plan.count - 1)
    elif tab is not None:
        _join_tab(run, *tab)
        runtime.batch = run
    else:
        _expand(run, runtime)
        runtime.batch = run
    setattr(p, ATTRIBUTE, run)
    return run


def tab_turn(p: Any) -> tuple[int, int] | None:
    """(number, count) of the file that img2img's batch tab works on, from 0; None elsewhere.

    The host does not say which tab a generation comes from. Its batch tab alone calls
    `process_images` on a picture with "3 out of 10" as the job's name and that many jobs; scripts
    of the list, which may do the same, are told by their place in the arguments.
    """
    found = _TAB_JOB.fullmatch(str(shared.state.job or ""))
    if found is None or getattr(p, "is_api", False) or runs_script(p):
        return None
    number, count = int(found[1]), int(found[2])
    if not getattr(p, "init_images", None) or shared.state.job_count != count * p.n_iter:
        return None
    return number - 1, count


def runs_script(p: Any) -> bool:
    """Whether a script of the script list runs this generation."""
    args = getattr(p, "script_args", None)
    return isinstance(args, (list, tuple)) and bool(args) and bool(args[0])


def _join_tab(run: BatchRun, number: int, count: int) -> None:
    """One turn: that of the file which the batch tab has reached.

    Raises:
        UnitError: there are fewer control pictures than files.
    """
    for position, found in run.plan.turns.items():
        if len(found) < count:
            msg = (
                f"{run.plan.units[position].name}: there are {len(found)} control pictures for the "
                f"{count} files of the img2img batch; give one for each"
            )
            raise UnitError(msg)
    run.first = number
    pattern = run.owner.override_settings.get("samples_filename_pattern")
    run.stem = str(pattern).removesuffix(_FILE_NUMBER) if pattern else None


def _expand(run: BatchRun, runtime: Runtime) -> None:
    """Make the host's loop run through all turns.

    Raises:
        UnitError: the host cannot run them: it upscales one picture, the prompts do not fill the
            batches, or the results cannot be saved.
    """
    p, count = run.owner, run.plan.count
    unit = run.plan.units[max(run.plan.turns)]
    if getattr(p, "txt2img_upscale", False):
        msg = (
            f"{unit.name}: input mode is {unit.input_mode.value!r}, but the upscale button works "
            "on one picture; choose a single image"
        )
        raise UnitError(msg)
    block = int(p.n_iter) * batch_size(p)
    if len(p.all_prompts) < block:
        msg = (
            f"{unit.name}: {len(p.all_prompts)} prompts do not fill {p.n_iter} batches of "
            f"{p.batch_size}; a batch of control pictures needs full batches, set the batch size "
            "to 1"
        )
        raise UnitError(msg)
    run.repeats = int(p.n_iter)
    _choose_saving(run, runtime)
    run.original = {name: getattr(p, name) for name in _RESTORED}
    step = block if runtime.option("controlnet_increment_seed_during_batch") else 0
    seeds = p.all_seeds[:block]
    p.all_seeds = [seed + turn * step for turn in range(count) for seed in seeds]
    for name in _PER_PICTURE:
        values = getattr(p, name, None)
        if values:
            setattr(p, name, values[:block] * count)
    p.n_iter = run.repeats * count
    p.do_not_save_grid = True
    p.do_not_save_samples = p.do_not_save_samples or run.saves


def batch_size(p: Any) -> int:
    """Pictures in each iteration; img2img lowers the number to that of its input pictures."""
    given = len(getattr(p, "init_images", None) or [])
    return given if 1 < given < p.batch_size else int(p.batch_size)


def _choose_saving(run: BatchRun, runtime: Runtime) -> None:
    """Results are always saved: in the unit's folder, or in the host's.

    Raises:
        UnitError: the folder is closed to the request, holds the control pictures, or cannot be
            made.
    """
    p = run.owner
    named = [unit for i, unit in enumerate(run.plan.units) if i in run.plan.turns]
    asked = [unit for unit in named if unit.output_dir.strip()]
    if asked:
        run.folder = _output_folder(asked[-1], run, runtime)
        run.saves = True
        return
    # Whoever makes `p` may have no use for files (the API, a script); the page always has.
    unwanted = p.do_not_save_samples or getattr(p, "is_api", False) or runs_script(p)
    run.saves = not (shared.opts.samples_save or unwanted)


def _output_folder(unit: ControlUnit, run: BatchRun, runtime: Runtime) -> Path:
    where = f"{unit.name}: output_dir"
    opened = pictures.batch_source(run.owner, runtime.host).folders
    if opened is not True:
        opened = [*(opened or []), *filter(None, [run.owner.outpath_samples])]
    try:
        folder = open_path(unit.output_dir, opened)
    except PATH_FAULTS as error:
        msg = f"{where} is no folder: {quote(unit.output_dir)}"
        raise UnitError(msg) from error
    if folder is None:
        msg = f"{where}: results may only be saved below {list_folders(opened)}"
        raise UnitError(msg)
    if folder in run.plan.folders:
        msg = (
            f"{where} is the folder of the control pictures, which the results would replace; "
            "name another"
        )
        raise UnitError(msg)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{where}: the folder {folder} cannot be made: {error.strerror or error}"
        raise UnitError(msg) from error
    return folder


def units_of_turn(run: BatchRun, turn: int, runtime: Runtime) -> list[ControlUnit]:
    """The units with their pictures of one turn.

    Raises:
        ControlNetError: a picture has gone since the run was planned.
    """
    instead = _script_pictures(run, runtime)
    return run.plan.at(turn, run.result if turn else None, instead, run.stem)


def _script_pictures(run: BatchRun, runtime: Runtime) -> Any:
    """What another script gives in the place of the present turn's pictures, None for nothing."""
    if not runtime.option("control_net_allow_script_control"):
        return None
    return getattr(run.owner, PICTURE_ATTRIBUTE, None)


def look_ahead(run: BatchRun, turn: int, runtime: Runtime, position: int) -> Iterator[ControlUnit]:
    """A unit with its pictures of the turns after one, as far as it is known that it gets them.

    Raises:
        ImageError: a file has gone since the run was planned.
    """
    listed, unit = run.plan.turns.get(position, ()), run.plan.units[position]
    if unit.loopback or _script_pictures(run, runtime) is not None:
        return
    if run.stem is not None and listed and listed[turn].stem != run.stem:
        return  # the batch tab goes by names of its own, and the next one is not known
    for later in range(turn + 1, run.plan.count if listed else 0):
        yield run.plan.unit_at(position, later)


def name_turn(run: BatchRun, turn: int, error: ControlNetError) -> ControlNetError:
    """The error, saying in which turn it happened."""
    place = f"picture {turn + 1} of {run.plan.count}: {run.plan.name_of(turn).name}"
    return type(error)(f"{error} ({place})", error.status_code)


def finish_picture(run: BatchRun, picture: Image.Image) -> None:
    """Keep a finished picture for loopback, and save it where the host does not.

    Args:
        run: the batch.
        picture: as the host would save it.
    """
    p = run.owner
    repeat = p.iteration % run.repeats if run.repeats else p.iteration
    number = repeat * int(p.batch_size) + int(p.batch_index)
    if number == 0 and any(unit.loopback for unit in run.plan.units):
        run.result = picture.convert("RGB")
    stopped = shared.state.interrupted or shared.state.skipped
    if stopped and not settings.option("save_incomplete_images"):
        return
    run.done += 1
    if run.saves:
        _save(run, picture, number)


def _save(run: BatchRun, picture: Image.Image, number: int) -> None:
    p, at = run.owner, int(run.owner.batch_index)
    info = processing.create_infotext(
        *(p, p.prompts, p.seeds, p.subseeds), index=at, all_negative_prompts=p.negative_prompts
    )
    default = str(shared.opts.samples_format)
    if run.folder is None:
        extra = (p.seeds[at], p.prompts[at], default)
        images.save_image(picture, p.outpath_samples, "", *extra, info=info, p=p)
        return
    control = run.plan.name_of(run.turn or 0)
    suffix = Path(control.name).suffix.lower()
    suffix = suffix if suffix in _WRITABLE else f".{default}"
    name = run.names.take(control.stem, number, suffix)
    images.save_image(
        *(picture, str(run.folder), "", p.seeds[at], p.prompts[at], suffix[1:]),
        info=info,
        p=p,
        forced_filename=name,
        save_to_dirs=False,
    )


def end(p: Any, processed: Any, runtime: Runtime) -> bool:
    """Put `p` back as it was, and keep the results of a long run out of the gallery.

    Returns:
        Whether a batch ran, whose maps are not shown.
    """
    run = run_of(p)
    if run is None:
        return False
    run.restore()
    if runtime.batch is run:
        runtime.batch = None
    if not run.repeats:
        return True
    wanted = run.repeats * batch_size(p) * run.plan.count
    folder = run.folder or p.outpath_samples
    text = f"ControlNet batch: {run.done} of {wanted} pictures made"
    saved = run.saves or (shared.opts.samples_save and not p.do_not_save_samples)
    text += f", saved in {folder}" if saved else ""
    processed.comments = f"{processed.comments}{text}\n"
    shown = runtime.option("controlnet_show_batch_images_in_ui")
    if not (shown or getattr(p, "is_api", False) or runs_script(p)):
        processed.images = []
    return True
