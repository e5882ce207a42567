"""Make all demo models again: autoencoder, base model, ControlNets, figures, sheet.

Every phase resumes where it was stopped and is skipped once finished; delete
`training/runs/` to begin from nothing. Times are minutes of two otherwise idle CPU cores.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
from pathlib import Path

START_FROM = {"scribble": "canny", "depth": "canny", "seg": "canny"}
# Of the minutes that a ControlNet trains; canny, with which others begin, takes the longest.
SHARES = {"canny": 1.5, "scribble": 0.65, "depth": 0.65, "seg": 0.65}
HOME = Path(__file__).resolve().parent
sys.path.insert(0, str(HOME))

from training import card, emphasis, evaluate, train_base, train_vae  # noqa: E402
from training.assets import CHECKPOINT, replace_vae, write_descriptions  # noqa: E402
from training.train_control import KINDS  # noqa: E402


def train_controls(kinds: list[str], minutes: float, together: int = 2) -> None:
    """Train ControlNets, several at a time with one thread each.

    Those of START_FROM begin with another one's weights and take less time.
    """
    for i in range(0, len(kinds), together):
        running = []
        for kind in kinds[i : i + together]:
            command = [sys.executable, "-m", "training.train_control", kind]
            first = START_FROM.get(kind)
            command += ["--minutes", str(minutes * SHARES.get(kind, 1.0))]
            command += [] if first is None else ["--start-from", first]
            running.append(subprocess.Popen(command, cwd=HOME))
        for process in running:
            if process.wait() != 0:
                msg = f"training stopped with status {process.returncode}: {process.args}"
                raise RuntimeError(msg)


def main() -> None:
    """Command line entry."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae-steps", type=int, default=1000)
    parser.add_argument("--base-minutes", type=float, default=50)
    parser.add_argument("--control-minutes", type=float, default=16)
    parser.add_argument("--decoder-minutes", type=float, default=7.5)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--count", type=int, default=64, help="seeds of every measure")
    args = parser.parse_args()
    write_descriptions()
    vae = train_vae.train(args.vae_steps)
    train_base.train(vae, args.base_minutes)
    emphasis.ensure_mean(CHECKPOINT)
    train_controls(args.kinds, args.control_minutes)
    replace_vae(train_vae.refine_decoder(vae, args.decoder_minutes))
    evaluate.evaluate(args.count)
    evaluate.write_sheet()
    card.write_card()


if __name__ == "__main__":
    main()
