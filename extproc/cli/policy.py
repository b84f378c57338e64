"""``dropout policy``: what a policy author asks before a policy is served."""

from __future__ import annotations

from pathlib import Path

import click

from extproc.adapters.regorus_policy import CheckedTest, RegorusEngine, check_sources, run_tests
from extproc.cli.output import output_option, print_json
from extproc.control.policy import RULE
from extproc.errors import InvalidInput
from extproc.resources.policies import PolicySources, read_sources

_DIRECTORY = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))


@click.group()
def policy() -> None:
    """Check and test policies with the engine that will evaluate them."""


@policy.command(short_help="Say whether policies can be served, and what is wrong if not.")
@_DIRECTORY
@output_option
def check(directory: Path, output: str) -> None:
    """Say whether the policies and data under DIR can be served, and what is wrong if not.

    Rules called decision that can deny are named: their errors are denials unless a document says onError: stable.
    """
    sources = _checked(directory)
    engine = RegorusEngine(sources)
    decisions = {path for path in engine.paths if path.endswith("/decision")} - {RULE}
    can_deny = sorted(path for path in decisions if engine.can_deny(path))
    if output == "json":
        listed = sorted(sources.files)
        print_json({"revision": sources.revision, "files": listed, "can_deny": can_deny, "errors": []})
    else:
        count = len(sources.files)
        files = "1 policy file" if count == 1 else f"{count} policy files"
        click.echo(f"{files} can be served, revision {sources.revision}")
        for path in can_deny:
            click.echo(f"{path} can deny: a request that it fails on is denied unless a document says onError: stable")


@policy.command(short_help="Run the tests of policies; exit with 1 if one fails.")
@_DIRECTORY
@output_option
def test(directory: Path, output: str) -> int:
    """Run every rule under DIR whose name starts with test_; exit with 1 if one fails.

    The files of tests may do what policies may not, such as calling time.now_ns.
    """
    _checked(directory)
    results = run_tests(read_sources(directory, tests=True))
    if not results:
        raise InvalidInput.of("policy_tests_missing", "there is no rule test_...", file=str(directory))
    failed = sum(result.outcome in ("fail", "error") for result in results)
    if output == "json":
        passed = sum(result.outcome == "pass" for result in results)
        print_json({"passed": passed, "failed": failed, "tests": [result._asdict() for result in results]})
    else:
        for result in results:
            _print(result)
        click.echo(f"{len(results)} tests, {failed} failed" if failed else f"{len(results)} tests, none failed")
    return 1 if failed else 0


def _checked(directory: Path) -> PolicySources:
    sources = read_sources(directory)
    faults = check_sources(sources)
    if faults:
        raise InvalidInput(faults)
    return sources


def _print(result: CheckedTest) -> None:
    click.echo(f"{result.outcome:5} {result.name} ({result.file}:{result.line})")
    for line in (*((result.message,) if result.message else ()), *result.prints):
        click.echo(f"      {line}")
