"""A server of LanguageTool's HTTP protocol (v2) over pylat-ru, whose name it gives when asked; for tests.

    python -m tests.languagetool_server [-p PORT] [--fault NUMBER:KIND]...

Prints its port once it can be asked. The check with a faulty NUMBER (from 1) is answered by a fault: `500`, `json`
(of another kind), `incomplete`, `hang`, or `die`.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

from pylat_ru import LanguageToolRU, __version__

tool, lock = LanguageToolRU(), threading.Lock()
faults: dict[int, str] = {}
checks = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = urlparse(self.path).path
        if path == "/v2/languages":
            self.answer([{"name": "Russian", "code": "ru", "longCode": "ru-RU"}])
        elif path == "/v2/healthcheck":
            self.answer("OK")
        else:
            self.answer("Error: not found", 404)

    def do_POST(self):
        global checks
        sent = parse_qs(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode(), keep_blank_values=True)
        with lock:
            checks += 1
            fault = faults.get(checks)
            if fault == "die":
                os._exit(1)
            if fault == "hang":
                time.sleep(3600)
            if fault == "500":
                return self.answer("Error: Internal Error: something broke\nover two lines", 500)
            if fault == "json":
                return self.answer({"error": "not a LanguageTool answer"})
            matches = [match(m) for m in tool.check(sent["text"][0])]
        self.answer(
            {
                "software": {"name": "pylat-ru", "version": __version__, "apiVersion": 1},
                "warnings": {"incompleteResults": fault == "incomplete"},
                "language": {"name": "Russian", "code": "ru-RU"},
                "matches": matches,
            }
        )

    def answer(self, body, code=200):
        data = body.encode() if isinstance(body, str) else json.dumps(body, ensure_ascii=False).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def match(m) -> dict:
    """One of LanguageTool's matches; places are in UTF-16 units, as Java counts."""
    return {
        "message": m.message,
        "shortMessage": m.short_message,
        "offset": m.utf16_offset,
        "length": m.utf16_length,
        "replacements": [{"value": word} for word in m.replacements],
        "context": {"text": m.original_error, "offset": 0, "length": m.utf16_length},
        "rule": {
            "id": m.rule_id,
            "issueType": "misspelling" if m.category_id == "TYPOS" else "uncategorized",
            "category": {"id": m.category_id, "name": m.category_name},
        },
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("-p", type=int, default=0)
    parser.add_argument("--fault", action="append", default=[])
    arguments = parser.parse_args()
    faults.update((int(number), kind) for number, kind in (fault.split(":") for fault in arguments.fault))
    tool.check("Проверка.")  # the first check takes seconds
    listening = ThreadingHTTPServer(("127.0.0.1", arguments.p), Handler)
    print(listening.server_address[1], flush=True)
    listening.serve_forever()
