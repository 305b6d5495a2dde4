"""The command ``p11tpm``: one file per noun, on the same core as the PKCS#11 module."""

from __future__ import annotations

import os
import sys

import click

from p11tpm import __version__
from p11tpm.cli import cert, doctor, init, key, module, recipe, token
from p11tpm.cli.output import example, say
from p11tpm.error import Error


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=example("p11tpm init", "p11tpm key list", "p11tpm doctor"),
)
@click.version_option(__version__, prog_name="p11tpm")
def p11tpm() -> None:
    """Keep keys in this machine's TPM and use them from any PKCS#11 program.

    'p11tpm init' makes a first key and says how to use it with ssh. 'p11tpm doctor' says what is wrong.

    Exit status: 0 good, 1 failed (one line on stderr says what to do), 2 wrong usage.
    """


for command in (init.init, token.token, key.key, cert.cert, recipe.recipe, module.module, doctor.doctor):
    p11tpm.add_command(command)


def main() -> None:
    """Run one command and end the process with its exit status: 0 good, 1 failed, 2 wrong usage."""
    sys.exit(_run())


def _run() -> int:
    os.environ.setdefault("TSS2_LOG", "all+none")  # what tpm2-tss would say on stderr comes as an Error, too
    try:
        return int(p11tpm.main(standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        say("interrupted; what was there before is unchanged")
    except Error as error:
        say(error.why)
    except OSError as error:
        say(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    return 1
