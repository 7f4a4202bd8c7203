"""A real server on the loopback that speaks the OpenAI chat protocol, and what the judges' tests ask it."""

from __future__ import annotations

import functools
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from omegaconf import OmegaConf

from vlm_eval import config, rows
from vlm_eval.judges.base import JudgeRequest
from vlm_eval.rows import Answer, Item

from ..helpers import composed

KEY = "sk-test-0123456789-never-to-be-seen"
GOOD, BAD = "Оплата не прошла: ошибка 504.", "Всё хорошо."


class Server:
    """Replies with what `script(number, body)` returns: (status, content, perhaps headers).

    Content is a text or a whole message as a dict; bytes are an HTTP body as it stands, and where the status is None
    all that goes out before the connection is closed."""

    def __init__(self):
        self.bodies, self.keys, self.busy, self.most_busy = [], [], 0, 0
        self.times = []  # of the requests, in seconds
        self.script = lambda number, body: (200, fair(body))
        self.extra = {}  # further keys of every reply's choice
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.bodies.append(body)
                    outer.times.append(time.monotonic())
                    outer.keys.append(self.headers["Authorization"])
                    outer.busy += 1
                    outer.most_busy = max(outer.most_busy, outer.busy)
                    number = len(outer.bodies)
                status, said, *headers = outer.script(number, body)
                with outer.lock:
                    outer.busy -= 1
                try:
                    self.reply(status, said, *headers)
                except OSError:  # the client has timed out
                    pass

            def reply(self, status, said, headers=()):
                if status is None:
                    self.wfile.write(said)
                    return
                message = said if isinstance(said, dict) else {"role": "assistant", "content": said}
                choice = {"index": 0, "message": message, "finish_reason": "stop", **outer.extra}
                usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
                data = {"id": "1", "object": "chat.completion", "created": 1, "model": "x", "choices": [choice]}
                if status != 200:
                    data = {"error": {"message": said, "type": "error", "code": None}}
                data = said if isinstance(said, bytes) else json.dumps({**data, "usage": usage}).encode()
                self.send_response(status)
                usual = {"Content-Type": "application/json", "Content-Length": len(data)}
                for name, value in {**usual, **dict(headers)}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


def case_of(body):
    """(the JSON object that the judge was shown, its other parts)."""
    content = body["messages"][1]["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return json.loads(parts[-1]["text"]), parts[:-1]


def fair(body, swap=lambda text: text):
    """A verdict by content, wherever the answer stands: GOOD is worth 9, everything else 3."""
    case, _ = case_of(body)
    a, b = (9 if case[key] == GOOD else 3 for key in ("answer_a", "answer_b"))
    return swap(verdict(a, b))


def verdict(a, b):
    return json.dumps({"rationale": "A назвал ошибку.", "score_a": a, "score_b": b}, ensure_ascii=False)


def judge_for(server, judge="server", **changes):
    """The judge of a YAML, asking this server."""
    basics = {"model": "openai/NAME", "api_base": server.url, "api_key_env": "JUDGE_TEST_KEY", "retries": 2}
    cache = {"cache": f"{os.environ['VLM_EVAL_CACHE']}/replies.sqlite"}
    return config.build(OmegaConf.merge(node_of(judge), basics, cache, changes))


@functools.cache
def node_of(judge):
    return composed(f"judge={judge}", "judge.model=x", "judge.api_base=http://x", "metrics=tech").judge


def request(image, text=GOOD, reference=BAD, question=None, item_id="s1", done=(), repeat=0):
    item = Item(item_id, item_id, image.name, question=question, reference=reference)
    return JudgeRequest(
        item, Answer(item_id, repeat, item_id, text, error=None if text else "oom"), image, frozenset(done)
    )


def judged(judge, *requests):
    found = [row for new in judge.judge(requests) for row in new]
    assert KEY not in json.dumps([rows.to_dict(row) for row in found])
    return sorted(found, key=lambda row: (row.item_id, row.order))
