"""An empty environment with nothing but the wheel in it: what is there, what works, and what is said to be missing."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jwt
import pytest

from tests.support.decisions import decisions_in
from tests.support.dropout import DropoutServer
from tests.support.paths import ROOT
from tests.support.process import wait_for
from tests.support.templates import metric, template

UV = Path(sys.executable).with_name("uv")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SECONDS = 120


class Installed(NamedTuple):
    """The wheel, and the environment that it is alone in with what it requires."""

    wheel: Path
    bin: Path
    folder: Path

    def run(self, *arguments: str, status: int = 0) -> str:
        """What ``dropout`` prints there, from a folder that has nothing to do with this one."""
        done = subprocess.run(
            [self.bin / "dropout", *arguments], cwd=self.folder, capture_output=True, text=True, timeout=SECONDS
        )
        assert done.returncode == status, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    if not UV.exists():
        pytest.skip("left out: uv, which fills an environment in seconds, is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    python = folder / "venv" / "bin" / "python"
    uv("build", "--wheel", "--out-dir", str(folder), str(ROOT))
    (wheel,) = folder.glob("*.whl")
    uv("venv", "--python", sys.executable, str(folder / "venv"))
    uv("pip", "install", "--python", str(python), "--constraints", str(constraints(folder)), str(wheel))
    return Installed(wheel, python.parent, folder)


def uv(*arguments: str) -> None:
    done = subprocess.run([UV, "--system-certs", *arguments], capture_output=True, text=True, timeout=SECONDS)
    if done.returncode and "error sending request" in done.stderr:
        pytest.skip("left out: no package index can be reached")
    assert done.returncode == 0, done.stderr


def constraints(folder: Path) -> Path:
    """The locked versions without their hashes, which would have to cover the wheel too."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    file = folder / "constraints.txt"
    file.write_text("".join(line.removesuffix(" \\") + "\n" for line in lines if line[:1].isalnum()))
    return file


@pytest.fixture(scope="module")
def contents(installed: Installed) -> list[str]:
    with zipfile.ZipFile(installed.wheel) as wheel:
        return wheel.namelist()


def test_the_wheel_holds_the_package_and_nothing_of_the_tests(contents: list[str]) -> None:
    assert {name.partition("/")[0] for name in contents} == {
        "extproc",
        f"dropout_router-{PROJECT['version']}.dist-info",
    }
    assert [name for name in contents if Path(name).name.startswith(("test_", "conftest")) or "tests/" in name] == []
    assert [name for name in contents if "bench" in name or "__pycache__" in name] == []
    assert "extproc/py.typed" in contents


@pytest.mark.parametrize("folder", ["policies", "envoy"])
def test_policies_and_envoy_configuration_travel_in_the_wheel(contents: list[str], folder: str) -> None:
    there = {str(file.relative_to(ROOT)) for file in (ROOT / folder).rglob("*") if file.is_file()}
    assert there
    assert there <= {name.removeprefix("extproc/_bundled/") for name in contents}


def test_nothing_of_the_extras_is_installed(installed: Installed) -> None:
    wanted = "import importlib.util as u; print([n for n in {names} if u.find_spec(n)])"
    # rich is not among them: the CEL library brings it for a command line of its own.
    names = ["redis", "opa_client", "sklearn", "matplotlib", "httpx", "pytest", "grpc_tools", "hypothesis"]
    done = subprocess.run(
        [installed.bin / "python", "-c", wanted.format(names=names)], capture_output=True, text=True, timeout=SECONDS
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]")


NEEDS_AN_EXTRA = (
    "extproc/demo/",
    "extproc/adapters/opa/",
    "extproc/adapters/prometheus/metrics.py",  # and not what documents say to it, which every process reads
    "extproc/adapters/redis/",
    "extproc/adapters/rest/",
    "extproc/adapters/rego/",  # which is imported by a policy or a bundle that asks for it
)


def test_every_module_that_needs_no_extra_can_be_imported(installed: Installed, contents: list[str]) -> None:
    modules = [
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in contents
        if name.endswith(".py") and not name.startswith(NEEDS_AN_EXTRA) and not name.endswith("__main__.py")
    ]
    program = f"import importlib\nfor name in {modules!r}: importlib.import_module(name)"
    done = subprocess.run(
        [installed.bin / "python", "-P", "-c", program], capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr


def test_it_says_its_version(installed: Installed) -> None:
    assert installed.run("--version") == f"dropout, version {PROJECT['version']}\n"


def test_a_document_is_validated_and_a_unit_assigned(installed: Installed) -> None:
    document = next((ROOT / "envoy" / "rollouts").glob("*.yaml"))
    assert json.loads(installed.run("validate", str(document), "-o", "json"))["valid"] is True
    vector = json.loads((ROOT / "tests" / "vectors" / "assignment-v1.json").read_text())["vectors"][0]
    assigned = installed.run("assign", "--seed", vector["seed"], "--unit", vector["unit"], "-o", "json")
    assert json.loads(assigned) == {"unit": vector["unit"], "bucket": vector["bucket"]}


def test_the_policies_in_the_wheel_are_checked_and_tested(installed: Installed) -> None:
    (bundled,) = installed.folder.glob("venv/lib/python*/site-packages/extproc/_bundled/policies")
    assert json.loads(installed.run("policy", "check", str(bundled), "-o", "json"))["errors"] == []
    assert json.loads(installed.run("policy", "test", str(bundled), "-o", "json"))["failed"] == 0


def test_envoys_configuration_is_made_of_the_template_in_the_wheel(installed: Installed) -> None:
    made = json.loads(installed.run("envoy", "init", "--transport", "http", "-o", "json"))
    assert made["dynamic_resources"]["cds_config"]["path_config_source"]["path"] == "/run/dropout/envoy/cds.json"


def test_serve_is_documented(installed: Installed) -> None:
    assert "--drain-timeout" in installed.run("serve", "--help")


def test_the_demo_names_the_extra_that_it_needs(installed: Installed) -> None:
    error = json.loads(installed.run("demo", "-o", "json", status=3))["errors"][0]
    assert error["code"] == "extras_missing"
    assert "pip install 'dropout-router[demo]'" in error["message"]


@pytest.mark.parametrize(
    ("url", "extra"), [("redis://127.0.0.1", "redis"), ("https://127.0.0.1?template=feast", "rest")]
)
def test_an_adapter_names_the_extra_that_it_needs(url: str, extra: str, installed: Installed) -> None:
    ask = ("features", "get", "--view", "v", "--entity", "u-1", "--name", "n", "--features", url)
    error = json.loads(installed.run(*ask, "-o", "json", status=3))["errors"][0]
    assert error["code"] == "extras_missing"
    assert f"pip install 'dropout-router[{extra}]'" in error["message"]


def test_the_templates_of_feature_stores_travel_in_the_wheel(contents: list[str]) -> None:
    folder = ROOT / "extproc" / "adapters" / "rest" / "templates"
    here = {f"extproc/adapters/rest/templates/{file.name}" for file in folder.iterdir()}
    assert {name for name in contents if "/rest/templates/" in name} == here


BETA = """package routing

decision := {"allow": true} if {
	io.jwt.decode_verify(input.attributes.request.http.headers["x-token"], {"secret": data.secret})[0]
}
"""


def test_a_policy_that_verifies_tokens_names_the_extra_that_it_needs_and_decides_with_it(installed: Installed) -> None:
    policies, python = installed.folder / "tokens", installed.folder / "with-rego" / "bin" / "python"
    policies.mkdir()
    (policies / "beta.rego").write_text(BETA)
    secret, given = "a secret of thirty-two characters", installed.folder / "given.json"
    (policies / "data.json").write_text(json.dumps({"secret": secret}))
    http = {"headers": {"x-token": jwt.encode({"sub": "ann"}, secret, "HS256")}}
    given.write_text(json.dumps({"time": 1_796_029_200_000_000_000, "attributes": {"request": {"http": http}}}))
    check = ("policy", "check", str(policies), "-o", "json")
    evaluate = ("policy", "eval", str(policies), "data.routing.decision", "--input", str(given), "-o", "json")
    for command in (check, evaluate):
        (error,) = json.loads(installed.run(*command, status=2))["errors"]
        assert error["code"] == "policy_builtin_missing"
        assert error["line"] == 4
        sentence = "io.jwt.decode_verify needs more to be installed: pip install 'dropout-router[rego]'"
        assert error["message"] == sentence
    uv("venv", "--python", sys.executable, str(python.parent.parent))
    wheel = f"{installed.wheel}[rego]"
    uv("pip", "install", "--python", str(python), "--constraints", str(constraints(installed.folder)), wheel)
    extended = installed._replace(bin=python.parent)
    assert json.loads(extended.run(*check))["errors"] == []
    assert '"allow":true' in extended.run(*evaluate).replace(" ", "")


def test_adapters_of_somebody_elses_are_a_wheel_beside_ours(installed: Installed) -> None:
    """Their entry points are found: of each port, and what documents say to metrics; nobody's is a sentence."""
    example = ROOT / "tests" / "conformance" / "example"
    uv("build", "--wheel", "--out-dir", str(installed.folder / "example"), str(example))
    (wheel,) = (installed.folder / "example").glob("*.whl")
    uv("pip", "install", "--python", str(installed.bin / "python"), "--no-deps", str(wheel))
    ask = ("features", "get", "--view", "user_risk", "--entity", "u-1", "--name", "risk", "-o", "json")
    answer = json.loads(installed.run(*ask, "--features", "example:risk=0.5,vip=true"))
    assert answer["features"] == {"risk": {"value": 0.5, "event_time": None, "age": None}}
    (error,) = json.loads(installed.run(*ask, "--features", "exmaple:risk=0.5", status=2))["errors"]
    assert (error["code"], "example, " in error["message"]) == ("features_url", True)
    log = installed.folder / "decisions.jsonl.gz"
    server = _InstalledServer(installed)
    control = ("--with-controller", "--control-listen", f"unix:{server.sockets}/control.sock")
    store = ("--store", f"folder:{installed.folder / 'store'}", "--state", str(installed.folder / "state"))
    server.options = ("--sink", f"gzip:{log}", *control, "--metrics", "main=fixed:errors=0.5", *store)
    fixed = {"fixed": {"server": "main", "number": "errors"}}
    body = template(metric(provider=fixed, failureCondition="result > 0.8"))
    server.write(server.rollouts / "template.yaml", json.dumps(body))
    server.write_rollout(steps=[{"setWeight": 50}, {"analysis": {"templates": [{"templateName": "health"}]}}])
    with server:
        wait_for(lambda: server.ask()["x-model-version"] == "4", "a promotion by what was measured")
        decided = server.ask()["x-decision-id"]
        (listed,) = json.loads(installed.run("rollout", "list", *store, "-o", "json"))["rollouts"]
        assert (listed["stable"], server.stop()) == ("4", 0)
    assert decided in [event["decision_id"] for event in decisions_in(gzip.decompress(log.read_bytes()))]


class _InstalledServer(DropoutServer):
    """``dropout serve`` of the installed wheel."""

    def __init__(self, installed: Installed) -> None:
        self._dropout = str(installed.bin / "dropout")
        super().__init__(workers=1)

    def command(self) -> list[str]:
        command = super().command()
        return [self._dropout, *command[command.index("serve") :]]


@pytest.fixture
def server(installed: Installed) -> Iterator[_InstalledServer]:
    server = _InstalledServer(installed)
    server.write_rollout(policy={"path": "routing/decision"})
    server.write_policy('package routing\n\ndecision := {"allow": true, "version": "4"}\n')
    with server:
        yield server


def test_serve_decides_with_nothing_but_the_wheel(server: _InstalledServer, installed: Installed) -> None:
    command = Path(f"/proc/{server.worker_pids()[0]}/cmdline").read_bytes().split(b"\0")[0]
    assert command.startswith(os.fsencode(installed.bin))
    answer = server.ask()
    assert (answer["x-model-version"], answer["x-model-arm"]) == ("4", "excluded")
    assert server.metric("dropout_decisions_total", reason="policy_pin") == 1
    assert server.stop() == 0
