"""Transfer checks: does what was tuned on a small proxy hold at scale, and what does it cost if used anyway?

A check is a function on a table (arrays with one entry a trial) that returns a verdict with its evidence.
"""

from harness.transfer.learning_rate import Transfer, learning_rate_transfer

__all__ = ["Transfer", "learning_rate_transfer", "main"]


def main(argv: list[str]) -> int:
    """The command `harness.transfer`; its imports reach further right in the house than the checks themselves."""
    from harness.transfer import command, coordinates, explain

    commands = {"explain": explain.main, "coordinates": coordinates.main}
    if argv and argv[0] in commands:
        return commands[argv[0]](argv[1:])
    return command.main(argv)
