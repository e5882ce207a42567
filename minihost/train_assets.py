"""Make all demo models again: autoencoder, base model, ControlNets, figures, sheet.

Every phase resumes where it was stopped and is skipped once finished; delete
`training/runs/` to begin from nothing. Times are minutes of two otherwise idle CPU cores. The
ControlNets are made by `python -m lib_controlnet.train`, as a user's own would be.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

HOME = Path(__file__).resolve().parent
sys.path[:0] = [str(HOME), str(HOME.parent)]

from training import card, emphasis, evaluate, train_base, train_control, train_vae  # noqa: E402
from training.assets import CHECKPOINT, replace_vae, write_descriptions  # noqa: E402


def main() -> None:
    """Command line entry."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae-steps", type=int, default=1000)
    parser.add_argument("--base-minutes", type=float, default=105)
    parser.add_argument("--decoder-minutes", type=float, default=7.5)
    parser.add_argument("--kinds", nargs="+", default=list(train_control.KINDS))
    parser.add_argument("--effort", type=float, default=1.0, help="factor of the controls' steps")
    parser.add_argument("--count", type=int, default=64, help="seeds of every measure")
    args = parser.parse_args()
    write_descriptions()
    vae = train_vae.train(args.vae_steps)
    train_base.train(vae, args.base_minutes)
    emphasis.ensure_mean(CHECKPOINT)
    replace_vae(train_vae.refine_decoder(vae, args.decoder_minutes))
    train_control.train(args.kinds, args.effort)
    evaluate.evaluate(args.count)
    evaluate.write_sheet()
    card.write_card()


if __name__ == "__main__":
    main()
