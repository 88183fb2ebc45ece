"""CrashChat: teaching video language models to understand traffic crashes."""

__version__ = "0.1.0"
