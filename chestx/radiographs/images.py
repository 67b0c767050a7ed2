"""Pixels: any image file to 8-bit grey, one way to resize, and uint8 <-> float in [-1, 1].

Real and synthetic images both go through ``resize``; a different chain would be a cue by which
a classifier tells them apart.
"""

import numpy as np
import torch
import torchvision.transforms.v2.functional as transforms
from PIL import Image, ImageOps

MIN_SIDE = 8  # pixels; below this nothing of a chest is left
MAX_PIXELS = 50_000_000  # a header may claim any size; the largest real file has 6 million
MAX_ASPECT = 8.0
MAX_BYTES = 8 * MAX_PIXELS  # 16-bit RGBA without compression


def check_size(image: Image.Image) -> None:
    """Raise ValueError if the header claims an absurd size for a radiograph, or several images."""
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise ValueError(f"{width} x {height} pixels; each side needs at least {MIN_SIDE}")
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels; more than {MAX_PIXELS:,} are refused")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(f"{width} x {height} pixels; the aspect is beyond {MAX_ASPECT:g}:1")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a camera's JPEG with a preview
        raise ValueError(f"{frames} images in one file (animated, or pages); save one per file")


def to_grayscale(image: Image.Image) -> Image.Image:
    """Convert an image of any readable mode to 8-bit grey ("L").

    16-bit greys are divided by 257 (65535 -> 255; Pillow's own conversion would clip them);
    transparent pixels are put on black; RGB, CMYK and palette images go by luminance.
    """
    if image.mode in ("I;16", "I;16L", "I;16B", "I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"mode {image.mode}: grey values outside 0 to 65535")
        return Image.fromarray(np.round(values / 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("mode F: floating-point greys have no known range; save as 8 or 16 bit")
    if image.mode == "La":
        image = image.convert("LA")  # the only way that Pillow goes
    if image.mode in ("LA", "RGBA", "RGBa", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, rgba)
    return image.convert("L")


def resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """Resize uint8 images (..., 1, H, W) to (..., 1, size, size), bilinear and antialiased."""
    if images.shape[-2:] == (size, size):
        return images
    return transforms.resize(images, [size, size], antialias=True)


def decode(image: Image.Image, size: int) -> torch.Tensor:
    """An opened image file to uint8 (1, size, size), upright, squashed to a square as in the deck.

    A JPEG whose sides are four times ``size`` or more is decoded at a half, a quarter or an eighth
    of its size, at no less than twice ``size``: half the time for native files at 64 px. Which of
    these follows from the file's size; pixels move by 0.2 grey levels on average, by 4 at most.
    """
    if min(image.size) >= 4 * size:
        image.draft("L", (2 * size, 2 * size))  # nothing for other formats, and for pixels read
    return resize(transforms.pil_to_tensor(to_grayscale(ImageOps.exif_transpose(image))), size)


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 0 to 255 -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """float in [-1, 1] -> uint8 0 to 255, rounded; what lies outside is clipped."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
