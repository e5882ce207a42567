"""The script "controlnet m2m": one generation per frame, the frames being control images.

Every frame is a generation on a copy of `p`; its control images are handed over as the values of
a grid's cell are, so neither a unit nor a setting changes.
"""

from __future__ import annotations

import copy
import itertools
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from modules import images, processing, shared
from PIL import Image

from lib_controlnet.detect import ahead
from lib_controlnet.enums import InputMode
from lib_controlnet.errors import ImageError, UnitError, quote
from lib_controlnet.files.paths import open_file
from lib_controlnet.host import generation, pictures
from lib_controlnet.host.runs import xyz
from lib_controlnet.pictures.movie import (
    MAX_DURATION,
    MIN_DURATION,
    Movie,
    MovieStoppedError,
    MovieWriter,
    open_movie,
)
from lib_controlnet.pictures.transport import bytes_of_text
from lib_controlnet.units import infotext

if TYPE_CHECKING:
    import numpy as np

    from lib_controlnet.host.runtime import Runtime
    from lib_controlnet.units.unit import ControlUnit

FOLDER: Final = "controlnet-m2m"
DURATION: Final = 50
_PER_UNIT: Final = 3
_NAME: Final = "controlnet m2m"


@dataclass(frozen=True)
class Track:
    """What one unit is fed with.

    Attributes:
        unit: number of the unit.
        movie: its frames, None for one picture.
        image: that picture, None for the unit's own.
        keeps_maps: the detected maps become an animation of their own.
    """

    unit: int
    movie: Movie | None
    image: Any
    keeps_maps: bool


@dataclass
class Results:
    """What the frames have given so far.

    Attributes:
        first: the host's result of the first frame.
        frames: pictures, as far as they are answered with.
        infotexts: of every frame.
        written: files.
        notes: what became of the movies.
        told: what the frames' generations had to say, each sentence once.
    """

    first: Any = None
    frames: list[Image.Image] = field(default_factory=list)
    infotexts: list[str] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    told: dict[str, None] = field(default_factory=dict)


def run(p: Any, args: Sequence[Any], runtime: Runtime) -> Any:
    """Generate all frames; without a movie, one ordinary generation.

    Args:
        p: the host's processing object.
        args: movie, picture and "save preprocessed" for every unit, then the duration of a frame
            in milliseconds.
        runtime: what all generations share.

    Raises:
        ControlNetError: a movie cannot be read, or its unit is not enabled.
    """
    values, duration = _values(args)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        files = _movie_files(p, values, runtime, Path(scratch))
        if not files:
            return processing.process_images(p)
        units = _units(p)
        _check_enabled(files, units)
        results = Results()
        try:
            tracks = list(_tracks(values, files, stack))
            _frames(p, tracks, units, duration, runtime, results)
        except MovieStoppedError as stop:
            results.notes.append(stop.detail)
        return _finish(p, results)


def _values(args: Sequence[Any]) -> tuple[list[tuple[Any, Any, bool]], int]:
    """Movie, picture and "save preprocessed" by unit, and the duration of a frame.

    Raises:
        UnitError: something of it is of the wrong kind, or the duration cannot be written.
    """
    *rest, duration = args or (None,)
    values = []
    for unit in range(len(rest) // _PER_UNIT):
        movie, image, keeps_maps = rest[_PER_UNIT * unit : _PER_UNIT * (unit + 1)]
        if movie is not None and not isinstance(movie, str):
            msg = (
                f"{_NAME}: the movie of unit {unit} is {quote(movie)}; expected base64 text, or "
                "null for none; there are three arguments for every unit, then the duration"
            )
            raise UnitError(msg)
        values.append((movie, image, bool(keeps_maps)))
    return values, _duration(duration)


def _duration(value: Any) -> int:
    """Milliseconds of a frame."""
    if value is None or value == "":
        return DURATION
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            if MIN_DURATION <= float(value) <= MAX_DURATION:
                return int(float(value))
    msg = (
        f"{_NAME}: the duration of a frame is {quote(value)}; expected {MIN_DURATION} to "
        f"{MAX_DURATION} milliseconds, as the last of the script's arguments"
    )
    raise UnitError(msg)


def _is_stopped() -> bool:
    return bool(shared.state.interrupted or shared.state.stopping_generation)


def _movie_files(
    p: Any, values: Sequence[tuple[Any, Any, bool]], runtime: Runtime, scratch: Path
) -> dict[int, Path]:
    found = {
        unit: _movie_file(movie, unit, p, runtime, scratch)
        for unit, (movie, _image, _keeps_maps) in enumerate(values)
    }
    return {unit: path for unit, path in found.items() if path is not None}


def _tracks(
    values: Sequence[tuple[Any, Any, bool]], files: dict[int, Path], stack: ExitStack
) -> Iterator[Track]:
    for unit, (_movie, image, keeps_maps) in enumerate(values):
        movie = None
        if unit in files:
            movie = open_movie(files[unit], f"{_NAME}: the movie of unit {unit}", _is_stopped)
            stack.callback(movie.close)
        yield Track(unit, movie, image, keeps_maps)


def _movie_file(value: Any, unit: int, p: Any, runtime: Runtime, scratch: Path) -> Path | None:
    """A file with the movie; requests over HTTP send it as base64, or name an opened folder's.

    Raises:
        ImageError: the path is closed to the request, or the text is no base64.
    """
    if value is None or value == "":
        return None
    if not getattr(p, "is_api", False):
        return Path(value)
    where = f"{_NAME}: the movie of unit {unit}"
    path = open_file(value, pictures.source(runtime.host).allow_paths)
    if path is not None:
        return path
    data = bytes_of_text(value)
    if not data:
        msg = (
            f"{where} is neither base64 nor a file in a folder that is opened for requests; send "
            "the file as base64"
        )
        raise ImageError(msg)
    path = scratch / f"movie-{unit}"
    path.write_bytes(data)
    return path


def _units(p: Any) -> list[ControlUnit]:
    """The units of the panel, as the generation of a frame will get them."""
    runner = p.scripts
    for script in [] if runner is None else runner.alwayson_scripts:
        if getattr(script, "controlnet_runtime", None) is not None:
            return generation.read_units(p.script_args[script.args_from : script.args_to])
    return []


def _check_enabled(files: dict[int, Path], units: Sequence[ControlUnit]) -> None:
    enabled = {unit.index for unit in units if unit.enabled}
    idle = [unit for unit in files if unit not in enabled]
    if idle:
        msg = (
            f"{_NAME}: a movie is given for unit {idle[0]}, which is not enabled; enable it in the "
            "ControlNet panel and choose its preprocessor and model there, or take the movie away"
        )
        raise UnitError(msg)


def _frames(
    p: Any,
    tracks: Sequence[Track],
    units: Sequence[ControlUnit],
    duration: int,
    runtime: Runtime,
    results: Results,
) -> None:
    """Generate frame after frame until the shortest movie ends, or the user has enough.

    Raises:
        ImageError: a movie is damaged before its second frame. Later, its end is where the damage
            is, and a note says so.
    """
    movies = {track.unit: track.movie for track in tracks if track.movie is not None}
    count = min(movie.count for movie in movies.values())
    processing.fix_seed(p)
    shared.state.job_count = count
    is_shown = runtime.option("controlnet_show_batch_images_in_ui")
    keeps_frames = getattr(p, "is_api", False) or is_shown
    with ExitStack() as stack:
        writers = Writers(p, tracks, duration, results)
        stack.callback(writers.close)  # what is done is written, however the run ends
        stack.callback(runtime.detections.ahead.clear)
        every = _with_later(_together(movies.values(), stack, results))
        for number, (frames, later) in enumerate(every):
            if _is_stopped():
                break
            shared.state.job = f"Frame {number + 1} of {count}"
            given = {track.unit: track.image for track in tracks if track.image is not None}
            given |= dict(zip(movies, frames, strict=True))
            maps: dict[int, list[Any]] = {}
            frame = _copy(p, units, given, maps)
            coming = [dict(zip(movies, others, strict=True)) for others in later]
            setattr(frame, generation.LATER_ATTRIBUTE, coming)
            made = processing.process_images(frame)
            results.first = results.first or made
            results.told |= dict.fromkeys(_read_notes(made))
            if shared.state.interrupted or shared.state.skipped or not made.images:
                continue  # the picture is not complete
            results.infotexts.append(made.infotexts[0])
            writers.add(made, maps)
            if keeps_frames:
                results.frames.append(made.images[0])
    results.notes += [note for movie in movies.values() for note in movie.notes]


def _read_notes(made: Any) -> list[str]:
    return str((made.extra_generation_params or {}).get(infotext.NOTES, "")).splitlines()


def _together(
    movies: Iterable[Movie], stack: ExitStack, results: Results
) -> Iterator[tuple[np.ndarray, ...]]:
    """Frames of all movies, until one ends; damage after the first frame is an end with a note."""
    sources = [stack.enter_context(closing(movie.frames())) for movie in movies]
    for number in itertools.count():
        try:
            found = [next(source, None) for source in sources]
        except ImageError as error:
            if not number:
                raise
            results.notes.append(f"{error.detail}; the run ends after frame {number}")
            return
        frames = tuple(frame for frame in found if frame is not None)
        if len(frames) < len(found):
            return
        yield frames


def _with_later(
    every: Iterator[tuple[np.ndarray, ...]],
) -> Iterator[tuple[tuple[np.ndarray, ...], list[tuple[np.ndarray, ...]]]]:
    """Frames with those that follow, where a preprocessor may gain by that."""
    waiting: deque[tuple[np.ndarray, ...]] = deque()
    while True:
        room = ahead.GIVEN if ahead.gains() else 0
        while not waiting or (len(waiting) < ahead.MOST and room > _pixels(waiting)):
            if (read := next(every, None)) is None:
                break
            waiting.append(read)
        if not waiting:
            return
        yield waiting.popleft(), list(waiting)


def _pixels(waiting: Iterable[tuple[np.ndarray, ...]]) -> int:
    return sum(frame.shape[0] * frame.shape[1] for frames in waiting for frame in frames)


def _copy(p: Any, units: Sequence[ControlUnit], given: dict[int, Any], maps: dict) -> Any:
    """The job of one frame: one picture, the given control images."""
    frame = copy.copy(p)
    frame.n_iter = frame.batch_size = 1
    frame.do_not_save_grid = True
    if getattr(frame, "init_images", None):
        frame.init_images = frame.init_images[:1]
    cell = xyz.cell_values(p)
    cell["image"] = [given.get(unit.index) for unit in units]
    cell["input_mode"] = InputMode.SIMPLE
    setattr(frame, xyz.ATTRIBUTE, cell)
    setattr(frame, generation.MAPS_ATTRIBUTE, maps)
    return frame


class Writers:
    """The animations of one run: of the pictures, and of the detected maps that are kept."""

    def __init__(self, p: Any, tracks: Sequence[Track], duration: int, results: Results) -> None:
        self._results = results
        self._duration = duration
        self._kept = [track.unit for track in tracks if track.keeps_maps]
        self._folder = Path(p.outpath_samples or shared.opts.outdir_samples or "outputs") / FOLDER
        self._seed = p.seed
        self._stem = ""
        self._pictures: MovieWriter | None = None
        self._maps: dict[int, MovieWriter] = {}

    def add(self, made: Any, maps: dict[int, list[Any]]) -> None:
        """Append one frame: the first picture of a generation, and its maps by unit."""
        if self._pictures is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            number = images.get_next_sequence_number(str(self._folder), "")
            self._stem = f"{number:05}-{self._seed}"
            self._pictures = self._writer("animation", comment=made.infotexts[0])
        self._pictures.add(made.images[0])
        for unit in self._kept:
            for control_map in maps.get(unit, []):
                writer = self._maps.get(unit) or self._writer(f"control{unit}", with_mp4=False)
                self._maps[unit] = writer
                writer.add(Image.fromarray(control_map[:, :, :3]))

    def _writer(self, name: str, **options: Any) -> MovieWriter:
        return MovieWriter(self._folder / f"{self._stem}-{name}", self._duration, **options)

    def close(self) -> None:
        """Finish the files, each whatever becomes of the others."""
        for writer in ([self._pictures] if self._pictures else []) + list(self._maps.values()):
            self._results.notes += writer.close()
            self._results.written += writer.written


def _finish(p: Any, results: Results) -> Any:
    """The run as one result: all frames for requests, the animation for the page."""
    processed = results.first or processing.Processed(p, [])
    shown = list(results.frames)
    animations = [path for path in results.written if path.suffix == ".gif"]
    if animations and not shown:
        with Image.open(animations[0]) as gif:
            poster = gif.convert("RGB")
        poster.already_saved_as = str(animations[0])  # the host's gallery shows that file
        shown = [poster]
    processed.images = shown
    processed.index_of_first_image = 0
    processed.infotexts = (results.infotexts or processed.infotexts)[: max(len(shown), 1)]
    names = ", ".join(str(path) for path in results.written)
    lines = [f"{len(results.infotexts)} frames, saved as {names}"] if names else []
    notes = [note if note.startswith(_NAME) else f"{_NAME}: {note}" for note in results.notes]
    for line in [*(f"{_NAME}: {line}" for line in lines), *notes]:
        processed.comments = f"{processed.comments}{line}\n"
    if notes or results.told:
        # The answer of the host's API holds the parameters, not the comments.
        told = {infotext.NOTES: "\n".join([*results.told, *notes])}
        processed.extra_generation_params = {**processed.extra_generation_params, **told}
    return processed
