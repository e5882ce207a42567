"""Make all demo models again: autoencoder, base model, ControlNets.

Every phase resumes where it was stopped and is skipped once finished; delete
`training/runs/` to begin from nothing. It takes some hours of two CPU cores. The ControlNets are
made by `python -m lib_controlnet.train`, as a user's own would be; `python dev.py demo` shows and
measures what the new models can.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

HOME = Path(__file__).resolve().parent
sys.path[:0] = [str(HOME), str(HOME.parent)]

from training import train_base, train_control, train_vae  # noqa: E402
from training.assets import replace_vae  # noqa: E402
from training.loop import Plan  # noqa: E402


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="+", default=list(train_control.KINDS))
    parser.add_argument(
        "--only-controls", action="store_true", help="for the base model that is there"
    )
    parser.add_argument("--effort", type=float, default=1.0, help="factor of all steps")
    args = parser.parse_args()

    def planned(plan: Plan) -> Plan:
        return replace(plan, steps=max(1, round(plan.steps * args.effort)))

    if args.only_controls:
        train_control.train(args.kinds, args.effort)
        return
    vae = train_vae.train(planned(train_vae.PLAN))
    train_base.train(vae, planned(train_base.PLAN))
    replace_vae(train_vae.refine_decoder(vae, planned(train_vae.REFINE_PLAN)))
    train_control.train(args.kinds, args.effort)


if __name__ == "__main__":
    main()
