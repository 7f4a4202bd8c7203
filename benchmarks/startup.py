"""How long `vlm-eval --help` and a config error take, against a bare Hydra app. CPU seconds of the whole process.

python benchmarks/startup.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from pairs import compare, machine

APP = """
import hydra
@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(cfg): pass
main()
"""


def cpu_seconds(command: list[str], expected: int) -> float:
    before = os.times()
    code = subprocess.run(command, capture_output=True).returncode
    after = os.times()
    assert code == expected, f"{command} exited with {code}"
    return after.children_user - before.children_user + after.children_system - before.children_system


def main() -> None:
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        app = Path(folder) / "app.py"
        app.write_text(APP)
        (app.parent / "conf").mkdir()
        (app.parent / "conf" / "config.yaml").write_text("a: 1\n")
        ours, bare = [sys.executable, "-m", "vlm_eval.cli"], [sys.executable, str(app)]
        compare(
            "--help, CPU s",
            lambda: cpu_seconds([*ours, "--help"], 0),
            lambda: cpu_seconds([*bare, "--help"], 0),
            21,
            "wanted: at most 1.3",
        )
        for error in ("quant=gptq5", "engine.max_model_lem=1"):
            compare(
                f"config error {error}, CPU s",
                lambda e=error: cpu_seconds([*ours, e], 2),
                lambda: cpu_seconds([*bare, "b=1"], 1),
                21,
                "wanted: at most 1.3",
            )


if __name__ == "__main__":
    main()
