"""A Redis and a Postgres of our own, which may be wiped, killed and started again."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import redis

from tests.faults.clients import free_port


class Redis:
    """One that keeps everything in memory: killed, it forgets."""

    def __init__(self, folder: Path) -> None:
        self.port, self._folder = free_port(), folder
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = redis.Redis(port=self.port)
        self.start()

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            command, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def wipe(self) -> int:
        """Forget everything; return how many keys that were."""
        wiping = "local n = redis.call('DBSIZE') redis.call('FLUSHALL') return n"
        return self.client.eval(wiping, 0)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.client.close()
        self.kill()


class Postgres:
    """A cluster of its own; as root it runs as the user postgres, since it refuses root."""

    def __init__(self, folder: Path) -> None:
        found = shutil.which("initdb") or max(
            map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), default=None
        )
        if found is None:
            pytest.skip("PostgreSQL's programs aren't installed here")
        self._bin, self._folder = Path(found).resolve().parent, folder
        self._as = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        if self._as:
            shutil.chown(folder, **self._as)
        self.port = free_port()
        self.url = f"postgresql://almanac@127.0.0.1:{self.port}/postgres"
        self._run("initdb", "--auth=trust", "--username=almanac", "--no-sync")
        with (folder / "postgresql.conf").open("a") as conf:
            conf.write(f"port={self.port}\nunix_socket_directories='{folder}'\n")
        self._run("pg_ctl", "start", "--wait", "--silent", "--log=log")

    def _run(self, program: str, *options: str) -> None:
        command = [str(self._bin / program), "-D", str(self._folder), *options]
        subprocess.run(command, cwd=self._folder, check=True, stdout=subprocess.DEVNULL, **self._as)

    def restart(self) -> None:
        """Stop it as a power cut would, and start it again: it recovers from its log."""
        self._run("pg_ctl", "restart", "--wait", "--silent", "--log=log", "--mode=immediate")

    def close(self) -> None:
        self._run("pg_ctl", "stop", "--wait", "--silent", "--mode=immediate")
