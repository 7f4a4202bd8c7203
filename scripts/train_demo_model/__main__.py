"""Train the demo model from scratch on one GPU, in pieces that go on from each other.

    python scripts/train_demo_model tokenizer --tokenizer FILE               # seconds, on a CPU
    python scripts/train_demo_model train --out DIR --fonts DIR --tokenizer FILE --stages strips:100,screens:350
    python scripts/train_demo_model train ... --stages screens:250 --resume DIR --reading 0     # goes on from DIR
    python scripts/train_demo_model export --out DIR --tokenizer FILE --checkpoint FOLDER
    python scripts/train_demo_model calibration --out DIR                    # training screens, for scripts/quantize
    python scripts/train_demo_model plot --out DIR --plot FILE.png

A stage is strips (lines of text, to learn letters) or screens, and its seconds; --total is the seconds of all pieces,
over which the learning rate falls. The fonts are Debian's fonts-inter, fonts-roboto-unhinted and fonts-dejavu-core.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "make_demo_screens")]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=("tokenizer", "train", "export", "calibration", "plot"))
    parser.add_argument("--out", type=Path, default=Path("trained"), help="log, weights, sample answers")
    parser.add_argument("--resume", type=Path, help="the --out of an earlier piece, to go on from")
    parser.add_argument("--reading", type=int, default=1, help="0: without the training-only reading head")
    parser.add_argument("--tokenizer", type=Path, default=Path("tokenizer.json"))
    parser.add_argument("--fonts", type=Path, default=Path("/usr/share/fonts"))
    parser.add_argument("--stages", default="strips:100,screens:350")
    parser.add_argument("--total", type=float, default=880)
    parser.add_argument("--batch", type=int, default=256, help="rows of tokens a step")
    parser.add_argument("--rate", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--workers", type=int, default=15, help="processes that draw")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--compile", type=int, default=1)
    parser.add_argument("--check", type=int, default=200, help="validation screens answered at the end of a piece")
    parser.add_argument("--checkpoint", type=Path, help="folder to export into")
    parser.add_argument("--plot", type=Path)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.do == "tokenizer":
        import tokenizer

        tokenizer.train().save(str(args.tokenizer))
    elif args.do == "train":
        import train

        train.train(args)
    elif args.do == "export":
        import export
        import train
        from tokenizers import Tokenizer

        export.export(train.trained(args.out), Tokenizer.from_file(str(args.tokenizer)), args.checkpoint)
    elif args.do == "calibration":
        import calibration

        calibration.write(args.out, args.fonts)
    elif args.do == "plot":
        import plot

        plot.plot([json.loads(line) for line in (args.out / "log.jsonl").read_text().splitlines()], args.plot)


if __name__ == "__main__":
    main()
