"""Only what setup.cfg cannot say: found packages and two that come from elsewhere, in one list."""

from setuptools import find_namespace_packages, setup

setup(
    packages=[
        *find_namespace_packages(include=["vlm_eval*", "hydra_plugins*"], exclude=["*__pycache__*", "vlm_eval.demo*"]),
        "vlm_eval.conf",
        "vlm_eval.conf.experiment",
    ],
    # In the checkout these stand at the top level; an installed vlm-eval must work from an empty folder, so the wheel
    # carries them inside the package. conf/experiment, there a link to ../experiments, becomes a real folder.
    package_dir={"vlm_eval.conf": "conf", "vlm_eval.conf.experiment": "experiments"},
)
