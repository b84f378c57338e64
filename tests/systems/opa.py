"""The real OPA, the referee of what Rego means: as a command, and as the server that services ask."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.http import ask
from tests.support.paths import ROOT
from tests.support.process import Process, found

PINNED = 'package routing\n\ndecision := {"allow": true, "version": "4"}\n'


def opa_binary() -> Path:
    """The pinned binary, else one in PATH."""
    return found("opa", "make tools", [ROOT / ".tools" / "opa"])


def opa(*arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run OPA and wait; the caller looks at the exit status."""
    return subprocess.run(
        [opa_binary(), *map(str, arguments)], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )


class Opa(Process):
    """OPA as a server."""

    name = "opa"

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str | Path]:
        return [opa_binary(), "run", "--server", "--disable-telemetry", "--addr", f"127.0.0.1:{self.port}"]

    def ready(self) -> bool:
        return bool(ask(f"{self.url}/health") == {})

    def put_policy(self, name: str, text: str) -> None:
        """Have it hold a module, in place of the one that had the name."""
        ask(f"{self.url}/v1/policies/{name}", text, method="PUT", content_type="text/plain")

    def decide(self, path: str, given: Any) -> Any:
        """The value of the rule at ``path``, as in ``routing/decision``; None where it is undefined."""
        return ask(f"{self.url}/v1/data/{path}", {"input": given}).get("result")

    def clear(self) -> None:
        """Have it hold nothing."""
        for module in ask(f"{self.url}/v1/policies")["result"]:
            ask(f"{self.url}/v1/policies/{module['id']}", method="DELETE")
        ask(f"{self.url}/v1/data", {}, method="PUT")


class BundledOpa(Opa):
    """An OPA that is started with a bundle of ``rules``, whose revision is ``revision``."""

    rules = PINNED
    revision = "r1"

    def prepare(self) -> None:
        source = self.folder / "source"
        source.mkdir(exist_ok=True)
        (source / "decision.rego").write_text(self.rules)
        built = opa("build", "-b", source, "-o", self.folder / "main.tar.gz", "-r", self.revision)
        assert built.returncode == 0, built.stderr

    def command(self) -> Sequence[str | Path]:
        return [*super().command(), "-b", self.folder / "main.tar.gz"]
