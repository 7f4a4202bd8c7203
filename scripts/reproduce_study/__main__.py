"""Compare what vlm-eval computes from the published study's recorded answers with the means that it published.

    python scripts/reproduce_study FOLDER [--out docs/reproduction.md] [--vocab vocab.txt]

FOLDER holds recorded_answers.csv, published_means.csv, references_gpt4o.csv and screenshots/. The page holds numbers
and the names of models and screenshots. `pip install blingfire` adds the tokenizers that come nearest to the study's;
--vocab adds WordPiece with another vocabulary, such as vocab.txt of bert-base-multilingual-uncased.

Exit code 1 where the judge's columns, all of whose data were recorded, do not come out as published.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Optional

from judge_section import judge, missed
from metric_sections import foreign, latin, length, not_here, rate, spelling, time
from rouge_section import rouge
from study import Study, read
from tokenizers_tried import tokenizers, tried

SWEEP = "engine=replay_seed engine.candidate=all task=screen_annotation judge=recorded tracking=none"
METRICS = "metrics=[tech,rouge,language] metrics.language.backend=pylat"


def main() -> int:
    parser = argparse.ArgumentParser("reproduce_study", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, help="the study's Screen Annotation data")
    parser.add_argument("--out", type=Path, help="the page; without it, standard output")
    parser.add_argument("--vocab", type=Path, help="a WordPiece vocabulary to try, one token a line")
    asked = parser.parse_args()
    for name in ("recorded_answers.csv", "published_means.csv"):
        if not (asked.folder / name).is_file():
            parser.error(f"{asked.folder}: no {name} there")
    with tempfile.TemporaryDirectory(prefix="vlm-eval-reproduce-") as scratch:
        study = read(asked.folder, replay(asked.folder.resolve(), Path(scratch)))
    text = page(study, asked.vocab)
    if asked.out:
        asked.out.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    unmet = missed(study)
    for sentence in unmet:
        print(f"not as published: {sentence}", file=sys.stderr)
    return int(bool(unmet))


def replay(folder: Path, scratch: Path) -> Path:
    """Run the sweep over all recorded candidates in an empty folder: -> its folder."""
    command = [str(Path(sys.executable).with_name("vlm-eval")), "-m", *SWEEP.split(), *METRICS.split()]
    command += [f"engine.path={folder}/recorded_answers.csv", f"task.data.root={folder}"]
    ended = subprocess.run(command, cwd=scratch, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if ended.returncode:
        sys.exit(f"{ended.stdout}\nvlm-eval ended with {ended.returncode}; no page was written")
    [sweep] = (scratch / "multirun").iterdir()
    return sweep


def page(study: Study, vocab: Optional[Path] = None) -> str:
    found = {name: tried(study, tokenizer) for name, tokenizer in tokenizers(vocab).items()}
    parts = [head(study), time(study), length(study), rate(study), foreign(study), latin(study), spelling(study)]
    parts += [rouge(study, found), judge(study), not_here(study), versions()]
    return "\n\n".join(part for part in parts if part) + "\n"


def head(study: Study) -> str:
    models = len(study.models)
    return f"""# The published study, computed again

Written by `scripts/reproduce_study`: what vlm-eval computes from the {len(study.rows)} recorded answers of the study
({models} models, {len({row["image"] for row in study.rows})} screenshots) beside the means that the study published.
FOLDER is the study's Screen Annotation data:

    vlm-eval -m engine=replay_seed engine.path=FOLDER/recorded_answers.csv engine.candidate=all \\
      task=screen_annotation task.data.root=FOLDER judge=recorded tracking=none \\
      {METRICS}"""


def versions() -> str:
    names = ["vlm-eval", "snowballstemmer", "pylat-ru", "tokenizers", "scipy", "blingfire"]
    return "Versions: " + ", ".join(f"{name} {version(name)}" for name in names) + "."


def version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    sys.exit(main())
