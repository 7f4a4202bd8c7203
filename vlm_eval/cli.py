"""`vlm-eval`: compose, run one job, hand back scalars. Exit codes: 0 ok, 1 runs failed, 2 bad input, 130/143 signal."""

from __future__ import annotations

import errno
import os
import sys

from vlm_eval import __version__, paths, signals
from vlm_eval.errors import BadInput, one_line
from vlm_eval.secret_input import guarded

# No fault of the program: no space, no quota, a file too large, read-only, no permission, an I/O error.
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)


def job(cfg):
    """One Hydra job: start the run's process and read its status. Never raises inside a sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from vlm_eval.job import Job

    current, alone = Job.current(cfg), HydraConfig.get().mode == RunMode.RUN
    try:
        status = current.run()
    except (KeyboardInterrupt, SystemExit):  # a signal; of a sweep its closing table tells
        if alone:
            print(f"vlm-eval: interrupted; what was written is kept in {current.run_dir}", file=sys.stderr)
        raise
    if alone:
        print(current.run_dir)
        sys.exit(0 if status["state"] == "ok" else 1)
    return status["state"]


@guarded("vlm-eval")
def main() -> int:
    """Entry point; errors in what was asked for are one line on stderr."""
    if "--version" in sys.argv[1:]:
        print(f"vlm-eval {__version__}")
        return 0
    if {"--help", "-h"} & set(sys.argv[1:]):
        from vlm_eval.help import help_text

        print(help_text())
        return 0
    import hydra

    from vlm_eval.config import as_hydra_takes_it, explain_hydra, is_about_config
    from vlm_eval.resolvers import register_resolvers

    register_resolvers()
    # argparse takes no override after an option that stands between overrides: -m goes to the front.
    sys.argv[1:] = sorted(map(as_hydra_takes_it, sys.argv[1:]), key=lambda word: word not in ("-m", "--multirun"))
    sys.path.append(os.getcwd())  # where a class of one's own, named in a YAML of one's own, is looked for
    # Hydra would print its own exceptions over several lines and exit with 1; this lets them through to us.
    debugging = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with signals.heard():
            hydra.main(config_path=str(paths.conf()), config_name="config", version_base="1.3")(job)()
    except Exception as error:
        if not debugging and isinstance(error, OSError) and error.errno in OF_THE_DISK:
            print(f"vlm-eval: {one_line(error)}; all before it is kept: mend that, then resume", file=sys.stderr)
            return 1
        if debugging or not is_about_config(error):
            raise
        print(f"vlm-eval: {error if isinstance(error, BadInput) else explain_hydra(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
