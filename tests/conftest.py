"""Tests that need a part of the system (a browser, a compiler) say so: ``@pytest.mark.needs("chromium")``.

The parts are those of ``.ci/system_parts.txt``, where CI also finds what to install. A test whose part is missing is
skipped and listed at the end of the session; with ``VLM_EVAL_REQUIRE_ALL=1``, as in CI, it fails instead.
"""

import os
import shutil
from pathlib import Path

import pytest

PARTS_FILE = Path(__file__).resolve().parents[1] / ".ci" / "system_parts.txt"
HEADING = "NOT RUN (missing system part)"
MISSING = "missing system part"


def read_parts() -> dict[str, tuple[str, list[str]]]:
    """{part: (Debian package, what shows that it is there)}"""
    lines = [line.split() for line in PARTS_FILE.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return {part: (package, probes) for part, package, *probes in lines}


PARTS = read_parts()


def is_there(part: str) -> bool:
    return any(Path(probe).exists() if probe.startswith("/") else shutil.which(probe) for probe in PARTS[part][1])


def needed_parts(item: pytest.Item) -> list[str]:
    return [part for marker in item.iter_markers("needs") for part in marker.args]


# Minutes each: begun first, so that at the end no worker is left alone with one of them.
LONG_FILES = {"test_campaign.py", "test_kills.py", "test_soak.py", "test_canaries.py", "test_load.py", "test_slurm.py"}
LONG_FILES |= {"test_ray.py", "test_parallel.py", "test_mlflow_server.py"}


@pytest.hookimpl(tryfirst=True)  # before -m takes tests away: a misspelt part shows at once, not when it is CI's turn
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG_FILES)
    for item in items:
        for marker in item.iter_markers("needs"):
            if not marker.args or marker.kwargs:
                raise pytest.UsageError(f'{item.nodeid}: write needs("part", ...)')
        for part in needed_parts(item):
            if part not in PARTS:
                raise pytest.UsageError(f"{item.nodeid}: needs({part!r}): {PARTS_FILE.name} has {', '.join(PARTS)}")


@pytest.hookimpl(tryfirst=True)  # before fixtures start to use the part
def pytest_runtest_setup(item: pytest.Item) -> None:
    missing = [part for part in needed_parts(item) if not is_there(part)]
    if not missing:
        return
    item.user_properties += [(MISSING, part) for part in missing]
    reason = ", ".join(f"{part} is missing (Debian package: {PARTS[part][0]})" for part in missing)
    if os.environ.get("VLM_EVAL_REQUIRE_ALL", "0") not in ("", "0"):
        pytest.fail(f"{reason}, and VLM_EVAL_REQUIRE_ALL is set", pytrace=False)
    pytest.skip(reason)


def pytest_terminal_summary(terminalreporter) -> None:
    rows = sorted(
        {
            (part, report.nodeid)
            for reports in terminalreporter.stats.values()
            for report in reports
            for name, part in getattr(report, "user_properties", ())
            if name == MISSING
        }
    )
    if rows:
        terminalreporter.section(HEADING)
        for part, test in rows:
            terminalreporter.write_line(f"{part}: {test}")


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """`nvidia_smi(script)`: what answers as nvidia-smi from now on, on a machine whose vLLM is one for GPUs."""
    from vlm_eval import devices

    def say(script: str) -> None:
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / "nvidia-smi").write_text(script)
        (tmp_path / "bin" / "nvidia-smi").chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(devices, "_has_cpu_vllm", lambda: False)
    devices.find_device.cache_clear()
    yield say
    devices.find_device.cache_clear()


@pytest.fixture
def vlm_eval_cli(tmp_path, monkeypatch, capfd):
    """`vlm_eval_cli(*arguments) -> (code, out, err)`: vlm-eval in this process, in the empty folder tmp_path/cwd."""
    from .helpers import REPO, CommandLine

    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("PYTHONPATH", str(REPO))  # for the runs' processes, where tests.faulty_engine is looked for
    return CommandLine(monkeypatch, capfd)
