#!/usr/bin/env python3
"""The one entry for everybody without a WebUI: demo, test, ui, lint, bench, soak, train, install.

Needs nothing but Python: makes an environment of its own beside this file (`.venv-dev`), installs
the pinned requirements into it once, and runs the wanted program there.

Environment variables:
    DEV_PYTHON       the Python to build the environment with (3.10 or 3.11; 3.12 with --newest
                     and --forge-like).
    DEV_TORCH_INDEX  where to install torch from, for example a CUDA index; default: its CPU build.
"""

from __future__ import annotations

import argparse
import compileall
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from threading import Lock
from typing import Any

ROOT = Path(__file__).resolve().parent
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
NO_TESTS = 5  # pytest's exit status when nothing was selected
SUITES = ("unit", "http", "host", "train", "matrix", "forge", "networks", "tools")
"""Those that take longest come first: as many run side by side as there are cores, and one more."""
USED = """
import accelerate, cv2, gradio, hypothesis, omegaconf, playwright.sync_api, pytest, torchsde
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer
"""
OF_GRADIO_4 = ("gradio4",)
"""Those that `--forge-like` runs besides the unit tests."""
SCRIPTS = {
    "demo": "minihost/demo.py",
    "ui": "minihost/launch.py",
    "bench": "minihost/bench.py",
    "soak": "tests/fuzz/soak.py",
    "tried-on": "minihost/tried_on.py",
    "train-assets": "minihost/train_assets.py",
}


class DevError(Exception):
    """Something the reader of the message can put right."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment of this repository: its folder, requirements and fitting Pythons.

    Attributes:
        forced: a file of requirements that go against those of other packages.
    """

    folder: str
    requirements: tuple[str, ...]
    pythons: tuple[tuple[int, int], ...]
    forced: str = ""

    @property
    def path(self) -> Path:
        return ROOT / self.folder

    @property
    def python(self) -> Path:
        return self.path / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def packages(self) -> Path:
        """The folder of what is installed in it, once it is made."""
        places = ("lib/python3.*/site-packages", "Lib/site-packages")
        return next(path for place in places for path in self.path.glob(place))

    @property
    def stamp(self) -> Path:
        """The file that holds the fingerprint of what is installed, written last."""
        return self.path / ".requirements"

    def is_ready(self) -> bool:
        """Whether all that its requirement files name is installed."""
        if not self.stamp.is_file() or not self.python.exists():
            return False
        return self.stamp.read_text(encoding="utf-8") == self.fingerprint()

    def pins(self) -> dict[str, str]:
        """Packages and their versions in its requirement files, and in those that they name."""
        found, files = {}, list(self.requirements)
        while files:
            text = (ROOT / "requirements" / files.pop()).read_text(encoding="utf-8")
            for line in text.splitlines():
                if line.startswith("-r "):
                    files.append(line[3:].strip())
                elif "==" in line and not line.startswith("#"):
                    name, _, version = line.partition("==")
                    found[plain_name(name)] = version.strip()
        return found

    def fingerprint(self) -> str:
        """Hash of every requirement file that decides what is installed."""
        digest = hashlib.sha256()
        for file in sorted((ROOT / "requirements").glob("*.txt")):
            digest.update(file.name.encode() + file.read_bytes().replace(b"\r\n", b"\n"))
        digest.update(os.environ.get("DEV_TORCH_INDEX", "").encode())
        return digest.hexdigest()


HOST = Environment(".venv-dev", ("torch.txt", "host.txt"), ((3, 11), (3, 10)))
NEWEST = Environment(".venv-newest", ("torch.txt", "newest.txt"), ((3, 11), (3, 12), (3, 10)))
FORGE = Environment(
    ".venv-forge", ("torch.txt", "forge.txt"), ((3, 11), (3, 12), (3, 13)), "forge-forced.txt"
)
LINT = Environment(".venv-lint", ("lint.txt",), ((3, 11), (3, 10), (3, 12), (3, 13), (3, 14)))


def plain_name(package: str) -> str:
    """A package's name as all ways to write it have in common."""
    return re.sub(r"[-_.]+", "-", package).lower()


def say(text: str) -> None:
    print(f"dev: {text}", flush=True)


def version_of(python: str) -> tuple[int, int] | None:
    """(major, minor) of a Python command, None where it does not run."""
    code = "import sys; print(*sys.version_info[:2])"
    try:
        out = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
        major, minor = out.stdout.split()
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None
    return int(major), int(minor)


def find_python(env: Environment) -> str:
    """A Python that the environment's pins have wheels for: DEV_PYTHON, this one, or from PATH."""
    chosen = os.environ.get("DEV_PYTHON")
    candidates = [chosen] if chosen else [sys.executable]
    if not chosen:
        for major, minor in env.pythons:
            candidates += [shutil.which(f"python{major}.{minor}") or ""]
            home = os.environ.get("LOCALAPPDATA", "")
            candidates += [f"{home}/Programs/Python/Python{major}{minor}/python.exe"]
    for python in filter(None, candidates):
        if version_of(python) in env.pythons:
            return python
    wanted = " or ".join(f"{major}.{minor}" for major, minor in sorted(env.pythons))
    found = f"DEV_PYTHON={chosen}" if chosen else f"{sys.executable} ({sys.version.split()[0]})"
    msg = (
        f"needs Python {wanted}, found {found}. Install one of them (from python.org, or with "
        "pyenv, uv or conda) and name it, for example DEV_PYTHON=/path/to/python3.11"
    )
    raise DevError(msg)


def pip(env: Environment, *arguments: str, quiet_failure: bool = False) -> bool:
    """Run pip in the environment.

    Returns:
        Whether it succeeded.
    """
    # Python compiles the modules that are imported; pip all there are, for most of its time.
    base = [str(env.python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    base += ["--no-compile"]
    stderr = subprocess.DEVNULL if quiet_failure else None
    return subprocess.run([*base, *arguments], cwd=ROOT, stderr=stderr, check=False).returncode == 0


def install_torch(env: Environment) -> bool:
    """Install the pinned torch, on Linux its CPU build: the plain one brings gigabytes of CUDA."""
    pin = (ROOT / "requirements/torch.txt").read_text(encoding="utf-8").split()[-1]
    index = os.environ.get("DEV_TORCH_INDEX")
    if index:
        return pip(env, pin, "--index-url", index)
    if sys.platform != "linux":
        return pip(env, pin)
    # A package mirror may well have the CPU build; ask it before going elsewhere.
    return pip(env, f"{pin}+cpu", quiet_failure=True) or pip(
        env, f"{pin}+cpu", "--index-url", CPU_INDEX
    )


def create(env: Environment) -> None:
    """Make the virtual environment afresh, with what it shares with others, and pip."""
    python = find_python(env)
    say(f"making {env.folder} with {python}")
    if env.path.exists():
        shutil.rmtree(env.path)
    if Path(python) == Path(sys.executable):
        venv.EnvBuilder().create(env.path)
    else:
        subprocess.run([python, "-m", "venv", "--without-pip", str(env.path)], check=True)
    for other in (HOST, NEWEST, FORGE):
        link_installed(env, other)
    if "pip" not in installed_in(env):
        command = [str(env.python), "-Im", "ensurepip", "--upgrade", "--default-pip"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def link_installed(env: Environment, other: Environment) -> None:
    """Give a new environment what it shares with another, as links to the same files.

    They are the files that pip would unpack, which for torch takes longer than for all else, and
    most are compiled. pip replaces files and writes into none, so each environment stays its own.
    """
    if not other.is_ready() or version_of(str(other.python)) != version_of(str(env.python)):
        return
    try:
        for package in find_shared(env, other):
            link_package(package, other.packages, env.packages)
    except OSError as error:  # a file system without links: pip unpacks
        say(f"{env.folder} shares nothing with {other.folder} ({error})")


def find_shared(env: Environment, other: Environment) -> list[metadata.Distribution]:
    """What another environment has of the same pins, pip, and what these packages need.

    Nothing pins the latter: pip keeps what fits, and replaces the rest.
    """
    pins, held = env.pins(), installed_in(other)
    needed, asked = set(installed_in(env)), ["pip", *pins]
    found = []
    while asked:
        name = asked.pop()
        if name in needed or name not in held:
            continue
        needed.add(name)
        package = held[name]
        if pins.get(name) in (None, package.version.partition("+")[0]):
            found.append(package)
        required = [text for text in package.requires or () if "extra ==" not in text]
        asked += [plain_name(re.split(r"[^\w.-]", text, maxsplit=1)[0]) for text in required]
    return found


def installed_in(env: Environment) -> dict[str, metadata.Distribution]:
    """The packages of an environment by their names."""
    packages = metadata.distributions(path=[str(env.packages)])
    return {plain_name(package.metadata["Name"]): package for package in packages}


def link_package(package: metadata.Distribution, there: Path, here: Path) -> None:
    """Link the files of one package; those that say it is installed come last.

    Its programs in `bin` name the Python of the environment they are in, and stay there.
    """
    files = {Path(str(file)) for file in package.files or () if ".." not in file.parts}
    for folder in {file.parent / "__pycache__" for file in files if file.suffix == ".py"}:
        for path in (there / folder).glob("*.pyc"):
            if folder.parent / f"{path.name.partition('.')[0]}.py" in files:
                files.add(path.relative_to(there))
    for file in sorted(files, key=lambda file: file.parts[0].endswith(".dist-info")):
        (here / file).parent.mkdir(parents=True, exist_ok=True)
        if not (here / file).exists():
            os.link(there / file, here / file)


def compile_used(env: Environment) -> None:
    """Compile what nearly every process of the environment imports.

    pip has compiled nothing. Suites that start together would each do it, and where
    PYTHONDONTWRITEBYTECODE is set, as in many containers, each of some fifty processes, every time.
    """
    settings = {"GRADIO_ANALYTICS_ENABLED": "False", "PYTHONDONTWRITEBYTECODE": ""}
    command = [str(env.python), "-c", USED]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **settings}, check=False)


def ensure(env: Environment) -> Path:
    """Bring the environment up to date with its requirement files.

    Returns:
        Its Python.
    """
    if env.is_ready():
        return env.python
    try:
        if not env.python.exists() or version_of(str(env.python)) not in env.pythons:
            create(env)
    except (OSError, subprocess.CalledProcessError) as error:
        msg = (
            f"could not make {env.folder} ({error}); on Debian and Ubuntu the package python3-venv "
            "has to be installed first"
        )
        raise DevError(msg) from error
    started = time.monotonic()
    env.stamp.unlink(missing_ok=True)
    say(f"installing {', '.join(env.requirements)} (once; a few minutes the first time)")
    if "torch.txt" in env.requirements and not install_torch(env):
        msg = (
            "pip could not install torch, see its message above. Without a way to "
            f"{CPU_INDEX} set DEV_TORCH_INDEX to an index that has it, then run this again"
        )
        raise DevError(msg)
    files = [f"requirements/{name}" for name in env.requirements if name != "torch.txt"]
    if not pip(env, *(part for file in files for part in ("-r", file))):
        msg = (
            f"pip could not install {', '.join(files)}, see its message above. Check the network, "
            f"or delete {env.folder} and run this again"
        )
        raise DevError(msg)
    if env.forced and not pip(env, "--no-deps", "-r", f"requirements/{env.forced}"):
        msg = f"pip could not install {env.forced}, see its message above"
        raise DevError(msg)
    if env is HOST:  # the others link what is compiled there
        compile_used(env)
    env.stamp.write_text(env.fingerprint(), encoding="utf-8")
    say(f"installed in {time.monotonic() - started:.0f} s")
    return env.python


def run(python: Path, *arguments: str, output: Any = None) -> int:
    """Run a program of the repository in its environment and give back its exit status.

    Args:
        python: the environment's.
        arguments: for it.
        output: an open file that gets what it says, in the place of the terminal.
    """
    settings = {"GRADIO_ANALYTICS_ENABLED": "False", "PYTHONUNBUFFERED": "1"}
    try:
        command = [str(python), *arguments]
        return subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **settings},
            check=False,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
        ).returncode
    except KeyboardInterrupt:
        return 130


def lint(python: Path, options: argparse.Namespace, rest: list[str]) -> int:
    """Check code, layout and, unless paths are named, types; with --fix put right what can be.

    The types of torch, numpy and all else are those of the host's environment.
    """
    check = ["check", "--fix"] if options.fix else ["check"]
    layout = ["format"] if options.fix else ["format", "--check"]
    paths = rest or ["."]
    results = [run(python, "-m", "ruff", *command, *paths) for command in (check, layout)]
    if not rest:
        packages = python if options.here else ensure(HOST)
        results.append(run(python, "-m", "mypy", f"--python-executable={packages}"))
    return max(results)


def run_suite(
    python: Path, suite: str, options: list[str], output: Lock | None = None
) -> tuple[str, int]:
    """Run one folder of tests in a fresh process.

    Args:
        python: the environment's.
        suite: the folder below `tests/`.
        options: for pytest.
        output: where others run beside it: held while what it said is shown, when it has ended.

    Returns:
        A line for the summary, and the exit status.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as file:
        command = ("-m", "pytest", f"tests/{suite}", *options)
        status = run(python, *command, output=None if output is None else file)
        with output or nullcontext():
            file.seek(0)
            shutil.copyfileobj(file, sys.stdout)
    word = {0: "ok", NO_TESTS: "nothing selected"}.get(status, "FAILED")
    return f"{suite} {word} ({time.monotonic() - started:.0f} s)", status


def run_suites(python: Path, suites: tuple[str, ...], options: list[str]) -> list[tuple[str, int]]:
    """Run all suites, side by side: some wait for servers and browsers, and none for another.

    A process each, not workers for each, so that what all tests import is imported once a suite.
    """
    lanes = min(len(suites), (os.cpu_count() or 1) + 1)
    for folder in ("lib_controlnet", "annotator", "minihost"):  # see compile_used
        compileall.compile_dir(ROOT / folder, quiet=2)
    say(f"running {', '.join(suites)}, {lanes} at a time; each is shown when it has ended")
    output = Lock()
    pool = ThreadPoolExecutor(lanes)
    try:
        started = [pool.submit(run_suite, python, suite, options, output) for suite in suites]
        return [suite.result() for suite in started]
    finally:
        pool.shutdown(cancel_futures=True)


def test(python: Path, options: argparse.Namespace, rest: list[str]) -> int:
    """Run the suites that are asked for, each in a fresh process."""
    common = list(rest)
    if options.no_browser:
        common += ["-m", "not browser"]
    if options.webui_url:
        common += [f"--webui-url={options.webui_url}"]
    if options.sdxl_checkpoint:
        names = (options.sdxl_checkpoint, options.sdxl_control)
        common += [f"--sdxl-checkpoint={names[0]}", f"--sdxl-control={names[1]}"]
    k = options.k or ("sdxl" if options.sdxl_checkpoint else None)
    if k:
        common += ["-k", k]
    if any(not word.startswith("-") and (ROOT / word.split("::")[0]).exists() for word in rest):
        return run(python, "-m", "pytest", *common)
    if options.fast or options.forge_like:  # the embedded WebUI is one of gradio 3
        # Whole files to each of two workers, in the order of their names: else files of few tests
        # come last, and those take longest.
        workers = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
        results = [run_suite(python, "unit", [*workers, *common])]
        if options.forge_like:
            results += [run_suite(python, suite, common) for suite in OF_GRADIO_4]
    elif options.webui_url:  # it generates for one of them at a time
        given = ("http", "matrix") if options.sdxl_checkpoint else ("http",)
        results = [run_suite(python, suite, common) for suite in given]
    else:
        results = run_suites(python, SUITES, common)
    report = [line for line, _status in results]
    failed = any(status not in (0, NO_TESTS) for _line, status in results)
    say(", ".join(report))
    ran_something = any(status != NO_TESTS for _line, status in results)
    return 1 if failed else 0 if ran_something else NO_TESTS


def parser() -> argparse.ArgumentParser:
    """The command line. What a subcommand does not know goes to the program it starts."""
    shared = argparse.ArgumentParser(add_help=False)
    stack = shared.add_mutually_exclusive_group()
    stack.add_argument("--newest", action="store_true", help="use the newest web stack")
    text = "use the web stack of the Forge family: unit tests and the panel's page"
    stack.add_argument("--forge-like", action="store_true", help=text)
    shared.add_argument(
        "--here", action="store_true", help="use the Python that runs this, install nothing"
    )
    top = argparse.ArgumentParser(prog="dev.py", description=__doc__.split("\n", maxsplit=1)[0])
    commands = top.add_subparsers(dest="command", required=True)

    def command(name: str, text: str, **more: Any) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, parents=[shared], allow_abbrev=False, **more)

    command("demo", "generate from a photograph and write a contact sheet to demo-output/")
    tests = command("test", "run the test suite; further options go to pytest")
    tests.add_argument("--fast", action="store_true", help="unit tests only")
    tests.add_argument("--webui-url", metavar="URL", help="run tests/http against this WebUI")
    text = "with --webui-url and --sdxl-control: the tests of SDXL (docs/matrix.md)"
    tests.add_argument("--sdxl-checkpoint", metavar="NAME", help=text)
    tests.add_argument("--sdxl-control", metavar="NAME", help="a ControlNet for that checkpoint")
    tests.add_argument("--no-browser", action="store_true", help="leave the browser tests out")
    tests.add_argument("-k", metavar="EXPRESSION", help="only tests with matching names")
    command("ui", "open the embedded WebUI in the browser; further options go to it")
    command("install", "make the environment that the others need, and do nothing with it")
    command("lint", "check style, layout and types").add_argument("--fix", action="store_true")
    command("bench", "measure speed and memory, as ratios within one run")
    text = "many generations, malformed requests and damaged files; --help tells its options"
    command("soak", text, add_help=False)
    text = "a short list of cases in running WebUIs, as a table; --help tells its options"
    command("tried-on", text, add_help=False)
    command("train", "train a ControlNet of your own; further words go to the trainer")
    command("train-assets", "train the small demo models again")
    return top


def main(arguments: list[str]) -> int:
    """Prepare the environment and run the subcommand in it."""
    options, rest = parser().parse_known_args(arguments)
    env = NEWEST if options.newest else FORGE if options.forge_like else HOST
    env = LINT if options.command == "lint" else env
    python = Path(sys.executable) if options.here else ensure(env)
    if options.command == "install":
        return 0
    if options.command == "lint":
        return lint(python, options, rest)
    if options.command == "test":
        return test(python, options, rest)
    if options.command == "ui":
        rest = ["--autolaunch", *rest]
    if options.command == "train":
        return run(python, "-m", "lib_controlnet.train", *rest)
    return run(python, SCRIPTS[options.command], *rest)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except DevError as problem:
        sys.exit(f"dev: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
