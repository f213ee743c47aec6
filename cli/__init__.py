"""What a person types."""

from cli.program import main

__all__ = ["main"]
