"""Every setting with its meaning and default: the text of ``.env.example``."""

from app.cli.console import out
from app.config import Settings

_HEAD = """\
# Almanac's settings. Copy this file to .env and uncomment what you change; an environment variable
# of the same name goes before it. Written by `make env`, checked by a test.
"""


def env_example() -> str:
    """Write the settings as a commented-out environment file."""
    lines = [_HEAD]
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else field.default
        lines.append(f"# {field.description}\n# ALMANAC_{name.upper()}={default}\n")
    return "\n".join(lines)


def settings() -> None:
    """Print every setting with its meaning, unit and default."""
    out.print(env_example(), soft_wrap=True)
