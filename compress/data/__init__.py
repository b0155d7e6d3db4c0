"""Data: from sources to splits to batches, seeded and without leaks between splits.

Importing it needs only numpy and pydantic; scikit-learn, Pillow, tokenizers, pyarrow and datasets are
imported on use.
"""

from compress.data.config import (
    ArraysData,
    BeirData,
    CommandLineText,
    CorpusData,
    DataConfig,
    DatasetsData,
    DataSource,
    DigitImagesData,
    DigitsData,
    FileData,
    ImagesData,
    PathOrName,
    RecipePath,
    StdlibData,
)
from compress.data.readers.image_processor import PIXELS, PREPROCESSOR_FILE, ImageProcessor
from compress.data.readers.reader import NumbersReader, Reader
from compress.data.readers.tokenize import TextEncoder
from compress.data.source import load_splits
from compress.data.sources.arrays import from_arrays
from compress.data.split import Batch, Row, Split, collate
from compress.data.splits import Splits

__all__ = [
    "ArraysData",
    "Batch",
    "BeirData",
    "CommandLineText",
    "CorpusData",
    "DataConfig",
    "DataSource",
    "DatasetsData",
    "DigitImagesData",
    "DigitsData",
    "FileData",
    "ImageProcessor",
    "ImagesData",
    "NumbersReader",
    "PIXELS",
    "PREPROCESSOR_FILE",
    "PathOrName",
    "Reader",
    "RecipePath",
    "Row",
    "Split",
    "Splits",
    "StdlibData",
    "TextEncoder",
    "collate",
    "from_arrays",
    "load_splits",
]
