"""The command ``p11tpm`` itself: its nouns, and what it says when something is wrong."""

from __future__ import annotations

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


def run() -> int:
    """Run one command and give its exit status: 0 good, 1 failed, 2 wrong usage; what nobody foresaw is raised."""
    try:
        return int(p11tpm.main(standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        say("interrupted; nothing that existed before was changed")
    except Error as error:
        say(error.why)
    except OSError as error:
        if error.strerror is None:
            raise
        say(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    return 1
