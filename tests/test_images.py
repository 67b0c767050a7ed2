"""Pixels: every readable file becomes the right grey, and one chain of resizes serves all."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from chestx.radiographs import images

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def reopened(image: Image.Image, format: str = "PNG", **options) -> Image.Image:
    """The image after a way through a file, as users' images come."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return Image.open(buffer)


def grey(image: Image.Image) -> np.ndarray:
    converted = images.to_grayscale(image)
    assert converted.mode == "L"
    return np.asarray(converted)


# ------------------------------------------------------------------------------------- to grey


def test_16_bit_greys_are_scaled_not_clipped() -> None:
    """65535 becomes 255 and the middle stays in the middle; Pillow alone would clip to white."""
    deep = RAMP.astype(np.uint16) * 257
    opened = reopened(Image.fromarray(deep))
    assert opened.mode == "I;16"
    np.testing.assert_array_equal(grey(opened), RAMP)
    np.testing.assert_array_equal(grey(Image.fromarray(deep.astype(np.int32))), RAMP)
    fine = np.linspace(0, 65535, 4096).astype(np.uint16).reshape(64, 64)
    assert np.abs(grey(reopened(Image.fromarray(fine))) - fine / 257).max() <= 0.5


@pytest.mark.parametrize("value", [-1, 65536])
def test_32_bit_greys_beyond_16_bit_are_refused(value: int) -> None:
    """A range that nobody knows is an error and no guess."""
    image = Image.fromarray(np.full((16, 16), value, dtype=np.int32))
    with pytest.raises(ValueError, match="0 to 65535"):
        images.to_grayscale(image)


def test_floating_point_greys_are_refused() -> None:
    """Mode F has no known range; the message says what to save instead."""
    with pytest.raises(ValueError, match="8 or 16 bit"):
        images.to_grayscale(Image.new("F", (16, 16), 0.5))


@pytest.mark.parametrize("mode", ["L", "RGB", "YCbCr"])
def test_grey_in_any_opaque_mode_stays_the_same_grey(mode: str) -> None:
    """A grey radiograph saved in colour is the same radiograph."""
    np.testing.assert_array_equal(grey(Image.fromarray(RAMP).convert(mode)), RAMP)


def test_colours_go_by_luminance() -> None:
    """ITU-R 601-2: green is brighter than red, red brighter than blue."""
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    row = Image.fromarray(np.asarray([colours], dtype=np.uint8))
    np.testing.assert_allclose(grey(row)[0], [76, 150, 29, 255], atol=1)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_is_put_on_black(mode: str) -> None:
    """Opaque pixels keep their grey, transparent ones are black, the others lie between."""
    alpha = np.tile(np.asarray([0, 128, 255, 255], dtype=np.uint8), (16, 4))
    image = Image.fromarray(RAMP).convert(mode)
    image.putalpha(Image.fromarray(alpha))
    got = grey(reopened(image)).astype(int)
    np.testing.assert_allclose(got, RAMP * (alpha / 255), atol=1)
    np.testing.assert_array_equal(got[alpha == 255], RAMP[alpha == 255])
    assert got[alpha == 0].max() == 0


@pytest.mark.parametrize(
    "straight, premultiplied",
    [
        ("LA", "La"),
        ("RGBA", "RGBa"),
    ],
)
def test_premultiplied_alpha_gives_the_same_grey(straight: str, premultiplied: str) -> None:
    """How alpha is stored does not change the picture."""
    image = Image.fromarray(RAMP).convert(straight)
    image.putalpha(Image.fromarray(RAMP.T.copy()))
    difference = grey(image).astype(int) - grey(image.convert(premultiplied)).astype(int)
    assert np.abs(difference).max() <= 2


def test_palette_goes_by_its_colours_not_its_indices() -> None:
    """An inverted palette inverts the picture."""
    image = Image.fromarray(RAMP).copy()
    image.putpalette([255 - i // 3 for i in range(768)])
    opened = reopened(image)
    assert opened.mode == "P"
    np.testing.assert_array_equal(grey(opened), 255 - RAMP)


@pytest.mark.parametrize("transparency", [255, bytes([255] * 255 + [0])])
def test_transparent_palette_entry_is_black(transparency: int | bytes) -> None:
    """A transparent colour of a palette counts as transparent, whatever its grey."""
    image = Image.fromarray(RAMP).copy()
    image.putpalette([i // 3 for i in range(768)])
    opened = reopened(image, transparency=transparency)
    assert opened.mode == "P"
    np.testing.assert_array_equal(grey(opened), np.where(RAMP == 255, 0, RAMP))


def test_transparent_grey_level_is_black() -> None:
    """A grey PNG may declare one level transparent."""
    opened = reopened(Image.fromarray(RAMP), transparency=200)
    np.testing.assert_array_equal(grey(opened), np.where(RAMP == 200, 0, RAMP))


def test_one_bit_is_black_and_white() -> None:
    """1-bit images span the whole range, not 0 and 1."""
    opened = reopened(Image.fromarray(RAMP >= 128))
    assert opened.mode == "1"
    np.testing.assert_array_equal(grey(opened), np.where(RAMP >= 128, 255, 0))


@pytest.mark.parametrize("format", ["TIFF", "JPEG"])
def test_cmyk_is_ink_not_light(format: str) -> None:
    """No ink is white, full black ink is black, and JPEG's inverted CMYK is told apart."""
    for ink, expected in (((0, 0, 0, 0), 255), ((0, 0, 0, 255), 0), ((0, 0, 0, 128), 127)):
        opened = reopened(Image.new("CMYK", (16, 16), ink), format)
        assert opened.mode == "CMYK"
        assert np.abs(grey(opened).astype(int) - expected).max() <= 2


# ------------------------------------------------------------------------------ uint8 <-> float


def test_every_grey_level_survives_the_way_to_float_and_back() -> None:
    """uint8 -> [-1, 1] -> uint8 is exact for all 256 values."""
    levels = torch.arange(256, dtype=torch.uint8)
    floats = images.to_float(levels)
    assert floats.dtype == torch.float32
    assert floats.min() == -1 and floats.max() == 1
    assert torch.equal(images.to_uint8(floats), levels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_lies_outside_is_clipped(dtype: torch.dtype) -> None:
    """A generator that overshoots gives black or white, never a wrapped grey."""
    values = torch.tensor([-7.0, -1.0, 1.0, 7.0], dtype=dtype)
    assert images.to_uint8(values).tolist() == [0, 0, 255, 255]


# --------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("size", [12, 48, 96])
def test_real_and_synthetic_images_go_through_one_chain(size: int) -> None:
    """The same pixels from a file, from a tensor or in a batch: no cue tells them apart."""
    batch = torch.randint(0, 256, (5, 1, 48, 48), generator=torch.Generator().manual_seed(0))
    batch = batch.to(torch.uint8)
    resized = images.resize(batch, size)
    assert resized.shape == (5, 1, size, size) and resized.dtype == torch.uint8
    for image, expected in zip(batch, resized):
        file = reopened(Image.fromarray(image[0].numpy()))
        assert torch.equal(images.decode(file, size), expected)
        assert torch.equal(images.resize(image, size), expected)


def test_resize_is_antialiased() -> None:
    """A fine checkerboard shrinks to its mean grey, not to one of its two colours."""
    board = (torch.arange(64)[:, None] + torch.arange(64)[None]) % 2 * 255
    small = images.resize(board[None].to(torch.uint8), 16).float()
    assert (small - 127.5).abs().max() < 10


def test_an_oblong_image_is_squashed_to_fill_the_square() -> None:
    """As on the slides: no frame, the whole image."""
    assert images.decode(Image.new("L", (64, 32), 255), 16).float().mean() == 255


@pytest.mark.parametrize("width, height", [(8, 8), (100, 800), (800, 100), (2916, 2583)])
def test_plausible_sizes_pass(
    width: int, height: int, png_claiming: Callable[[int, int], bytes]
) -> None:
    """The largest real file and the limits themselves are accepted."""
    images.check_size(Image.open(io.BytesIO(png_claiming(width, height))))


@pytest.mark.parametrize(
    "width, height, reason",
    [(7, 100, "at least 8"), (100, 1, "at least 8"), (100, 801, "8:1"), (10_000, 5_001, "50,000")],
)
def test_absurd_sizes_are_refused_by_the_header(
    width: int, height: int, reason: str, png_claiming: Callable[[int, int], bytes]
) -> None:
    """The message gives the size and the limit, before any pixel is decoded."""
    with pytest.raises(ValueError, match=f"{width} x {height} pixels.*{reason}"):
        images.check_size(Image.open(io.BytesIO(png_claiming(width, height))))


def test_a_header_that_claims_gigapixels_is_refused(
    png_claiming: Callable[[int, int], bytes],
) -> None:
    """60000 x 60000 pixels in a hundred bytes never reach the memory."""
    with pytest.raises((ValueError, Image.DecompressionBombError)):
        images.check_size(Image.open(io.BytesIO(png_claiming(60_000, 60_000))))


def test_a_large_jpeg_is_decoded_small_and_hardly_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    """At no less than twice the wanted size, and upright; the greys stay within a few levels."""
    x, y = np.meshgrid(np.linspace(0, 9, 400), np.linspace(0, 5, 300))
    picture = Image.fromarray(((np.sin(x) * np.cos(y) + 1) * 127).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    seen = []
    shrink = images.resize
    monkeypatch.setattr(images, "resize", lambda t, n: seen.append(t.shape[1:]) or shrink(t, n))
    for mode, turned in (("L", {}), ("RGB", {}), ("L", {"exif": exif})):
        file = io.BytesIO()
        picture.convert(mode).save(file, "JPEG", quality=95, **turned)
        small = images.decode(Image.open(file), 64)
        whole = Image.open(file)
        whole.load()
        full = images.decode(whole, 64)
        assert (small.int() - full.int()).abs().max() <= 4
    assert seen == [(150, 200), (300, 400)] * 2 + [(200, 150), (400, 300)]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_jpeg_below_four_times_the_size_keeps_every_pixel(mode: str) -> None:
    """The common copy of 224 pixels at 64 or 128: as if all of it were decoded."""
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(file, "JPEG")
    whole = Image.open(file)
    whole.load()
    for size in (64, 128):
        assert torch.equal(images.decode(Image.open(file), size), images.decode(whole, size))
