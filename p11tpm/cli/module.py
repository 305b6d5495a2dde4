"""``p11tpm module``: where the PKCS#11 module is."""

from __future__ import annotations

import click

from p11tpm.cli.output import example


def path() -> str:
    """Return the absolute path of the PKCS#11 module that was built with this command."""
    from p11tpm._native import ffi, lib

    return str(ffi.string(lib.MODULE_PATH).decode())


@click.command(epilog=example('ssh -I "$(p11tpm module)" HOST'))
def module() -> None:
    """Print the path of the PKCS#11 module.

    Programs that use PKCS#11 ask for it.
    """
    click.echo(path())
