"""A web server that behaves as badly as its paths say, and an S3 server; both on loopback."""

import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class BadServer(ThreadingHTTPServer):
    """`GET /MANNER/NAME` answers with the file NAME in a manner; see `Handler.do_GET`.

    Attributes:
        files: name -> content; any may be added and changed while serving.
        requests: path -> how often it was asked for.
        stopping: set when the server stops; what stalls waits for it.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.requests: Counter[str] = Counter()
        self.counting = threading.Lock()
        self.stopping = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *args: object) -> None:
        pass  # a client that gave up is what is tested here, and no news


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: BadServer

    def do_GET(self) -> None:
        with self.server.counting:
            self.server.requests[self.path] += 1
        manner, _, name = self.path.lstrip("/").partition("?")[0].partition("/")
        body = self.server.files.get("x.tar" if manner == "any" else name)
        half = len(body or b"") // 2
        if manner == "hiccup":
            manner = "stall" if self.server.requests[self.path] == 1 else "plain"
        refusal = {"denied": 403, "failing": 500}.get(manner, 404 if body is None else None)
        if manner == "flaky" and self.server.requests[self.path] <= 2:
            refusal = 500
        if refusal is not None:
            self._begin(refusal, 0)
        elif manner == "silent":
            self.server.stopping.wait(10)
        elif manner == "garbage":
            self.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")
            self.close_connection = True
        elif manner == "redirect":
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif manner == "chunked":
            self._begin(200, None)
            for piece in filter(None, (body[:half], body[half:])):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        else:
            self._begin(200, len(body) + {"long": 100, "short": -100}.get(manner, 0))
            self._send(manner, body, half)

    do_HEAD = do_GET  # noqa: N815  # S3 asks so first; here only of manners without a body

    def _begin(self, status: int, length: int | None) -> None:
        self.send_response(status)
        if length is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _send(self, manner: str, body: bytes, half: int) -> None:
        self.close_connection = manner not in ("plain", "slow")
        self.wfile.write(body[:half])
        if manner == "stall":
            self.server.stopping.wait(10)
        elif manner == "drip":
            for byte in body[half:]:
                if self.server.stopping.wait(0.05):
                    break
                self.wfile.write(bytes([byte]))
        elif manner == "short":
            self.wfile.write(body[half:-100])
            # Together with the rest, the client would take what is too much for another answer.
            self.server.stopping.wait(0.1)
            self.wfile.write(body[-100:])
        elif manner != "cut":
            self.server.stopping.wait(0.5 if manner == "slow" else 0)
            self.wfile.write(body[half:])

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serve(files: dict[str, bytes]) -> Iterator[BadServer]:
    """Run a `BadServer` in a thread."""
    server = BadServer(files)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()


@contextmanager
def serve_s3(files: dict[str, bytes]) -> Iterator[str]:
    """Run moto's S3 server in a thread with `BUCKET/KEY` -> content; yields its endpoint."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        names = sorted({name.partition("/")[0] for name in files})
        for name, content in [*((name, b"") for name in names), *files.items()]:
            # Without the type the body is taken for a form.
            headers = {"Content-Type": "application/octet-stream", "x-amz-acl": "public-read"}
            url = f"http://{host}:{port}/{name}"
            put = urllib.request.Request(url, content, headers, method="PUT")
            urllib.request.urlopen(put, timeout=10).close()
        yield f"http://{host}:{port}"
    finally:
        server.stop()
