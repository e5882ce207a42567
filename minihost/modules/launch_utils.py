"""What runs before the host proper: settings peeked at, extensions' installers, pip helpers."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

from modules import cmd_args, errors, paths_internal

python = sys.executable
index_url = os.environ.get("INDEX_URL", "")
args, _ = cmd_args.parser.parse_known_args()


def run(
    command: str,
    desc: str | None = None,
    errdesc: str | None = None,
    custom_env: dict[str, str] | None = None,
    live: bool = True,
) -> str:
    """Run a shell command and return its output; raise RuntimeError if it fails."""
    if desc is not None:
        sys.stdout.write(desc + "\n")
    kept = None if live else subprocess.PIPE
    result = subprocess.run(
        command, shell=True, env=custom_env or os.environ, stdout=kept, stderr=kept,
        encoding="utf8", errors="ignore", check=False,
    )  # fmt: skip
    if result.returncode != 0:
        parts = [
            f"{errdesc or 'Error running command'}.",
            f"Command: {command}",
            f"Error code: {result.returncode}",
            *(
                f"{name}: {text}"
                for name, text in (("stdout", result.stdout), ("stderr", result.stderr))
                if text
            ),
        ]
        raise RuntimeError("\n".join(parts))
    return result.stdout or ""


def is_installed(package: str) -> bool:
    """Whether a distribution or an importable module of that name exists; no version check."""
    try:
        if importlib.metadata.distribution(package) is not None:
            return True
    except (importlib.metadata.PackageNotFoundError, ValueError):
        pass
    try:
        return importlib.util.find_spec(package) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def run_pip(command: str, desc: str | None = None, live: bool = False) -> str | None:
    """Run `pip <command>`; nothing happens with --skip-install."""
    if args.skip_install:
        return None
    index = f" --index-url {index_url}" if index_url else ""
    return run(
        f'"{python}" -m pip {command} --prefer-binary{index}',
        desc=f"Installing {desc}",
        errdesc=f"Couldn't install {desc}",
        live=live,
    )


def disabled_extension_names() -> set[str]:
    """Names of disabled extensions: from the settings file, as the options are not built yet."""
    file = Path(paths_internal.data_path) / "config.json"
    if not file.is_file():
        return set()
    try:
        settings = json.loads(file.read_text(encoding="utf8"))
    except (OSError, ValueError):
        errors.report(f"Could not read the settings in {file}", exc_info=True)
        return set()
    return set(settings.get("disabled_extensions") or [])


def run_extension_installer(extension_dir: str) -> None:
    """Run one extension's install.py in a Python process of its own; failures are reported."""
    installer = Path(extension_dir) / "install.py"
    if not installer.is_file():
        return
    env = os.environ.copy()
    env["PYTHONPATH"] = paths_internal.script_path + os.pathsep + env.get("PYTHONPATH", "")
    try:
        output = run(
            f'"{python}" "{installer}"',
            errdesc=f"Error running install.py for extension {extension_dir}",
            custom_env=env,
            live=False,
        ).strip()
    except RuntimeError as e:
        errors.report(str(e))
        return
    if output:
        sys.stdout.write(output + "\n")


def prepare_environment() -> None:
    """Run the installers of the enabled user extensions, as every start does."""
    from modules.script_loading import extension_folders

    disabled = disabled_extension_names()
    if args.skip_install:
        return
    for name, path in extension_folders():
        if name not in disabled:
            run_extension_installer(path)
