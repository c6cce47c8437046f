"""Real servers on loopback that a test can kill: MLflow, PostgreSQL, and proxies that misbehave."""

import contextlib
import http.client
import math
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.waiting import PATIENCE, answers, wait_for


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class MlflowServer:
    """`mlflow server` on one port, started as often as wanted; `python` is that of an environment with another MLflow."""

    def __init__(self, folder, store, python=sys.executable):
        self.folder, self.store, self.python = Path(folder), store, python
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None
        self.log = self.folder / "server.log"

    def start(self, wait=True):
        command = [self.python, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--backend-store-uri", self.store]
        variables = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        variables.pop("MLFLOW_TRACKING_URI", None)
        with self.log.open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=variables, stdout=log, stderr=log, start_new_session=True
            )
        if wait:
            self.wait()

    def wait(self):
        wait_for(lambda: answers(self.url), self.process, said=lambda: self.log.read_text(encoding="utf-8"))

    def kill(self):
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


class Postgres:
    """A PostgreSQL of its own, as Debian packages it."""

    _waiting = ("-w", "-t", str(int(PATIENCE)))

    def __init__(self):
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        if not programs:
            pytest.skip("PostgreSQL is not installed (Debian's package postgresql)")
        pytest.importorskip("psycopg2", reason="psycopg2-binary is not installed")
        self.programs, self.port = programs[-1], free_port()
        # initdb refuses to run as root, and pytest keeps its folders to their owner.
        self.user = "postgres" if os.getuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="segbundles-postgres-"))
        if self.user is not None:
            shutil.chown(self.folder, self.user)
        self._run("initdb", "-D", str(self.folder / "data"), "-U", "mlflow", "-A", "trust", "--no-sync")
        self.start()
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "mlflow", "mlflow")
        self.uri = f"postgresql+psycopg2://mlflow@127.0.0.1:{self.port}/mlflow"

    def _run(self, program, *words):
        command = [str(self.programs / program), *words]
        done = subprocess.run(
            command, user=self.user, cwd=self.folder, capture_output=True, text=True, encoding="utf-8"
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self):
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k '' -c fsync=off"
        log = str(self.folder / "log")
        # Its output goes to the log, or it would hold the pipe of this test open.
        command = [str(self.programs / "pg_ctl"), "start", *self._waiting, "-D", str(self.folder / "data")]
        subprocess.run(
            [*command, "-l", log, "-o", options],
            user=self.user,
            cwd=self.folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def stop(self):
        """As a power cut would."""
        self._run("pg_ctl", "stop", *self._waiting, "-D", str(self.folder / "data"), "-m", "immediate")

    def remove(self):
        self.stop()
        shutil.rmtree(self.folder)


class Proxy:
    """Stands between a client and a server and lets requests go wrong.

    Args:
        target: port of the server; None without one.
        faults: how requests may fail: "hang", "500", "lost request" (500 without asking the server), "lost
            answer" (the server did it, and the client never hears).
        share: of requests that fail, drawn from a seeded generator.
        in_a_row: most requests that fail one after the other.
        largest: bytes of a body; a larger one is answered by 413, as reverse proxies do.
    """

    def __init__(self, target=None, faults=("500",), share=1.0, seed=0, in_a_row=math.inf, largest=math.inf):
        self.faults, self.share, self.failed, self.row = faults, share, 0, 0
        self.largest = largest
        self.random, proxy = random.Random(seed), self
        self.released = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words):
                """Silent: the test tells what went wrong."""

            def handle_any(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = None
                if len(body) > proxy.largest:
                    self.answer(413, b"<html>Request Entity Too Large</html>", "text/html")
                    return
                fails = proxy.random.random() < proxy.share and proxy.row < in_a_row
                proxy.row = proxy.row + 1 if fails else 0
                if fails:
                    fault = proxy.random.choice(proxy.faults)
                    proxy.failed += 1
                if fault == "hang":
                    proxy.released.wait()
                    self.close_connection = True
                    return
                if fault in ("500", "lost request"):
                    self.answer(500, b"<html>proxy error</html>", "text/html")
                    return
                connection = http.client.HTTPConnection("127.0.0.1", target, timeout=PATIENCE)
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                content = answer.read()
                if fault == "lost answer":
                    self.close_connection = True
                    return
                self.answer(answer.status, content, answer.headers.get("Content-Type", "text/plain"))

            def answer(self, status, content, kind):
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
