"""Folders of pictures: read as the model's own library reads them, split without leaks, refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from compress.data import DigitImagesData, DigitsData, ImageProcessor, ImagesData, Splits, load_splits
from compress.data.sources import images
from compress.errors import DataError, ModelError


def read(root: Path, **settings: Any) -> Splits:
    return load_splits(ImagesData.model_validate({"train": str(root), **settings}))


@pytest.fixture
def copied(pictures: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pictures, tmp_path / "pictures")


def _settings(tmp_path: Path, **settings: Any) -> ImageProcessor:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    return ImageProcessor.from_file(tmp_path / "preprocessor_config.json")


SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit.image_processing_pil_vit:ViTImageProcessorPil", {"size": {"height": 20, "width": 28}}),
    "deit": (
        "deit.image_processing_pil_deit:DeiTImageProcessorPil",
        {
            "size": {"height": 26, "width": 26},
            "crop_size": {"height": 20, "width": 20},
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
    ),
    "convnext": (
        "convnext.image_processing_pil_convnext:ConvNextImageProcessorPil",
        {"size": {"shortest_edge": 20}, "crop_pct": 0.8, "image_mean": [0.4, 0.5, 0.6]},
    ),
    "convnext, large": (
        "convnext.image_processing_pil_convnext:ConvNextImageProcessorPil",
        {"size": {"shortest_edge": 384}},
    ),
    "efficientnet": (
        "efficientnet.image_processing_pil_efficientnet:EfficientNetImageProcessorPil",
        {"size": {"height": 20, "width": 20}, "image_std": [0.3, 0.4, 0.5]},
    ),
    "no-flags": (
        "vit.image_processing_pil_vit:ViTImageProcessorPil",
        {"do_resize": False, "do_rescale": False, "do_normalize": False},
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_picture_becomes_the_numbers_that_transformers_makes_of_it(name: str, tmp_path: Path) -> None:
    where, settings = SETTINGS[name]
    module, _, kind = where.partition(":")
    theirs = getattr(pytest.importorskip(f"transformers.models.{module}"), kind)(**settings)
    theirs.save_pretrained(tmp_path)
    ours = ImageProcessor.from_file(tmp_path / "preprocessor_config.json")
    pixels = np.random.default_rng(0).integers(0, 256, (31, 45, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    wanted = np.asarray(theirs(image, return_tensors="np")["pixel_values"][0])
    # They rescale in float64 and round once more: an ulp or two of numbers up to 3, or up to 255.
    np.testing.assert_allclose(ours.values(ours.pixels(image)), wanted, rtol=1e-6, atol=1e-6)


def test_what_is_written_reads_as_the_same(tmp_path: Path) -> None:
    first = _settings(tmp_path, size={"shortest_edge": 20}, do_center_crop=True, crop_size=16, resample=3)
    assert (first.size, first.crop, first.result, first.resample) == (20, (16, 16), (16, 16), 3)
    assert _settings(tmp_path, **first.to_config()) == first
    image = Image.new("RGB", (30, 60), (255, 0, 127))
    assert first.pixels(image).shape == (16, 16, 3)
    tall = ImageProcessor(size=20).pixels(image)
    assert tall.shape == (40, 20, 3)  # in proportion


@pytest.mark.parametrize("kind", ["ConvNextFeatureExtractor", "EfficientNetImageProcessor"])
def test_settings_of_a_processor_of_its_own_are_written_as_plain_ones(kind: str, tmp_path: Path) -> None:
    named = {"feature_extractor_type": kind} if "Extractor" in kind else {"image_processor_type": kind}
    first = _settings(tmp_path, size=20, **named)
    written = first.to_config()
    assert not {"crop_pct", "include_top", "feature_extractor_type"} & written.keys()
    assert _settings(tmp_path, **written) == first


@pytest.mark.parametrize("name", ["do_flip_channel_order", "rescale_offset"])
def test_colours_in_another_order_or_range_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=name):
        _settings(tmp_path, **{name: True})


def test_what_deits_old_file_leaves_out_is_as_deit_has_it(tmp_path: Path) -> None:
    found = _settings(tmp_path, feature_extractor_type="DeiTFeatureExtractor", size=256)
    assert (found.size, found.crop, found.resample) == ((256, 256), (224, 224), 3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": {"longest_edge": 20}}, r"preprocessor_config\.json.*longest_edge"),
        ({"do_pad": True}, "do_pad.*data.size"),
        ({"image_std": [0.0, 0.0, 0.0]}, "image_std must be above 0"),
        ({"image_mean": [0.1, 0.2]}, "image_mean.*2.*3"),
        ({"resample": "bicubic"}, "resample bicubic.*allowed: 0 to 5"),
    ],
)
def test_settings_that_are_not_known_are_refused(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=words):
        _settings(tmp_path, **settings)


def test_splits_are_drawn_stratified_and_hold_the_pixels(pictures: Path) -> None:
    splits = read(pictures, test_fraction=0.25, validation_fraction=0.25)
    assert splits.task.labels == ("class-0", "class-1", "class-2")
    assert splits.task.inputs[0].shape == (3, 12, 12)
    assert [len(split) for split in (splits.train, splits.validation, splits.test)] == [18, 9, 9]
    assert np.bincount(splits.test.labels).tolist() == [3, 3, 3]
    for row, label in zip(splits.train.rows, splits.train.labels, strict=True):
        assert row["pixel_values"].dtype == np.float32
        means = row["pixel_values"].mean((1, 2))  # each class has its own colour
        assert int(means.argmax()) == label
    assert read(pictures, test_fraction=0.25, validation_fraction=0.25).fingerprint() == splits.fingerprint()
    assert splits.notes == () and splits.source.startswith("pictures (36 rows; validation and test drawn")


def test_sizes_and_colours_are_made_one_and_counted(copied: Path) -> None:
    folder = copied / "class-0"
    Image.open(folder / "00.png").convert("L").save(folder / "00.png")
    Image.open(folder / "01.png").convert("RGBA").resize((30, 20)).save(folder / "01.png")
    Image.open(folder / "02.png").convert("P").save(folder / "02.png")
    (folder / "notes.txt").write_text("not a picture")
    (folder / ".hidden.png").write_text("not a picture")
    splits = read(copied, size=[8, 6])
    assert splits.task.inputs[0].shape == (3, 8, 6)
    converted, resized, ignored = splits.notes
    assert "3 of 36" in converted and "RGB (1 L, 1 P, 1 RGBA)" in converted and "transparency" in converted
    assert all(size in resized for size in ("2 sizes", "12x12", "30x20", "6x8"))
    assert "1 file " in ignored and ignored.endswith("notes.txt")
    grey = read(copied, size=8, channels=1)
    assert grey.task.inputs[0].shape == (1, 8, 8)
    assert isinstance(grey.reader, ImageProcessor)
    written = grey.reader.to_config()
    assert (written["image_mean"], written["do_convert_grayscale"]) == ([0.5], True)


def test_a_photo_is_turned_as_its_camera_says(copied: Path) -> None:
    file = copied / "class-0" / "00.png"
    pixels = np.zeros((12, 12, 3), np.uint8)
    pixels[0] = 255  # the top row
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: the top row is the right column then
    Image.fromarray(pixels).save(file, exif=exif)
    found = images.read_image_folders(ImagesData(train=copied), ImageProcessor(mean=None, std=None))
    values = found["train"].values[0]
    assert values[:, :, -1].min() == 1 and values[:, :, :-1].max() == 0


def test_the_same_pixels_in_another_file_are_one_row(copied: Path) -> None:
    Image.open(copied / "class-1" / "03.png").save(copied / "class-1" / "again.bmp")
    splits = read(copied)
    (note,) = splits.notes
    assert note.kind == "dropped" and "1 row " in note
    assert sum(map(len, (splits.train, splits.validation, splits.test))) == 36


def test_a_picture_in_two_splits_is_an_error_that_names_both(copied: Path, tmp_path: Path) -> None:
    for label in range(3):
        (tmp_path / "test" / f"class-{label}").mkdir(parents=True)
        shutil.copy(copied / f"class-{label}" / "05.png", tmp_path / "test" / f"class-{label}" / "x.png")
    words = r"3 of 3 test rows .*train .*pictures\).*class-0/x.png .*class-0/05.png"
    with pytest.raises(DataError, match=words):
        read(copied, test=str(tmp_path / "test"))


def test_many_pictures_are_kept_in_a_file_and_are_the_same(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = read(pictures)
    monkeypatch.setattr(images, "_IN_MEMORY_BYTES", 1000)
    in_file = read(pictures)
    assert isinstance(in_file.train.rows[0]["pixel_values"].base, np.memmap)
    assert in_file.fingerprint() == in_memory.fingerprint()
    (note,) = in_file.notes
    assert "36 " in note and "temporary file" in note


def _one_class(root: Path) -> None:
    for label in (1, 2):
        shutil.rmtree(root / f"class-{label}")


def _empty_class(root: Path) -> None:
    (root / "dogs").mkdir()


def _no_pictures(root: Path) -> None:
    for each in root.iterdir():
        shutil.rmtree(each)


def _loose(root: Path) -> None:
    shutil.copy(root / "class-0" / "00.png", root / "00.png")
    for label in range(3):
        shutil.rmtree(root / f"class-{label}")


def _broken(root: Path) -> None:
    whole = (root / "class-1" / "04.png").read_bytes()
    (root / "class-1" / "04.png").write_bytes(whole[: len(whole) // 2])


def _no_image(root: Path) -> None:
    (root / "class-1" / "04.png").write_text("hello")


def _sizes(root: Path) -> None:
    Image.new("RGB", (9, 7)).save(root / "class-2" / "07.png")


def _deep(root: Path) -> None:
    Image.fromarray(np.zeros((12, 12), np.uint16)).save(root / "class-2" / "07.png")


def _splits(root: Path) -> None:
    (root / "class-0").rename(root / "train")
    (root / "class-1").rename(root / "test")
    (root / "class-2").rename(root / "val")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_one_class, "'class-0'"),
        (_empty_class, r"pictures/dogs.*\(\.bmp"),
        (_no_pictures, r"pictures: .*no .*sub-folder"),
        (_loose, r"pictures: .*no sub-folder"),
        (_broken, r"class-1/04\.png.*can't"),
        (_no_image, r"class-1/04\.png.*can't"),
        (_sizes, r"class-2/07\.png.*9x7.*12x12.*data\.size"),
        (_deep, r"class-2/07\.png.*8.*\('I;16'\)"),
        (_splits, r"its sub-folders are splits, not classes \(test, train, val\).*data\.train=.*/train"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_folder_that_cannot_be_used_is_one_clear_error(
    spoil: Callable[[Path], None], words: str, copied: Path
) -> None:
    spoil(copied)
    with pytest.raises(DataError, match=words):
        read(copied)


def test_a_test_folder_with_a_class_that_train_lacks_names_the_file(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "test" / "bird").mkdir(parents=True)
    Image.new("RGB", (12, 12)).save(tmp_path / "test" / "bird" / "b.png")
    with pytest.raises(DataError, match=r"'bird'.*\(bird/b\.png\)"):
        read(copied, test=str(tmp_path / "test"))


def test_settings_that_do_not_go_together_are_refused(pictures: Path) -> None:
    with pytest.raises(DataError, match="mean has 3 .* 1 channel"):
        read(pictures, channels=1, mean=[0.1, 0.2, 0.3])
    with pytest.raises(DataError, match="data: std must be above 0, not -1"):
        read(pictures, std=-1)
    with pytest.raises(ValidationError, match="channels"):
        ImagesData.model_validate({"train": str(pictures), "channels": 4})


def test_digits_as_pictures_are_the_digits() -> None:
    pictures, patches = load_splits(DigitImagesData()), load_splits(DigitsData())
    assert pictures.task.inputs[0].shape == (1, 8, 8)
    assert pictures.test.labels.tolist() == patches.test.labels.tolist()
    picture, patch = pictures.test.rows[0]["pixel_values"], patches.test.rows[0]["features"]
    np.testing.assert_array_equal(picture[0, :2, :2].ravel(), patch[0])
