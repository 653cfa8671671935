"""nginx as the peer: one worker on a free port of the loopback address, with a configuration of its own.

Started here and ended here by process id; the installed service and its configuration are not touched.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from capstan.demo.site import descendants, free_port

START_SECONDS_MAX = 10.0
MISSING = "no peer: apt-get install nginx-core"

_CONFIGURATION = """
daemon off;
worker_processes 1;
{user}
pid {home}/nginx.pid;
error_log {home}/error.log warn;
events {{ worker_connections 64; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    client_max_body_size 0;
    client_body_buffer_size 1m;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    default_type application/octet-stream;
    server {{
        listen 127.0.0.1:{port};
        location /get/ {{ alias {read}/; }}
        location /put/ {{ alias {write}/; dav_methods PUT DELETE; }}
    }}
}}
"""


def find_nginx() -> str | None:
    """Where nginx is installed; None: it is not, or it has no dav module."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
    if found is None:
        return None
    described = subprocess.run([found, "-V"], capture_output=True, text=True, check=False).stderr
    return found if "http_dav_module" in described else None


class Nginx:
    """`with Nginx(program, home, read=…, write=…) as nginx`: serves `read` at /get/, stores into `write` at /put/.

    `write` lies on the file system of `home`, so that storing ends with a rename, as it does in Capstan.
    """

    def __init__(self, program: str, home: Path, *, read: Path, write: Path) -> None:
        self.program, self.home, self.read, self.write = program, home, read, write
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def workers(self) -> list[int]:
        """The processes that serve."""
        if self.process is None:
            return []
        return [pid for pid in descendants(self.process.pid) if pid != self.process.pid]

    def __enter__(self) -> Self:
        for directory in (self.home, self.write):
            directory.mkdir(parents=True, exist_ok=True)
        configuration = self.home / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                home=self.home, port=self.port, read=self.read, write=self.write,
                # As root it would give up its rights, and could not enter our directories.
                user="user root;" if os.geteuid() == 0 else "",
            )
        )  # fmt: skip
        self.process = subprocess.Popen(
            [self.program, "-p", str(self.home), "-c", str(configuration)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        give_up_at = time.monotonic() + START_SECONDS_MAX
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > give_up_at:
                log = self.home / "error.log"
                self.__exit__(None, None, None)
                raise OSError(f"nginx does not start: {log.read_text() if log.exists() else ''}")
            time.sleep(0.05)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(self.url + "/", timeout=1).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True
