"""The pure core: what the files of CNI say, what the witnesses answered, and what follows. No input, no output, no clock."""

__version__ = "0.1.0"
