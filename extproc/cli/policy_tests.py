"""``dropout policy test``: how the tests of policies go, which condition failed, and which lines they reach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from extproc.adapters.regorus.coverage import Coverage, LineCoverage, ranges
from extproc.adapters.regorus.rego_tests import CheckedTest, CheckedTests, run_tests
from extproc.cli.output import aligned, output_option, print_json, printable
from extproc.cli.why_text import failed_lines
from extproc.errors import InvalidInput
from extproc.resources.policies import read_sources
from extproc.run.given import checked_policies
from extproc.run.opa_tests import opa_outcomes


@click.command(short_help="Run the tests of policies; exit with 1 if one fails.")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("-r", "--run", "wanted", metavar="REGEX", default="", help="Only tests in whose name this is found.")
@click.option("--coverage", is_flag=True, help="Say which lines of the policies the tests evaluated.")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    help="Exit with 1 if the tests evaluated fewer of the lines; brings --coverage.",
)
@click.option("--opa", is_flag=True, help="Have the opa in PATH run them, too; exit with 1 if it finds otherwise.")
@output_option
def test(directory: Path, wanted: str, coverage: bool, threshold: float | None, opa: bool, output: str) -> int:
    """Run every rule under DIR whose name starts with test_; exit with 1 if one fails.

    Of a test that fails the condition is named that failed first, with the values of its parts. One that takes more
    than 5 s of a processor is an error, as one that throws is, and the others run. The files of tests may do what
    policies may not, such as calling time.now_ns.
    """
    checked_policies(directory)
    run = run_tests(read_sources(directory, tests=True), wanted=wanted, coverage=coverage or threshold is not None)
    if not run.tests:
        missing = f"there is no rule test_... with {wanted!r} in its name" if wanted else "there is no rule test_..."
        raise InvalidInput.of("policy_tests_missing", missing, file=str(directory))
    theirs = opa_outcomes(directory) if opa else {}
    failed = sum(result.outcome in ("fail", "error") for result in run.tests)
    differ = sum(_differs(result, theirs) for result in run.tests)
    if output == "json":
        print_json(_as_json(run, failed, theirs, opa=opa))
    else:
        for line in _lines(run, theirs):
            click.echo(line)
        tests = "1 test" if len(run.tests) == 1 else f"{len(run.tests)} tests"
        otherwise = f", {differ} of which opa finds otherwise" if differ else ""
        click.echo(f"{tests}, {failed or 'none'} failed{otherwise}")
    enough = run.coverage is None or _is_enough(run.coverage.whole(), threshold)
    return 1 if failed or differ or not enough else 0


def _is_enough(coverage: LineCoverage, threshold: float | None) -> bool:
    """Whether the coverage is at the threshold, if there is one; said on stderr where it is not."""
    if threshold is None or coverage.reaches(threshold):
        return True
    click.echo(f"the tests evaluate {coverage.percent:g} % of the lines, and --threshold is {threshold:g} %", err=True)
    return False


def _as_json(run: CheckedTests, failed: int, theirs: Mapping[str, str], *, opa: bool) -> dict[str, Any]:
    tests = []
    for result in run.tests:
        condition = None if result.failed is None else result.failed._asdict()
        of_opa = {"opa": theirs.get(result.name)} if opa else {}
        tests.append({**result._asdict(), "failed": condition, **of_opa})
    passed = sum(result.outcome == "pass" for result in run.tests)
    counted = {} if run.coverage is None else {"coverage": run.coverage.as_dict()}
    return {"passed": passed, "failed": failed, "tests": tests, **counted}


def _lines(run: CheckedTests, theirs: Mapping[str, str]) -> Iterator[str]:
    for result in run.tests:
        yield f"{result.outcome:5} {result.name} ({result.file}:{result.line})"
        for line in (*((result.message,) if result.message else ()), *result.prints):
            yield f"      {printable(line)}"
        for line in failed_lines(result.failed) if result.failed is not None else ():
            yield f"      {line}"
        if _differs(result, theirs):
            yield f"      opa: {theirs.get(result.name, 'there is no such test')}"
    if run.coverage is not None:
        yield from ("", *_table(run.coverage), "")


def _differs(result: CheckedTest, theirs: Mapping[str, str]) -> bool:
    """Whether OPA, if it was asked, has another outcome."""
    return theirs != {} and theirs.get(result.name) != result.outcome


def _table(coverage: Coverage) -> list[str]:
    rows = [_row(file, each) for file, each in coverage.files().items()]
    total = coverage.whole()
    heads = ("FILE", "LINES", "COVERED", "", "NOT COVERED")
    return aligned([heads, *rows, [*_row("", total)[:-1], ""]])


def _row(file: str, coverage: LineCoverage) -> list[str]:
    count = len(coverage.covered) + len(coverage.not_covered)
    missing = [str(first) if first == last else f"{first}-{last}" for first, last in ranges(coverage.not_covered)]
    return [file, str(count), str(len(coverage.covered)), f"{coverage.percent:g} %", ", ".join(missing)]
