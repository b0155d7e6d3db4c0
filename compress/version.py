"""The version of modelpress, defined only here."""

__all__ = ["__version__"]

__version__ = "0.1.0"
