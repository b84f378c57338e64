"""``dropout policy build``: policies in one file, as OPA has them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from extproc.adapters.regorus.bundle_signatures import ALGORITHMS, read_key
from extproc.cli.output import output_option, print_json
from extproc.errors import InvalidInput, Unreachable
from extproc.files import why_not, write_whole
from extproc.run.policy_bundles import Signing
from extproc.run.policy_bundles import build as build_bundle


@click.command(short_help="Pack policies and their data into an OPA bundle.")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "-f",
    "--file",
    "file",
    type=click.Path(path_type=Path),
    default="bundle.tar.gz",
    show_default=True,
    help="The bundle.",
)
@click.option("--revision", metavar="TEXT", help="What decisions say decided them.  [default: a fingerprint]")
@click.option(
    "--root",
    "roots",
    multiple=True,
    metavar="PATH",
    help="What is the bundle's own, routing for data.routing; may be given several times.  [default: everything]",
)
@click.option(
    "--signing-key", type=click.Path(path_type=Path), metavar="FILE", help="Sign it by this key: PEM, or a secret."
)
@click.option(
    "--signing-alg", type=click.Choice(ALGORITHMS), default="RS256", show_default=True, help="How it is signed."
)
@click.option("--scope", default="", metavar="TEXT", help="What the signature is for.")
@output_option
def build(
    directory: Path,
    file: Path,
    revision: str | None,
    roots: Sequence[str],
    signing_key: Path | None,
    signing_alg: str,
    scope: str,
    output: str,
) -> None:
    """Pack the policies and data under DIR into an OPA bundle, which `dropout serve` and `opa run -b` load.

    They are checked before. Tests are left out. The same policies give the same file.
    """
    if signing_key is None and scope:
        raise InvalidInput.of("flags_conflict", "this is about a signature: name a --signing-key", field="--scope")
    signing = Signing(read_key(signing_key, "--signing-key"), signing_alg, scope) if signing_key is not None else None
    built = build_bundle(directory, revision, roots, signing)
    try:
        write_whole(file, built.content)
    except OSError as error:
        raise Unreachable.of(
            "file_unwritable", f"it cannot be written: {why_not(error, file)}", file=str(file)
        ) from None
    if output == "json":
        print_json({"file": os.fspath(file), "revision": built.revision, "files": built.files, "errors": []})
    else:
        signed = ", signed" if signing is not None else ""
        click.echo(f"{file}: revision {built.revision}, {len(built.content)} bytes{signed}")
