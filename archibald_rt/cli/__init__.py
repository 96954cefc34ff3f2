"""The command line, ``archibald-rt``."""

import sys
import warnings

import click
from jwt.warnings import InsecureKeyLengthWarning

from archibald_rt import __version__
from archibald_rt.cli.config import config
from archibald_rt.cli.emit import emit
from archibald_rt.cli.log import log
from archibald_rt.cli.serve import serve
from archibald_rt.cli.tail import tail
from archibald_rt.cli.token import token
from archibald_rt.errors import ArchibaldError, ConfigError

FAILED, WRONG_USAGE = 1, 2
"""Exit codes besides 0: it didn't work; the command line or the configuration is wrong."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="archibald-rt")
def cli() -> None:
    """Real-time job events: emit them here, and no device misses one."""


for command in (serve, emit, tail, token, log, config):
    cli.add_command(command)


def main() -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage or configuration.

    Every error is one line on stderr.
    """
    # The server and `token` say it themselves, in one line.
    warnings.simplefilter("ignore", InsecureKeyLengthWarning)
    try:
        code = cli.main(prog_name="archibald-rt", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(WRONG_USAGE)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "archibald-rt"
        _fail(f"{error.format_message()} (see {path} --help)", WRONG_USAGE)
    except click.ClickException as error:
        _fail(error.format_message(), FAILED)
    except ConfigError as error:
        _fail(str(error), WRONG_USAGE)
    except ArchibaldError as error:
        _fail(str(error), FAILED)
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        sys.stderr.close()
        sys.exit(FAILED)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(FAILED)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> None:
    click.echo(f"archibald-rt: {' '.join(message.split())}", err=True)
    sys.exit(code)
