"""Serve the report of a run on this machine while it goes on: one page on loopback, which no other machine can reach.

The server answers two requests: for the page, and for the state of the files that the page was made from. A page of a
foreign site that a browser on this machine shows gets no answer: the request must name this address as its host, so a
foreign name that leads here (DNS rebinding) is refused. It reads the run's records only, so the run is not disturbed.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import cast

from ropewalk.core.error import UserError
from ropewalk.parallel.stop import asking_signals
from ropewalk.report.live_report import LiveReport

ADDRESS = "127.0.0.1"
_IDLE_SECONDS = 10.0
_POLL_SECONDS = 0.2
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class RunServer:
    """The page of one run at ``url``. ``port`` 0 takes a free one.

    Raises UserError for a folder without a run and for a port that cannot be had.
    """

    def __init__(self, run: Path, *, port: int = 0, busy_share: float = 0.1) -> None:
        report = LiveReport(run, busy_share=busy_share)
        try:
            self._server = _Server((ADDRESS, port), _Answer)
        except OSError as fault:
            raise UserError(
                f"port {port} cannot be had",
                where="the command line, --port",
                why=fault.strerror or str(fault),
                fix="--port 0 takes a free one, which is printed",
            ) from None
        self._server.report = report
        self.url = f"http://{ADDRESS}:{self._server.server_port}/"

    def __enter__(self) -> "RunServer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.server_close()

    def serve(self, *, once: bool = False) -> None:
        """Answer until Ctrl-C or SIGTERM; with ``once`` until the page was sent."""
        with _interruptible():
            if not once:
                self._server.serve_forever(_POLL_SECONDS)
                return
            self._server.timeout = _POLL_SECONDS
            while not self._server.sent_page:
                self._server.handle_request()

    def stop(self) -> None:
        """End ``serve`` in another thread."""
        self._server.shutdown()


class _Server(ThreadingHTTPServer):
    """Browsers hold connections open that ask nothing yet, so each has a thread; none of them delays the end."""

    report: LiveReport
    sent_page = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that went away is no news; any other error is ours, and shows its traceback."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Answer(BaseHTTPRequestHandler):
    timeout = _IDLE_SECONDS
    server_version, sys_version = "ropewalk", ""

    def do_GET(self) -> None:
        """Answer for the page or the state."""
        server = cast(_Server, self.server)
        port = server.server_port
        if self.headers.get("Host") not in (f"{ADDRESS}:{port}", f"localhost:{port}"):
            self._send(HTTPStatus.FORBIDDEN, "text/plain", "This page is for this machine only.\n")
        elif self.path == "/":
            self._send(HTTPStatus.OK, "text/html", server.report.update())
            server.sent_page = True
        elif self.path == "/state":
            server.report.update()
            self._send(HTTPStatus.OK, "text/plain", server.report.state)
        else:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", "There is one page here, at /.\n")

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *words: object) -> None:
        """Say nothing: the terminal shows the address, and requests are no news."""


@contextmanager
def _interruptible() -> Iterator[None]:
    """The signals that ask a command to stop end the block in order: nothing here is unfinished."""
    main = threading.current_thread() is threading.main_thread()  # only it can receive signals
    before = {number: signal.signal(number, signal.default_int_handler) for number in asking_signals() if main}
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for number, answer in before.items():
            signal.signal(number, answer)
