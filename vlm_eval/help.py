"""`vlm-eval --help`, from the config files alone.

Hydra's own help composes everything and copies its whole store for every group it lists, which takes longer than the
rest of its start; this names each option of each group with the first comment of its file, and answers at once.
"""

from __future__ import annotations

from pathlib import Path

from vlm_eval import paths

HEAD = """\
vlm-eval: which vision-language model, in which quantisation, for support screenshots.

  vlm-eval model=qwen2_vl_7b quant=awq task=vqa                           one run
  vlm-eval -m model=qwen2_vl_2b,qwen2_vl_7b quant=gptq4,gptq8,awq,bf16    a sweep
  vlm-eval -m experiment=demo                                             a named study
  vlm-eval -m ... sweep.dry_run=true       what would run and what it would take; starts nothing
  vlm-eval -m ... sweep.resume=SWEEP_DIR   do what is missing there
  vlm-eval-status SWEEP_DIR                a line a run

Choose with GROUP=OPTION, sweep with GROUP=A,B and -m, change any value with KEY=VALUE.
"""
FOOT = """
Every key with its value: vlm-eval --cfg job. Shell completion: eval "$(vlm-eval -sc install=bash)".
Hydra's own flags: vlm-eval --hydra-help. More: the README.
"""
GROUPS = (
    "model",
    "quant",
    "engine",
    "task",
    "task/data",
    "judge",
    "metrics",
    "tracking",
    "experiment",
    "hydra/launcher",
)


def help_text() -> str:
    """All groups and their options, a line each."""
    lines = [HEAD]
    for group in GROUPS:
        lines.append(f"{group}=")
        files = sorted((paths.conf() / group).glob("*.yaml"))
        width = max((len(file.stem) for file in files), default=0)
        lines += [f"  {file.stem.ljust(width)}  {_about(file)}".rstrip() for file in files]
    return "\n".join(lines) + "\n" + FOOT.rstrip()


def _about(file: Path) -> str:
    """The first sentence of the comment a config file begins with."""
    for line in file.read_text(encoding="utf-8").splitlines():
        text = line.lstrip("# ").strip()
        if not line.startswith("#"):
            return ""
        if not text.startswith("@package"):
            return text.split(". ")[0].rstrip(".:")
    return ""
