"""The wheel carries all that an installed vlm-eval needs to work from an empty folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
SOURCES = ["setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE"]
SOURCES += ["conf", "experiments", "vlm_eval", "hydra_plugins"]
MADE = {"__pycache__"}

# Run by the installed Python: every config file is composed once, as the option of its group.
COMPOSE_ALL = """
from pathlib import Path
from hydra import compose, initialize_config_dir
import vlm_eval.resolvers
import vlm_eval.paths

vlm_eval.resolvers.register_resolvers()
conf = vlm_eval.paths.conf()
assert conf.parent == Path(vlm_eval.paths.PACKAGE), conf
with initialize_config_dir(str(conf), version_base=None):
    compose("config")
    print("config")
    for path in sorted(conf.rglob("*.yaml")):
        group, option = path.parent.relative_to(conf).as_posix(), path.stem
        if group == "." or path.parent.name == "common":  # a part of options, not one itself
            continue
        compose("config", [f"{group}={option}"])
        print(f"{group}={option}")
"""


def run(*command, cwd, **env) -> str:
    # Nothing of the checkout may be found by way of the environment.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | env
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy: in the checkout the build would leave files, and take up those of an earlier one."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (REPO / name).is_dir():
            shutil.copytree(REPO / name, source / name, symlinks=True, ignore=shutil.ignore_patterns(*MADE))
        else:
            shutil.copy(REPO / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    run(*pip, "--wheel-dir", out, source, cwd=out)
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The bin folder of an environment with the wheel and our dependencies, but without the checkout."""
    root = tmp_path_factory.mktemp("environment")
    venv.create(root, symlinks=True)
    site = next(root.glob("lib/python*/site-packages"))
    # A path named in a .pth file is searched, but its own .pth files are not read: so the link to the checkout, by
    # which the project is installed here, has no effect there.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", root / "bin" / "python", "install", "--no-deps", "--no-index"]
    run(*pip, "--ignore-installed", wheel, cwd=root)
    return root / "bin"


def in_checkout(folder: str) -> set[str]:
    files = {path.relative_to(REPO) for path in (REPO / folder).rglob("*") if path.is_file()}
    return {path.as_posix() for path in files if not MADE & set(path.parts)}


def test_wheel_holds_every_file_of_the_package_and_nothing_else(wheel):
    expected = in_checkout("vlm_eval") | in_checkout("hydra_plugins")
    for name in in_checkout("conf") | in_checkout("experiments"):  # rglob does not follow the link conf/experiment
        expected.add("vlm_eval/" + name.replace("experiments/", "conf/experiment/"))
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == expected


def test_commands_answer_from_an_empty_folder(installed, tmp_path):
    assert "vlm-eval" in run(installed / "vlm-eval", "--help", cwd=tmp_path)
    assert run(installed / "python", "-m", "vlm_eval.cli", "--help", cwd=tmp_path)
    assert run(installed / "vlm-eval-status", "--help", cwd=tmp_path)
    assert not list(tmp_path.iterdir())


def test_every_config_composes_from_an_empty_folder(installed, tmp_path):
    composed = run(installed / "python", "-c", COMPOSE_ALL, cwd=tmp_path).split()
    options = {name for name in in_checkout("conf") if name.endswith(".yaml") and "/common/" not in name}
    assert len(composed) == len(options) + len(list((REPO / "experiments").glob("*.yaml")))


def test_entry_points_that_others_look_for(installed, tmp_path):
    program = (
        "from importlib.metadata import entry_points as e\n"
        "print(*(p.load().__name__ for p in e(group='vllm.general_plugins', name='vlm_eval_cpu_gptq8')))\n"
        "from hydra.core.plugins import Plugins\nfrom hydra.plugins.sweeper import Sweeper\n"
        "print(*(c.__module__ for c in Plugins.instance().discover(Sweeper)))"
    )
    plugins, sweepers = run(installed / "python", "-c", program, cwd=tmp_path).splitlines()
    assert "register" in plugins
    assert any(module.startswith("hydra_plugins.vlm_eval_sweeper") for module in sweepers.split())
