"""Keys planted in every way a person would give one, and a search for them in all that is written, said or run."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest

from .helpers import QUICK, REPO, VLM_EVAL, make_data
from .judges.server import Server, verdict

# None is a real key. By variable: with a shape that is known, with none, under a name that says nothing.
OPENAI = "sk-canary0openai0" + "a1b2c3d4" * 3
NO_SHAPE = "canary no shape, with a 'quote' and ünicode"
ODD_NAME = "canary.odd.name.of.a.variable"
HUGGING_FACE = "hf_canaryHuggingFace0123456789abcdefgh"
MLFLOW = "canary/mlflow#password"
DOTENV = "sk-canary0dotenv0" + "e5f6a7b8" * 3
LITELLM = "sk-canary0litellm" + "c9d0e1f2" * 3
BY_ENVIRONMENT = {
    "OPENAI_API_KEY": OPENAI,
    "COMPANY_PASSWORD": NO_SHAPE,
    "GATEWAY": ODD_NAME,  # named by judge.api_key_env alone
    "HF_TOKEN": HUGGING_FACE,
}
# What is typed or written where no key belongs, and refused.
OVERRIDE = "sk-canary0override" + "b3c4d5e6" * 3
IN_URL = "canary-in-an-url"
IN_YAML = "canary in a YAML"
CANARIES = [*BY_ENVIRONMENT.values(), MLFLOW, DOTENV, LITELLM, OVERRIDE, IN_URL, IN_YAML]

ENGINE = '''
import os, signal, sys
from dataclasses import dataclass, replace
from tests.faulty_engine import FaultyEngine, FaultyEngineConfig

KEYS = " and ".join(os.environ[name] for name in ("OPENAI_API_KEY", "COMPANY_PASSWORD", "HF_TOKEN"))

@dataclass
class LeakyEngineConfig(FaultyEngineConfig):
    note: str = ""

class LeakyEngine(FaultyEngine):
    """Says all keys wherever an engine can say something."""

    def start(self):
        print("python's stdout:", KEYS)
        print("python's stderr:", KEYS, file=sys.stderr)
        os.write(2, f"native code: {KEYS}\\n".encode())
        if self.config.mode == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().start()

    def answer(self, requests):
        for [answer] in super().answer(requests):
            if answer.item_id == "a":
                answer = replace(answer, text=None, error=f"refused with {KEYS}")
            yield [answer]
        if self.config.mode == "raises":
            raise RuntimeError(f"401 for {KEYS}")
'''


def written_forms(canary: str) -> set[bytes]:
    plain = {
        canary,
        quote(canary),
        quote(canary, safe=""),
        repr(canary)[1:-1],
        canary.encode("unicode_escape").decode(),
    }
    return {form.encode() for form in plain} | {base64.b64encode(canary.encode()).rstrip(b"=")}


def found_in(data: bytes) -> list[str]:
    return [canary for canary in CANARIES if any(form in data for form in written_forms(canary))]


def files_with_canaries(folder: Path, planted: set[Path]) -> list[tuple[str, list[str]]]:
    """Workbooks and other archives are looked into."""
    found = []
    for file in (f for f in folder.rglob("*") if f.is_file() and f not in planted):
        parts = [file.read_bytes()]
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                parts += map(archive.read, archive.namelist())
        found += [(str(file.relative_to(folder)), seen) for part in parts if (seen := found_in(part))]
    return found


class Place:
    """An empty folder with planted files, a person's environment, and the commands run there."""

    def __init__(self, folder: Path, judge: Server):
        self.folder, self.cwd, self.judge = folder, folder / "cwd", judge
        self.said, self.arguments, self.planted = b"", set(), set()
        for name in ("cwd", "home", "tmp"):
            (folder / name).mkdir()
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("HYDRA_", "MLFLOW_"))},
            **BY_ENVIRONMENT,
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "VLM_EVAL_CACHE": str(folder / "home" / "cache"),
            "PYTHONPATH": str(REPO),
        }
        self.plant(".env", f"DEEPSEEK_API_KEY={DOTENV}\n")
        params = f"{{model: openai/x, api_base: {judge.url}, api_key: {LITELLM}}}"
        self.plant("litellm_config.yaml", f"model_list:\n  - {{model_name: x, litellm_params: {params}}}\n")
        self.write("leaky_engine.py", ENGINE)
        self.write("conf/engine/leaky.yaml", "_target_: leaky_engine.LeakyEngine\nmode: ok\nnote: ''\n")

    def write(self, name: str, text: str) -> Path:
        file = self.cwd / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def plant(self, name: str, text: str) -> None:
        self.planted.add(self.write(name, text))

    def run(self, *command: str | Path) -> tuple[int, str]:
        """Exit code and all that was said; what it starts is watched for its argument lists."""
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=self.cwd,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        watch = threading.Thread(target=self._watch, args=(process.pid,), daemon=True)
        watch.start()
        said, _ = process.communicate(timeout=300)
        watch.join()
        self.said += said
        return process.returncode, said.decode(errors="replace")

    def vlm_eval(self, *arguments: str) -> tuple[int, str]:
        return self.run(VLM_EVAL, "--config-dir", "conf", *arguments)

    def _watch(self, pid: int) -> None:
        while psutil.pid_exists(pid):
            try:
                for process in psutil.Process(pid).children(recursive=True):
                    self.arguments.add(" ".join(process.cmdline()))
            except psutil.Error:
                pass
            time.sleep(0.02)

    def search(self) -> None:
        assert files_with_canaries(self.folder, self.planted) == []
        assert found_in(self.said) == [], self.said.decode(errors="replace")
        assert found_in("\n".join(self.arguments).encode()) == []


@pytest.fixture
def judge():
    """Quotes the key that came: in an error on every other request, in a rationale else."""
    server = Server()

    def script(number: int, body: dict) -> tuple[int, str]:
        key = server.keys[-1]
        return (
            (401, f"Incorrect API key provided: {key}") if number % 2 else (200, verdict(9, 3).replace("A ", f"{key} "))
        )

    server.script = script
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def place(tmp_path, judge):
    place = Place(tmp_path, judge)
    make_data(tmp_path / "data")
    return place


def of_run(place: Place, *more: str) -> list[str]:
    asked = [f"judge.api_base={place.judge.url}", "judge.model=openai/x", "judge.retries=0", "judge.max_fail_rate=1"]
    return ["task=vqa", f"task.data.root={place.folder / 'data'}", "metrics=tech", *asked, "judge.concurrency=1", *more]


# ------------------------------------------------------------------------------- keys that are given as they should be


def test_no_key_reaches_a_file_a_log_mlflow_or_an_argument_list(place):
    asked = of_run(
        place,
        "engine=leaky",
        "engine.mode=ok,raises,killed",
        "engine.note=${oc.env:COMPANY_PASSWORD}",
        "judge=server",
        "judge.api_key_env=GATEWAY",
    )
    code, said = place.vlm_eval("-m", *asked)
    assert code == 1 and said.splitlines()[-1] == "1 of 3 runs ok, 2 failed", said
    [sweep] = (place.cwd / "multirun").iterdir()
    assert place.judge.keys and set(place.judge.keys) == {f"Bearer {ODD_NAME}"}  # it was sent, and nothing of .env was

    # Another judge (and one whose key cannot be sent), another store, the gate; the report is made on the way.
    other = [f"judge.api_base={place.judge.url}", "judge.model=openai/y", "judge.name=other", "judge.retries=0"]
    judge = Path(VLM_EVAL).with_name("vlm-eval-judge")
    place.run(judge, sweep, "judge=server", *other, "judge.api_key_env=COMPANY_PASSWORD")
    code, _ = place.run(
        judge, sweep, "judge=server", *other, "judge.max_fail_rate=1", "judge.api_key_env=OPENAI_API_KEY"
    )
    assert code == 0 and place.judge.keys[-1] == f"Bearer {OPENAI}"
    code, _ = place.run(sys.executable, "-m", "vlm_eval.import_sweep", sweep, "--uri", "sqlite:///second.db")
    assert code == 0 and (place.cwd / "second.db").is_file()
    place.run(sys.executable, "-m", "vlm_eval.gate", sweep, "--baseline", "engine.mode=ok", "--margin", "0.1")

    place.search()
    # That there was something to be masked, and that it was, everywhere.
    logs = {run.name: (run / "run.log").read_text() for run in sweep.iterdir() if (run / "run.log").is_file()}
    assert len(logs) == 3 and all("native code: *** and *** and ***\n" in log for log in logs.values())
    assert all("python's stdout: *** and *** and ***\n" in log for log in logs.values() if "Traceback" in log)
    assert any("RuntimeError: 401 for *** and *** and ***" in log for log in logs.values())
    written = "".join(f.read_text() for name in ("answers", "judgements") for f in sweep.glob(f"*/{name}.jsonl"))
    assert "refused with *** and ***" in written and "Incorrect API key provided: Bearer ***" in written
    assert "Bearer ***" in "".join(f.read_text() for f in sweep.glob("*/judgements.jsonl"))
    assert "401 for *** and *** and ***" in said
    assert any("vlm_eval.run" in arguments for arguments in place.arguments)
    artifacts = list((place.cwd / "mlruns" / "artifacts").rglob("run.log"))
    assert len(artifacts) == 3 and (place.cwd / "mlruns" / "mlflow.db").is_file()


def test_an_mlflow_server_with_a_password_in_its_address(place):
    """As MLFLOW_TRACKING_URI may have it. The server refuses, and quotes the header that it got."""

    class Handler(BaseHTTPRequestHandler):
        seen = []

        def do_GET(self):
            self.seen.append(self.headers.get("Authorization"))
            body = f"401 for {self.seen[-1]} of http://me:{quote(MLFLOW, safe='')}@{self.headers['Host']}".encode()
            self.send_response(401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://me:{quote(MLFLOW, safe='')}@127.0.0.1:{http.server_port}"
    place.environment |= {"MLFLOW_TRACKING_URI": address, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    asked = ["task=vqa", f"task.data.root={place.folder / 'data'}", "metrics=tech", "judge=none", "engine=leaky"]
    code, said = place.vlm_eval("-m", *asked, "tracking=mlflow_server")
    http.shutdown()
    http.server_close()
    assert code == 0 and "not tracked: " in said, said
    sent = base64.b64encode(f"me:{MLFLOW}".encode()).decode()
    assert Handler.seen and set(Handler.seen) == {f"Basic {sent}"}
    place.search()
    assert sent not in said and not any(sent in f.read_text() for f in place.cwd.glob("multirun/*/*/*.json"))
    assert "/me:***@127.0.0.1" in said


# -------------------------------------------------------------------------------------------- keys that stand elsewhere

YAML = {
    "by its name": f"judge:\n  api_key: {IN_YAML}\n",
    "by its shape": f"judge:\n  rationale_chars: {OVERRIDE}\n",
    "in an address": f"judge:\n  api_base: http://me:{IN_URL}@127.0.0.1/v1\n",
    "in a variable's place": f"judge:\n  api_key_env: {OVERRIDE}\n",
    "in a list of headers": f"engine:\n  extra:\n    headers:\n      - Authorization: {IN_YAML}\n",
    "of Hydra's own": f"hydra:\n  job:\n    env_set:\n      OPENAI_API_KEY: {IN_YAML}\n",
    "as a variable's value": f"engine:\n  extra:\n    note: {HUGGING_FACE}\n",
}
OVERRIDES = {
    "by its name": [f"++judge.api_key={IN_YAML}"],
    "by its shape": [f"+anything={OVERRIDE}"],
    "in an address": [f"++x=postgresql://me:{IN_URL}@127.0.0.1/mlflow"],
    "in a query": [f"++x=https://127.0.0.1/v1?api_key={IN_URL}"],
    "in a variable's place": [f"judge.api_key_env={OVERRIDE}"],
    "in braces": [f"+engine.extra={{hf_token: {IN_YAML}}}"],
    "of Hydra's own": [f"+hydra.job.env_set.X_API_KEY={IN_YAML}"],
    "as a name": [f"{OVERRIDE}=1"],
    "as a variable's value": [f"+note={HUGGING_FACE}"],
    "of a tracker": [f"tracking.uri=http://me:{IN_URL}@127.0.0.1:5000"],
}


def refused(place: Place, *arguments: str) -> None:
    before = {file: file.read_bytes() for file in place.cwd.rglob("*") if file.is_file()}
    code, said = place.vlm_eval(*arguments)
    after = {f: f.read_bytes() for f in place.cwd.rglob("*") if f.is_file() and "__pycache__" not in f.parts}
    assert code == 2 and len(said.splitlines()) == 1 and said.startswith("vlm-eval: "), said
    assert after == before
    place.search()
    assert "export the key and give the variable's name" in said or "give the address without it" in said


@pytest.mark.parametrize("way", OVERRIDES)
@pytest.mark.parametrize("mode", [[], ["-m"]])
def test_a_key_in_an_override_is_refused_before_hydra_starts(place, way, mode):
    refused(place, *mode, "engine=leaky", *QUICK, *OVERRIDES[way])


@pytest.mark.parametrize("way", YAML)
@pytest.mark.parametrize("mode", [[], ["-m"]])
def test_a_key_in_a_yaml_is_refused_before_hydra_writes_it(place, way, mode):
    place.plant("conf/experiment/mine.yaml", f"# @package _global_\n{YAML[way]}")
    asked = ["task=vqa", f"task.data.root={place.folder / 'data'}", "metrics=tech", "judge=server", "tracking=none"]
    refused(place, *mode, *asked, "engine=leaky", "judge.model=openai/x", "experiment=mine")
