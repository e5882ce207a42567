"""Start-up files of the extension and the development command line."""

from __future__ import annotations

import argparse
import configparser
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

import pytest

import dev
import install
import preload
from lib_controlnet.detect.preprocess import DetectionCache

ROOT = Path(__file__).resolve().parents[2]
FLAGS = {
    "--controlnet-dir": ("controlnet_dir", None),
    "--controlnet-annotator-models-path": ("controlnet_annotator_models_path", None),
    "--no-half-controlnet": ("no_half_controlnet", None),
    "--controlnet-preprocessor-cache-size": ("controlnet_preprocessor_cache_size", 16),
    "--controlnet-loglevel": ("controlnet_loglevel", "INFO"),
    "--controlnet-tracemalloc": ("controlnet_tracemalloc", None),
}


def test_row_21_flags_exist_with_their_defaults() -> None:
    parser = argparse.ArgumentParser()
    preload.preload(parser)
    assert vars(parser.parse_args([])) == dict(FLAGS.values())
    assert FLAGS["--controlnet-preprocessor-cache-size"][1] == DetectionCache().max_count


@pytest.mark.parametrize("taken", FLAGS)
def test_preload_flag_taken_by_the_host_keeps_all_others(taken: str) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(taken, default="the host's")
    preload.preload(parser)
    values = vars(parser.parse_args([]))
    assert set(values) == {name for name, _ in FLAGS.values()}
    assert values[FLAGS[taken][0]] == "the host's"


def test_preload_twice_changes_nothing() -> None:
    parser = argparse.ArgumentParser()
    preload.preload(parser)
    preload.preload(parser)
    given = parser.parse_args(
        ["--controlnet-dir", "x", "--no-half-controlnet", "--controlnet-loglevel", "DEBUG"]
    )
    assert (given.controlnet_dir, given.no_half_controlnet) == ("x", True)
    assert given.controlnet_loglevel == "DEBUG"


def test_metadata_names_the_extension() -> None:
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "metadata.ini", encoding="utf-8")
    assert metadata["Extension"]["Name"] == "sd-webui-controlnet"


def test_installer_knows_what_is_there_and_what_is_not() -> None:
    assert install.is_installed("pytest")
    assert not install.is_installed("no-such-distribution")


def test_installer_prints_at_most_one_line() -> None:
    out = subprocess.run(
        [sys.executable, str(ROOT / "install.py")], capture_output=True, text=True, check=True
    )
    assert len(out.stdout.splitlines()) <= 1
    assert not out.stderr


def test_dev_passes_unknown_options_on() -> None:
    options, rest = dev.parser().parse_known_args(["test", "--fast", "-k", "unit", "-x", "--lf"])
    assert (options.fast, options.k, rest) == (True, "unit", ["-x", "--lf"])


@pytest.mark.parametrize("command", ["demo", "ui", "bench", "train-assets"])
def test_dev_subcommand_has_its_program(command: str) -> None:
    assert dev.parser().parse_args([command]).command == command
    assert (ROOT / dev.SCRIPTS[command]).is_file()


def test_dev_train_passes_its_words_to_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs()
    monkeypatch.setattr(dev, "run", runs)
    assert dev.main(["train", "--here", "init", "base", "out", "--seed", "3"]) == 0
    assert runs.commands == [("-m", "lib_controlnet.train", "init", "base", "out", "--seed", "3")]


@pytest.mark.parametrize(
    "env", [dev.HOST, dev.NEWEST, dev.FORGE, dev.LINT], ids=lambda env: env.folder
)
def test_dev_environment_requirements_exist_and_are_pinned(env: dev.Environment) -> None:
    for name in (*env.requirements, *filter(None, [env.forced])):
        lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
        entries = [line for line in lines if line and not line.startswith("#")]
        assert entries
        for entry in entries:
            if entry.startswith("-r "):
                assert (ROOT / "requirements" / entry[3:]).is_file(), entry
            else:
                assert "==" in entry, f"{name}: {entry} is not pinned"


def test_dev_unfit_python_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEV_PYTHON", "no-such-python")
    with pytest.raises(dev.DevError, match=r"needs Python 3\.10 or 3\.11.*DEV_PYTHON"):
        dev.find_python(dev.HOST)


def test_dev_failed_installation_leaves_no_stamp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = dev.Environment(str(tmp_path / "env"), ("torch.txt", "host.txt"), dev.HOST.pythons)
    env.python.parent.mkdir(parents=True)
    env.python.write_bytes(b"")
    monkeypatch.setattr(dev, "version_of", lambda _python: (3, 11))
    monkeypatch.setattr(dev, "pip", lambda *_arguments, **_options: False)
    with pytest.raises(dev.DevError, match="DEV_TORCH_INDEX"):
        dev.ensure(env)
    assert not (env.path / ".requirements").exists()


def test_dev_environment_has_pip_of_its_own_where_nothing_is_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = dev.Environment(str(tmp_path / "env"), ("lint.txt",), (sys.version_info[:2],))
    monkeypatch.setattr(dev, "link_installed", lambda _env, _other: None)
    dev.create(env)
    assert "pip" in dev.installed_in(env)


def test_dev_prepared_environment_is_used_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = dev.Environment(str(tmp_path / "env"), ("host.txt",), dev.HOST.pythons)
    env.python.parent.mkdir(parents=True)
    env.python.write_bytes(b"")
    (env.path / ".requirements").write_text(env.fingerprint(), encoding="utf-8")

    def no_pip(*_arguments: object, **_options: object) -> bool:
        pytest.fail("pip ran although the requirements are those of the stamp")

    monkeypatch.setattr(dev, "pip", no_pip)
    assert dev.ensure(env) == env.python


REQUIRED = "# A word.\n-r more.txt\nPinned_One==1.0\nother==2.0\n"
HELD = {
    **{"pinned-one": "1.0", "other": "1.0", "of.more": "3.0+cpu", "brought.along": "4.0"},
    **{"of-old": "5.0", "stray": "6.0", "pip": "7.0"},
}
NEEDS = {
    "pinned-one": ("Brought_Along (>=3) ; python_version > '3.8'", "stray ; extra == 'all'"),
    "brought.along": ("pinned-one", "not-there!=1"),
    "other": ("of-old[some]>=1",),
}


def hold(packages: Path, name: str, version: str) -> None:
    """An installed package of one compiled module and a program."""
    needs = "".join(f"Requires-Dist: {text}\n" for text in NEEDS.get(name, ()))
    module, info = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}.dist-info"
    texts = {
        f"{module}/__init__.py": "",
        f"{module}/__pycache__/__init__.cpython-311.pyc": "",
        f"{module}/__pycache__/gone.cpython-311.pyc": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/RECORD": f"../../../bin/{name},,\n{module}/__init__.py,,\n{info}/METADATA,,\n",
    }
    for file, text in texts.items():
        (packages / file).parent.mkdir(parents=True, exist_ok=True)
        (packages / file).write_text(text)


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dev.Environment, dev.Environment]:
    """A new environment, and one that holds some packages."""
    monkeypatch.setattr(dev, "ROOT", tmp_path)
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements/some.txt").write_text(REQUIRED)
    (tmp_path / "requirements/more.txt").write_text("of-more==3.0\n")
    made = [dev.Environment(name, ("some.txt",), dev.HOST.pythons) for name in ("new", "old")]
    for env in made:
        (env.path / "lib/python3.11/site-packages").mkdir(parents=True)
        env.python.parent.mkdir()
        env.python.write_text("")
    for name, version in HELD.items():
        hold(made[1].packages, name, version)
    made[1].stamp.write_text(made[1].fingerprint())
    monkeypatch.setattr(dev, "version_of", lambda _python: (3, 11))
    return made[0], made[1]


def test_dev_environments_share_the_files_of_equal_pins(
    two: tuple[dev.Environment, dev.Environment],
) -> None:
    """And of what those need, but nothing over what the new one has."""
    new, old = two
    hold(new.packages, "of-old", "4.0")

    def files() -> set[Path]:
        every = new.packages.rglob("*")
        return {path.relative_to(new.packages) for path in every if path.is_file()}

    own = files()
    dev.link_installed(new, old)
    found = files() - own
    assert {path.parts[0] for path in found} == {
        *("pinned_one", "pinned_one-1.0.dist-info", "of.more", "of.more-3.0+cpu.dist-info"),
        *("brought.along", "brought.along-4.0.dist-info", "pip", "pip-7.0.dist-info"),
    }
    compiled = Path("pinned_one/__pycache__/__init__.cpython-311.pyc")
    assert compiled in found
    assert not [path for path in found if path.name.startswith("gone")]
    assert all((new.packages / path).samefile(old.packages / path) for path in found)
    assert not (new.path / "bin/pinned-one").exists()


@pytest.mark.parametrize("reason", ["not finished", "another Python", "no links"])
def test_dev_environment_that_nothing_can_be_shared_with_is_installed_by_pip(
    two: tuple[dev.Environment, dev.Environment], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_paths: Path) -> None:
        msg = "not supported"
        raise OSError(msg)

    new, old = two
    if reason == "not finished":
        old.stamp.unlink()
    elif reason == "another Python":
        versions = {str(new.python): (3, 12), str(old.python): (3, 11)}
        monkeypatch.setattr(dev, "version_of", versions.get)
    else:
        monkeypatch.setattr(dev.os, "link", no_link)
    dev.link_installed(new, old)
    assert not list(new.packages.glob("*.dist-info")), "pip would take it for installed"


def test_dev_leaves_compiled_what_processes_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported.py").write_text("")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import imported"
    monkeypatch.setattr(dev, "USED", code)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    dev.compile_used(SimpleNamespace(python=sys.executable))
    assert list((tmp_path / "__pycache__").glob("imported.*.pyc"))


def test_dev_modules_to_compile_are_installed() -> None:
    exec(dev.USED, {})


@dataclass
class Runs:
    """Stands in for dev.run: notes the commands, answers with prepared exit statuses."""

    statuses: dict[str, int] = field(default_factory=dict)
    commands: list[tuple[str, ...]] = field(default_factory=list)

    def __call__(self, _python: Path, *arguments: str, output: object = None) -> int:
        self.commands.append(arguments)
        return next((s for word, s in self.statuses.items() if word in arguments), 0)


def run_tests(monkeypatch: pytest.MonkeyPatch, words: list[str], **statuses: int) -> tuple:
    runs = Runs({f"tests/{suite}": status for suite, status in statuses.items()})
    monkeypatch.setattr(dev, "run", runs)
    options, rest = dev.parser().parse_known_args(["test", *words])
    status = dev.test(Path("python"), options, rest)
    return status, [command[2:] for command in runs.commands]


@pytest.mark.parametrize(
    ("words", "programs"),
    [
        ([], ["ruff", "ruff", "mypy"]),
        (["--fix"], ["ruff", "ruff", "mypy"]),
        (["scripts"], ["ruff", "ruff"]),
    ],
)
def test_dev_lint_checks_style_layout_and_types(
    monkeypatch: pytest.MonkeyPatch, words: list[str], programs: list[str]
) -> None:
    runs = Runs({"mypy": 1})
    monkeypatch.setattr(dev, "run", runs)
    monkeypatch.setattr(dev, "ensure", lambda env: env.python)
    options, rest = dev.parser().parse_known_args(["lint", *words])
    assert dev.lint(dev.LINT.python, options, rest) == int("mypy" in programs)
    assert [command[1] for command in runs.commands] == programs
    if "mypy" in programs:
        assert runs.commands[-1][2:] == (f"--python-executable={dev.HOST.python}",)


WORKERS = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
UNIT = ("tests/unit", *WORKERS)
EVERY_SUITE = [(f"tests/{suite}",) for suite in dev.SUITES]
ON_SDXL = (*("--webui-url=http://x", "--sdxl-checkpoint=a", "--sdxl-control=b", "-k", "sdxl"),)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], EVERY_SUITE),
        (["--no-browser"], [(*suite, "-m", "not browser") for suite in EVERY_SUITE]),
        (["--fast"], [UNIT]),
        (["--fast", "-x"], [(*UNIT, "-x")]),
        (["--webui-url", "http://x"], [("tests/http", "--webui-url=http://x")]),
        (
            ["--webui-url", "http://x", "--sdxl-checkpoint", "a", "--sdxl-control", "b"],
            [("tests/http", *ON_SDXL), ("tests/matrix", *ON_SDXL)],
        ),
        (["--fast", "--no-browser"], [(*UNIT, "-m", "not browser")]),
        (["--fast", "-k", "a or b"], [(*UNIT, "-k", "a or b")]),
        (["tests/unit/test_readme.py::test_x"], [("tests/unit/test_readme.py::test_x",)]),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value[0], str) else "",
)
def test_dev_test_starts_the_suites(
    monkeypatch: pytest.MonkeyPatch, words: list[str], expected: list[tuple[str, ...]]
) -> None:
    status, commands = run_tests(monkeypatch, words)
    assert (status, sorted(commands)) == (0, sorted(expected))  # they start side by side


def test_dev_suites_are_all_folders_with_tests() -> None:
    found = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert found == {*dev.SUITES, *dev.OF_GRADIO_4}
    assert len(dev.SUITES) == len(set(dev.SUITES))


def test_dev_output_of_suites_side_by_side_is_not_mixed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def speak(_python: Path, *arguments: str, output: TextIO) -> int:
        for number in range(3):
            print(f"{arguments[2]} {number}", file=output, flush=True)
            time.sleep(0.01)
        return 0

    monkeypatch.setattr(dev, "run", speak)
    results = dev.run_suites(Path("python"), dev.SUITES, [])
    assert [line.split()[0] for line, _status in results] == list(dev.SUITES)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("tests/")]
    assert len(lines) == 3 * len(dev.SUITES)
    for start in range(0, len(lines), 3):
        suite = lines[start].split()[0]
        assert lines[start : start + 3] == [f"{suite} {number}" for number in range(3)]


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ({"unit": 1}, 1),
        ({"host": 2}, 1),
        ({"matrix": 1}, 1),
        ({"unit": 5, "http": 5}, 0),
        (dict.fromkeys(dev.SUITES, 5), 5),
    ],
    ids=[
        "a failed suite",
        "a broken suite",
        "a failed matrix",
        "selected in one",
        "selected nowhere",
    ],
)
def test_dev_test_status_is_that_of_all_suites(
    monkeypatch: pytest.MonkeyPatch, statuses: dict[str, int], expected: int
) -> None:
    status, commands = run_tests(monkeypatch, [], **statuses)
    assert status == expected
    assert len(commands) == len(dev.SUITES), "a failure must not hide the later suites"
