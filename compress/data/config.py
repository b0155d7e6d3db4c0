"""Sources for a recipe's `data:`; to add one, add a file in `sources/` and a line below."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from compress.data.paths import CommandLineText, PathOrName, RecipePath
from compress.data.source import DataSource
from compress.data.sources.array_files import ArraysData
from compress.data.sources.beir import BeirData
from compress.data.sources.corpus import CorpusData
from compress.data.sources.datasets import DatasetsData
from compress.data.sources.digits import DigitImagesData, DigitsData
from compress.data.sources.file import FileData
from compress.data.sources.images import ImagesData
from compress.data.sources.stdlib import StdlibData

__all__ = [
    "ArraysData",
    "BeirData",
    "CommandLineText",
    "CorpusData",
    "DataConfig",
    "DataSource",
    "DatasetsData",
    "DigitImagesData",
    "DigitsData",
    "FileData",
    "ImagesData",
    "PathOrName",
    "RecipePath",
    "StdlibData",
]

DataConfig = Annotated[
    DigitsData
    | DigitImagesData
    | ImagesData
    | ArraysData
    | FileData
    | DatasetsData
    | BeirData
    | CorpusData
    | StdlibData,
    Field(discriminator="source"),
]
