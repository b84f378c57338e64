"""Which rollout a request belongs to is one function of the request, whoever asks: Dropout, or the rendered routes."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import Phase, event, example, given, settings
from hypothesis import strategies as st

from extproc.datapath.model import Mutation, Request
from extproc.envoy.bootstrap import PROCESSOR_CLUSTER, bootstrap, connection_manager
from extproc.envoy.files import ROUTES_FILE, write_envoy_dir
from extproc.resources.match_paths import normal_form
from extproc.serve.worker.server import Server, server_maker
from extproc.serve.worker_config import WorkerConfig
from extproc.snapshot.model import Snapshot
from tests.support.envoy import TEMPLATES, EnvoyProcess, Upstreams, envoy_binary, free_port
from tests.support.raw_http import RawAnswer, http1, http2
from tests.support.rollouts import MARKS, canary, snapshot

pytestmark = pytest.mark.e2e

EXAMPLES = 200
"""Requests over each transport."""

ENTRIES: list[dict[str, Any]] = [
    {"hosts": ["api.example.com"]},
    {"hosts": ["api.example.com"], "path": {"type": "Exact", "value": "/v1/hdr"}},
    {"hosts": ["*.example.com"], "path": {"value": "/v1"}},
    {"hosts": ["*.eu.example.com"]},
    {"hosts": ["*.example.com"], "headers": [{"name": "x-model", "value": "fraud"}]},
    {"path": {"value": "/v1/hdr"}, "headers": [{"name": "x-model", "value": "fraud"}]},
    {"path": {"value": "/v1/hdr"}, "headers": [{"name": "x-model", "value": "other"}]},
    {"path": {"value": "/v1/hdr"}, "headers": [{"name": "x-model", "value": "fraud,other"}]},
    {
        "path": {"value": "/v1/hdr"},
        "headers": [{"name": "x-model", "value": "fraud"}, {"name": "x-tenant", "value": "t"}],
    },
    {"path": {"value": "/v1/hdr"}, "headers": [{"name": "accept", "value": "a"}]},
    {"path": {"value": "/v1/hdr"}, "headers": [{"name": "cookie", "value": "c=1; d=2"}]},
    {"path": {"type": "Exact", "value": "/v1/%68dr"}},
    {"path": {"value": "/v2"}},
]
names = st.sampled_from([b"x-model", b"x-model", b"x-tenant", b"accept", b"cookie", b"X-Model", b"x_model"])
values = st.sampled_from(
    [
        b"",
        b" fraud ",
        b"fraud, other",
        b"fr\xe4ud",
        *b'fraud fraud other fraud,other Fraud "fraud" fraud;q=1 t a'.split(),
    ]
)
hosts = st.builds(
    lambda user, name, dot, port: user + name + dot + port,
    st.sampled_from([b""] * 12 + [b"user@", b"u:p@", b"x:"]),
    st.sampled_from(
        [
            *b"api.example.com API.Example.COM b.example.com x.eu.example.com example.com .example.com other".split(),
            *b"[::1] [::ffff:1.2.3.4] ::1 [::1.example.com] 10.0.0.1 *.example.com %61pi.example.com".split(),
            *(b"", b"\xc3\xa4.example.com", b"\xe2\x84\xaa.example.com", b"api.example.com.example.com"),
        ]
    ),
    st.sampled_from([b"", b"", b"", b"", b"."]),
    st.sampled_from([b"", b"", *b":8080 : :8080x :80:90 :.example.com :x.example.com:80 :-1".split()]),
)
paths = st.builds(
    lambda path, tail: path + tail,
    st.sampled_from(b"/v1/hdr /v1/hdr /v1 /v1/%68dr /V1/hdr /v1//hdr /v2 / /v1/./hdr".split()),
    st.sampled_from(
        [b"", b"", b"\xc3\xa4", *b"/ :predict ?q=/v2 /x?y #f %2Fx %3Fx %00 %c3%a4 ;p x /.. /%2e%2e/hdr ? % //".split()]
    ),
)


class Odd(NamedTuple):
    """A request. Over HTTP/1.1 a scheme makes its target absolute; over HTTP/2 a second host is the header ``host``."""

    http2: bool
    method: bytes
    scheme: bytes
    host: bytes
    second_host: bytes | None
    path: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def repeats(self) -> bool:
        """Whether a header comes more than once."""
        names = [name.lower() for name, _ in self.headers]
        return len(set(names)) < len(names)

    def send(self, port: int, case: bytes) -> RawAnswer:
        """Send it and say what came back; ``case`` is a header that tells it from others."""
        headers = [*self.headers, (b"x-case", case)]
        second = [(b"host", self.second_host)] if self.second_host is not None else []
        if self.http2:
            pseudo = [(b":method", self.method), (b":scheme", b"http"), (b":path", self.path)]
            authority = [(b":authority", self.host)] if self.scheme or not second else []
            return http2(port, [*pseudo, *authority, *second, *((name.lower(), value) for name, value in headers)])
        if self.scheme:
            target = self.scheme + b"://" + self.host + self.path
            return http1(port, self.method, target, [*(second or [(b"host", self.host)]), *headers])
        return http1(port, self.method, self.path, [(b"host", self.host), *second, *headers])


def seldom(odd: st.SearchStrategy[Any], usual: Any) -> st.SearchStrategy[Any]:
    """Oddities of which Envoy refuses most at once, which says nothing about matching."""
    return st.integers(0, 9).flatmap(lambda drawn: odd if drawn == 9 else st.just(usual))


odd_requests = st.builds(
    Odd,
    http2=st.booleans(),
    method=seldom(st.sampled_from([b"OPTIONS", b"CONNECT"]), b"GET"),
    scheme=st.sampled_from([b"", b"http"]) | seldom(st.sampled_from([b"https", b"HTTP"]), b""),
    host=hosts,
    second_host=seldom(hosts, None),
    path=seldom(st.sampled_from([b"*", b"", b"v1/hdr", b"//v1/hdr"]), b"/v1/hdr") | paths,
    headers=st.lists(st.tuples(names, values), max_size=5).map(tuple),
)


def usual(*headers: tuple[bytes, bytes], host: bytes = b"models", path: bytes = b"/v1/hdr", over2: bool = False) -> Odd:
    """A request of which only what is given is odd."""
    return Odd(over2, b"GET", b"", host, None, path, headers)


@cache
def joins_repeated_headers() -> bool:
    """Whether this Envoy looks at the values of a header joined: before 1.39. What Dropout decides is the same."""
    said = subprocess.run([envoy_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    _, minor, _ = said.partition("version: ")[2].split("/")[1].split(".")
    return int(minor) < 39


class Asked:
    """A worker that only matches, with a real server of either transport, behind an Envoy that then goes by its routes.

    It answers nothing that would change a route, so each request tells twice whose it is.
    """

    def __init__(self, transport: str, table: Snapshot) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dr-"))
        self.matched: dict[bytes, str | None] = {}
        self._table = table
        self._transport = transport
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._server: Server | None = None
        self._upstreams = Upstreams("echo")
        self._cases = 0
        self.envoy: EnvoyProcess | None = None

    async def _process(self, request: Request) -> Mutation:
        found = self._table.find(request.host, request.path, request.headers, request.repeated)
        self.matched[request.headers[b"x-case".decode()]] = found[0].key if found else None
        return Mutation()

    def start(self) -> Asked:
        self._thread.start()
        self._upstreams.start()
        socket = self.folder / "w.sock"
        self._call(self._serve(WorkerConfig(0, "", "", unix=str(socket))))
        write_envoy_dir(self.folder, self._table.rollouts.values(), MARKS)
        self._have_routes_say_their_names()
        config = bootstrap(
            TEMPLATES[self._transport],
            listen_port=free_port(),
            admin_port=free_port(),
            worker_sockets=[socket],
            envoy_dir=self.folder,
            models=self._upstreams.ports,
        )
        # A path as the client spells it, and a fragment, where Envoy would otherwise refuse both.
        layers = config.setdefault("layered_runtime", {"layers": [{"name": "static", "static_layer": {}}]})["layers"]
        layers[0]["static_layer"]["envoy.reloadable_features.http_reject_path_with_fragment"] = False
        manager = connection_manager(config)
        for changed in ("normalize_path", "merge_slashes", "path_with_escaped_slashes_action"):
            del manager[changed]
        manager["delayed_close_timeout"] = "0.02s"
        cluster = next(each for each in config["static_resources"]["clusters"] if each["name"] == PROCESSOR_CLUSTER)
        del cluster["health_checks"]
        self.envoy = EnvoyProcess(config, self.folder).start()
        return self

    async def _serve(self, config: WorkerConfig) -> None:
        self._server = server_maker(self._transport)(config, self._process, lambda fault: None)
        await self._server.start()

    def _have_routes_say_their_names(self) -> None:
        file = self.folder / ROUTES_FILE
        routes = orjson.loads(file.read_bytes())
        said = {"header": {"key": "x-route", "value": "%ROUTE_NAME%"}}
        routes["resources"][0]["responseHeadersToAdd"] = [said]
        file.write_bytes(orjson.dumps(routes))

    def stop(self) -> None:
        if self.envoy is not None:
            self.envoy.stop()
        self._upstreams.stop()
        if self._server is not None:
            self._call(self._server.stop(0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        shutil.rmtree(self.folder)

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    def both(self, odd: Odd) -> tuple[str | None, str | None] | int:
        """Whose it is by Dropout and by the routes; the status where Envoy asked nobody."""
        assert self.envoy is not None
        self._cases += 1
        case = b"%d" % self._cases
        answer = odd.send(self.envoy.port, case)
        if case not in self.matched:
            return answer.status
        route = answer.headers.get(b"x-route")
        return self.matched[case], route.decode().removesuffix("@default") if route else None


def _rollouts(*entries: dict[str, Any]) -> Snapshot:
    return snapshot(
        *(canary(name=f"r{number}", match=[entry], upstream="echo") for number, entry in enumerate(entries))
    )


@pytest.fixture(scope="module", params=TEMPLATES)
def asked(request: pytest.FixtureRequest) -> Iterator[Asked]:
    asked = Asked(request.param, _rollouts(*ENTRIES))
    try:
        yield asked.start()
    finally:
        asked.stop()


@settings(max_examples=EXAMPLES, phases=[Phase.explicit, Phase.generate])
@given(odd=odd_requests)
@example(odd=usual((b"x-model", b"fraud"), (b"x-model", b"fraud")))
@example(odd=usual((b"x-model", b"other"), (b"x-model", b"fraud"), over2=True))
@example(odd=usual((b"x-model", b""), (b"X-Model", b"fraud"), (b"x-tenant", b""), (b"x-tenant", b"t")))
@example(odd=usual(host=b"api.example.com:8080x"))
@example(odd=usual(host=b"b.example.com:8080x"))
@example(odd=usual(host=b"b.example.com:80:90"))
@example(odd=usual(host=b"x:b.example.com"))
@example(odd=usual(host=b"x:b.example.com:80", over2=True))
@example(odd=Odd(False, b"GET", b"http", b"api.example.com:8080x", b"other", b"/v1/hdr"))
@example(odd=Odd(False, b"OPTIONS", b"", b"api.example.com", None, b"*"))
@example(odd=Odd(False, b"CONNECT", b"", b"api.example.com:80", None, b"api.example.com:80"))
@example(odd=Odd(True, b"GET", b"http", b"api.example.com", b"other", b"/v1/hdr"))
@example(odd=Odd(True, b"GET", b"", b"", b"api.example.com", b"/v1/hdr"))
def test_dropout_and_the_rendered_routes_take_a_request_for_the_same_rollouts(asked: Asked, odd: Odd) -> None:
    found = asked.both(odd)
    if isinstance(found, int):
        event("Envoy refuses it")
        assert found == 0 or 400 <= found < 500
        return
    by_dropout, by_routes = found
    event("nobody's" if by_dropout is None else f"{by_dropout}'s")
    if not (odd.repeats and joins_repeated_headers()):
        assert by_dropout == by_routes


class Normalised:
    """An Envoy as it is shipped, in front of a rollout that every path belongs to."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dr-"))
        self._upstreams = Upstreams("echo").start()
        config = bootstrap(
            TEMPLATES["grpc"],
            listen_port=free_port(),
            admin_port=free_port(),
            worker_sockets=[self.folder / "nobody.sock"],
            envoy_dir=self.folder,
            models=self._upstreams.ports,
        )
        manager = connection_manager(config)
        manager["http_filters"] = manager["http_filters"][1:]
        manager["delayed_close_timeout"] = "0.02s"
        write_envoy_dir(self.folder, _rollouts({"path": {"value": "/"}}).rollouts.values(), MARKS)
        self._envoy = EnvoyProcess(config, self.folder)

    def start(self) -> Normalised:
        self._envoy.start()
        return self

    def stop(self) -> None:
        self._envoy.stop()
        self._upstreams.stop()
        shutil.rmtree(self.folder)

    def handed_on(self, path: str) -> str | None:
        """What a version sees of a request for ``path``, or what Envoy redirects it to; None if it is refused."""
        answer = http1(self._envoy.port, b"GET", path.encode(), [(b"host", b"models")])
        if answer.status == 200:
            return str(orjson.loads(answer.body)["path"])
        return answer.headers[b"location"].decode() if answer.status == 307 else None

    def in_the_end(self, path: str) -> str | None:
        """The same for whoever goes on asking for what it was told."""
        while (handed_on := self.handed_on(path)) not in (path, None):
            assert handed_on is not None
            path = handed_on
        return handed_on


@pytest.fixture(scope="module")
def normalised() -> Iterator[Normalised]:
    envoy = Normalised()
    try:
        yield envoy.start()
    finally:
        envoy.stop()


ODD_PIECES = r"/ / / . . .. %2e %2E. ; a b v1 : % %2 %zz %41 %7E %7e %2F %2f %5c %25 %20 %3b %e4 %0a %7f"
pieces = [*ODD_PIECES.split(), *r"""\{}"<>^|`!$&'()*+,-=@[]_~"""]
written_paths = st.lists(st.sampled_from(pieces), max_size=8).map(lambda parts: "/" + "".join(parts))


@settings(max_examples=EXAMPLES, phases=[Phase.explicit, Phase.generate])
@given(path=written_paths)
@example(path="/a/%00")
@example(path="/a%2%65")
@example(path="//")
@example(path="//.")
@example(path="/a//../b/..;x/.;")
def test_a_path_that_is_taken_is_one_that_envoy_hands_on_and_any_other_is_not(
    normalised: Normalised, path: str
) -> None:
    normal = normal_form(path)
    event("taken" if normal == path else "without advice" if normal is None else "with advice")
    if normal is None:
        assert normalised.handed_on(path) != path
    else:
        assert normalised.in_the_end(path) == normal
        assert (normalised.handed_on(path) == path) is (normal == path)
