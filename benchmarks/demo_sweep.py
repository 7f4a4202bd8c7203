"""The demo sweep, four quantisations on two tasks, eight engines: wall time and the parent's peak memory.

python benchmarks/demo_sweep.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time

import psutil
from pairs import machine


def main() -> int:
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        sweep = subprocess.Popen([sys.executable, "-m", "vlm_eval.cli", "-m", "experiment=demo"], cwd=folder)
        parent, peak = psutil.Process(sweep.pid), [0]
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(0.2):
                try:
                    peak[0] = max(peak[0], parent.memory_info().rss)
                except psutil.NoSuchProcess:
                    return

        threading.Thread(target=watch, daemon=True).start()
        code = sweep.wait()
        stop.set()
        wall = time.monotonic() - began
    print(
        f"demo sweep: exit code {code}, {wall:.0f} s (wanted: under 300), "
        f"parent's peak {peak[0] / 2**20:.0f} MiB (wanted: under 400 MB)"
    )
    return code


if __name__ == "__main__":
    sys.exit(main())
