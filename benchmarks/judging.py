"""Judging over a loopback server of a fixed latency: wall time over the ideal, and a re-run from the cache.

    python benchmarks/judging.py [--items 400] [--latency 0.5] [--concurrency 32] [--order both]

The ideal is calls / concurrency * latency. Imports are done before the clock starts.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from pairs import machine
from PIL import Image

VERDICT = json.dumps({"rationale": "Суть и суммы верны.", "score_a": 8, "score_b": 9}, ensure_ascii=False)


def serve(latency: float, port: multiprocessing.Queue) -> None:
    """A server in a process of its own: its work must not count as the judge's."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and body in one packet: as two, the second waits 40 ms for the first one's delayed ACK

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(latency)
            message = {"role": "assistant", "content": VERDICT}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 900, "completion_tokens": 60, "total_tokens": 960}
            reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "x", "choices": [choice]}
            data = json.dumps({**reply, "usage": usage}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 256

    server = Server(("127.0.0.1", 0), Handler)
    port.put(server.server_port)
    server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument("--latency", type=float, default=0.5)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--order", default="both")
    parser.add_argument("--screenshot", action="store_true", help="send one, 1000 x 2000 pixels, with every request")
    chosen = parser.parse_args()
    print(machine())
    port: multiprocessing.Queue = multiprocessing.Queue()
    process = multiprocessing.Process(target=serve, args=(chosen.latency, port), daemon=True)
    process.start()
    address = f"http://127.0.0.1:{port.get()}/v1"

    from vlm_eval.judges.base import JudgeRequest
    from vlm_eval.judges.pairwise import PairwiseJudge, PairwiseJudgeConfig
    from vlm_eval.judges.transport import load_litellm
    from vlm_eval.rows import Answer, Item

    load_litellm()
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "screen.png"
        Image.effect_noise((1000, 2000), 20).convert("RGB").save(picture)
        requests = []
        for n in range(chosen.items):
            item = Item(f"i{n}", f"i{n}", "screen.png", question=None, reference=f"Не прошла оплата заказа {n}.")
            requests.append(
                JudgeRequest(item, Answer(item.item_id, 0, item.cluster, f"Оплата {n} не прошла."), picture)
            )
        config = PairwiseJudgeConfig(
            name="loopback",
            model="openai/x",
            api_base=address,
            order=chosen.order,
            image="required" if chosen.screenshot else "never",
            concurrency=chosen.concurrency,
            cache=f"{folder}/replies.sqlite",
        )
        for what in ("asked", "from the cache"):
            judge = PairwiseJudge(config)
            began = time.perf_counter()
            rows = [row for new in judge.judge(requests) for row in new]
            took = time.perf_counter() - began
            assert all(row.status == "ok" for row in rows), rows[0]
            ideal = len(rows) / chosen.concurrency * chosen.latency
            cached = sum(row.cached for row in rows)
            told = f", {ideal / took:.2f} of the ideal {ideal:.1f} s (wanted: 0.85)" if not cached else ""
            print(f"{what}: {len(rows)} judgements, {cached} of them cached, {took:.2f} s{told}", flush=True)
    process.kill()


if __name__ == "__main__":
    main()
