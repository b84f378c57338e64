"""Every policy engine keeps the contract of policy engines."""

from __future__ import annotations

import socket

import pytest

from extproc.adapters.regorus.policy import RegorusEngine
from extproc.datapath.embedded_policy import Embedded
from extproc.datapath.ports import PolicyEngine
from extproc.plugins import POLICY_ENGINE, open_adapter
from extproc.testing.policy import PolicyEngineContract
from tests.support.policies import sources_of
from tests.systems.opa import Opa


class TestRegorus(PolicyEngineContract):
    """The embedded one."""

    def make(self, module: str) -> PolicyEngine:
        return Embedded(RegorusEngine(sources_of(module)))

    def make_unreachable(self) -> None:
        """It is always there."""


class TestOpa(PolicyEngineContract):
    """A real OPA, asked over HTTP."""

    @pytest.fixture(autouse=True)
    def _with(self, opa: Opa) -> None:
        self.opa = opa

    def make(self, module: str) -> PolicyEngine:
        self.opa.put_policy("routing", module)
        return open_adapter(POLICY_ENGINE, f"opa+{self.opa.url}", "--policy-engine")

    def make_unreachable(self) -> PolicyEngine:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            return open_adapter(POLICY_ENGINE, f"opa+http://127.0.0.1:{nobody.getsockname()[1]}", "--policy-engine")
