"""An interpreter for programs that others start: it gives the command to a process forked from the test.

torchrun starts its ranks as new processes, of which each imports torch and transformers for six seconds. This
interpreter is a small program that imports nothing of ours: it sends its command, folder, environment and three streams
to the server, passes signals on, and ends as the forked process ends.
"""

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path

import transformers.models.llama.modeling_llama  # noqa: F401 - once here, so that every forked program has it already

import ropewalk.train.stage  # noqa: F401 - as above
from forked_verb import be_program, end_group

CLIENT = """#!{python} -SEs
import json, os, signal, socket, sys
if os.environ.get("LOCAL_RANK") == "{fresh_rank}":
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
said = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(said).to_bytes(4, "big")], [0, 1, 2])
server.sendall(said)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
    signal.signal(number, lambda number, _: server.send(bytes([number])))
ended = server.recv(1)
code = int.from_bytes(ended, signed=True) if ended else 1
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@contextmanager
def serve_forks(folder: Path, *, fresh_rank: int | None = None) -> Iterator[Path]:
    """The path of the interpreter. What it stands for is killed when it is.

    torchrun's local rank ``fresh_rank`` gets a fresh interpreter, as all ranks of a user have.
    """
    address, client = folder / "forks.socket", folder / "forked-python"
    client.write_text(CLIENT.format(python=sys.executable, address=str(address), fresh_rank=fresh_rank))
    client.chmod(0o755)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(address))
    listener.listen()
    server = get_context("fork").Process(target=_serve, args=(listener,))
    server.start()
    listener.close()
    try:
        yield client
    finally:
        server.kill()
        server.join()


def _serve(listener: socket.socket) -> None:
    """Never forks with a thread of its own: each command has a process that watches over it."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        client, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _watch(client)
            os._exit(0)
        client.close()


def _watch(client: socket.socket) -> None:
    start, streams, _, _ = socket.recv_fds(client, 4, 3)
    said = b""
    while len(said) < int.from_bytes(start, "big"):
        said += client.recv(1 << 16)
    command, folder, environment = json.loads(said)
    process = get_context("fork").Process(target=_run, args=(command, folder, environment, streams, client))
    process.start()
    for stream in streams:
        os.close(stream)  # who reads them waits for their end

    def pass_on() -> None:
        while number := client.recv(1):  # nothing comes once the client is gone
            with suppress(ProcessLookupError):
                os.kill(process.pid or 0, number[0])
        end_group(process)

    threading.Thread(target=pass_on, daemon=True).start()
    process.join()
    with suppress(OSError):
        client.send(int(process.exitcode or 0).to_bytes(1, "big", signed=True))


def _run(
    command: list[str], folder: str, environment: dict[str, str], streams: list[int], client: socket.socket
) -> None:
    client.close()
    while command[0] in ("-u", "-P"):  # output is not buffered, and the path is the parent's
        command = command[1:]
    os.environ.clear()
    os.environ.update(environment)
    sys.executable = environment.get("PYTHON_EXEC", sys.executable)  # what a rank starts is forked as it is
    os.chdir(folder)
    os.dup2(streams[0], 0)
    sys.stdin = os.fdopen(0, closefd=False)
    out, errors = (Path(f"/dev/fd/{stream}") for stream in streams[1:])
    folders = [Path(each) for each in environment.get("PYTHONPATH", "").split(os.pathsep) if each]
    be_program(command, out, errors, folders, in_thread=False)
