"""What the commands' own arguments have in common."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter

OVERRIDES = "those of fedmed run"


def new_parser(name: str, description: str | None) -> ArgumentParser:
    """Return a parser that takes no argument yet.

    Args:
        name: of the command.
        description: what it is for, how it is called and what it leaves; its module's docstring.
    """
    return ArgumentParser(
        prog=f"fedmed {name}",
        description=description,
        formatter_class=RawDescriptionHelpFormatter,
    )
