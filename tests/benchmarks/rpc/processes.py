"""The servers and the load of the RPC benchmarks as processes: started, read from, and always ended."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Result = dict[str, Any]


class BenchmarkError(Exception):
    """Something could not be measured; says what."""


def end(process: subprocess.Popen[str]) -> None:
    """SIGTERM, and SIGKILL for one that does not care, or when we are interrupted ourselves."""
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        pass
    finally:
        process.kill()
        process.wait()


class Server:
    """A server that listens on a TCP port and on a Unix socket, until `with` is over."""

    START_SECONDS = 60

    def __init__(self, name: str, command: list[str], logs: Path, env: dict[str, str] | None = None) -> None:
        self.name = name
        self._log = logs / f"{name}.log"
        with self._log.open("w") as log:
            # A session of its own: Ctrl-C is for us, and we end it in our order.
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, text=True, env={**os.environ, **(env or {})}, start_new_session=True
            )
        self._addresses: dict[str, str] = {}

    def __enter__(self) -> Server:
        try:
            self._wait_for_addresses()
        except BaseException:
            end(self._process)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        end(self._process)

    def address(self, transport: str) -> str:
        """Of "tcp" or "unix"."""
        return self._addresses[transport]

    def cpu_seconds(self) -> float:
        """User and system time since the start."""
        fields = self._proc("stat").rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_kib(self) -> int:
        """Memory that is resident now."""
        found = re.search(r"^VmRSS:\s+(\d+) kB$", self._proc("status"), re.MULTILINE)
        if found is None:
            raise BenchmarkError(f"{self.name} has ended; see {self._log}")
        return int(found.group(1))

    def _proc(self, file: str) -> str:
        return Path(f"/proc/{self._process.pid}/{file}").read_text()

    def _wait_for_addresses(self) -> None:
        deadline = time.monotonic() + self.START_SECONDS
        while time.monotonic() < deadline:
            for address in re.findall(r"^\w+ listening on (\S+)$", self._log.read_text(), re.MULTILINE):
                self._addresses["unix" if address.startswith("unix:") else "tcp"] = address
            if len(self._addresses) == 2:
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        raise BenchmarkError(f"{self.name} does not listen; its log says:\n{self._log.read_text()[-2000:]}")


class Load:
    """A run of a program that prints JSON lines, the last of them the result. Ended with `with`, if not before."""

    def __init__(self, command: list[str], env: dict[str, str] | None = None) -> None:
        self._command = command
        self._stderr = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._stderr, text=True, env={**os.environ, **(env or {})},
            start_new_session=True,
        )

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        end(self._process)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._stderr.close()

    def events(self) -> Iterator[Result]:
        """Every line, as it comes. Raises if the program fails."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            yield json.loads(line)
        if self._process.wait() != 0:
            self._stderr.seek(0)
            raise BenchmarkError(f"{' '.join(self._command)}\nfailed: {self._stderr.read().strip()[-2000:]}")

    def wait_until_started(self) -> None:
        for event in self.events():
            if event["event"] == "started":
                return
        raise BenchmarkError(f"{' '.join(self._command)}\nended before it started")

    def result(self) -> Result:
        for event in self.events():
            if event["event"] == "result":
                return event
        raise BenchmarkError(f"{' '.join(self._command)}\nprinted no result")

    def stop(self) -> Result:
        """Ends the measurement now; its result so far."""
        self._process.send_signal(signal.SIGTERM)
        return self.result()


def run_load(command: list[str], env: dict[str, str] | None = None) -> Result:
    with Load(command, env) as load:
        return load.result()
