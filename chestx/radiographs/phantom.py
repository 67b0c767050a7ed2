"""Procedural chest-radiograph phantoms: data for every lesson that needs no download.

A phantom is a sum of soft shapes on a grid of body coordinates: x runs from -1 (image left, the
patient's right) to 1, y from -1 (neck) to 1 (abdomen). The sum is a thickness of tissue without
unit; an exposure curve turns it into grey levels. The anatomy belongs to the patient; framing,
exposure, blur and noise belong to the image. Phantoms imitate the *problems* of the real data
(imbalance, several images of a patient, a shifted test set), not its medicine: no number measured
on them says anything about radiographs.
"""

from types import SimpleNamespace

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

CLASS_NAMES = ("NORMAL", "PNEUMONIA")
SPLITS = ("train", "val", "test")
# Share of NORMAL images in each folder of the real data.
NORMAL_SHARE = {"train": 1341 / 5216, "val": 8 / 16, "test": 234 / 624}
# Namespace of patient numbers -> file name of a patient's image: the grammar of the real data.
FILE_NAMES = {
    "IM": "IM-{:04d}-{:04d}.jpeg",
    "NORMAL2": "NORMAL2-IM-{:04d}-{:04d}.jpeg",
    "bacteria": "person{}_bacteria_{}.jpeg",
    "virus": "person{}_virus_{}.jpeg",
}
GROUPS = tuple(FILE_NAMES)  # two of NORMAL, two of PNEUMONIA
MAX_IMAGES = 10_000  # the four digits of IM-NNNN, shared by three splits, hold no more
EDGE = 0.022  # softness of an organ's edge, in body coordinates
TEXTURE_CELLS = 24  # cells of a random texture along each axis

# Every range is (low, high) of a uniform draw.
ANATOMY = {
    "chest_width": (0.66, 0.80),
    "chest_shape": (2.2, 3.4),  # exponent: higher is more of a barrel
    "apex": (-0.84, -0.68),
    "diaphragm": (0.50, 0.70),
    "dome": (0.7, 1.5),
    "dome_asymmetry": (0.01, 0.07),
    "scoliosis": (-0.05, 0.05),
    "soft_tissue": (0.05, 0.18),
    "shoulder": (-1.00, -0.82),
    "shoulder_slope": (-0.2, 0.45),
    "arm_flare": (0.2, 1.8),
    "chin": (-1.50, -1.10),
    "heart_y": (-0.22, -0.05),
    "heart_left": (0.20, 0.36),
    "heart_right": (0.05, 0.16),
    "mediastinum": (0.10, 0.16),
    "rib_period": (0.135, 0.175),
    "rib_phase": (0.0, 1.0),
    "rib_drop": (0.25, 0.65),
    "rib_contrast": (0.08, 0.18),
    "clavicle_y": (-0.64, -0.52),
    "clavicle_rise": (0.1, 0.4),
    "lung_density": (0.08, 0.24),
    "vessels": (0.03, 0.09),
    "stomach_gas": (-0.3, 0.3),
}
DISEASE = {
    "severity": (0.35, 2.1),
    "lobar": (0.0, 1.0),
    "side": (-1.0, 1.0),
    "zone": (-1.0, 1.0),
    "fissure": (-0.10, 0.15),
    "fissure_slope": (-0.3, 0.5),
}
IMAGING = {
    "shift_x": (-0.06, 0.06),
    "shift_y": (-0.06, 0.06),
    "zoom": (0.92, 1.10),
    "angle": (-0.06, 0.06),
    "gain": (0.85, 1.08),
    "offset": (-0.02, 0.05),
    "gamma": (0.95, 1.25),
    "blur": (0.3, 0.7),
    "noise": (0.004, 0.012),
    "progress": (0.75, 1.15),
}
# The test folder's other framing and exposure: closer, off-centre, greyer lungs.
SHIFTED_IMAGING = IMAGING | {
    "shift_x": (-0.11, 0.11),
    "shift_y": (-0.14, 0.02),
    "zoom": (1.03, 1.18),
    "offset": (0.00, 0.05),
    "gamma": (0.85, 1.15),
}


def _draw(ranges: dict[str, tuple[float, float]], rng: np.random.Generator) -> SimpleNamespace:
    return SimpleNamespace(**{name: rng.uniform(*ends) for name, ends in ranges.items()})


def _inside(distance: np.ndarray, edge: float = EDGE) -> np.ndarray:
    """A soft step: 1 well inside (distance > 0), 0 outside, exactly so beyond 3 edges."""
    t = np.clip(0.5 + distance / (6 * edge), 0, 1)
    return t * t * (3 - 2 * t)


def _bump(distance: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-0.5 * (distance / width) ** 2)


def _texture(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Smooth noise fixed to the body: cells spread over [-1.2, 1.2] and interpolated."""
    cells = rng.standard_normal((TEXTURE_CELLS, TEXTURE_CELLS))
    scale = (TEXTURE_CELLS - 1) / 2.4
    return map_coordinates(cells, [(y + 1.2) * scale, (x + 1.2) * scale], order=1, mode="nearest")


def _body_grid(size: int, imaging: SimpleNamespace) -> tuple[np.ndarray, np.ndarray]:
    """Body coordinates x, y of every pixel, each (size, size)."""
    axis = (np.arange(size) + 0.5) * (2 / size) - 1
    u, v = axis[None, :] - imaging.shift_x, axis[:, None] - imaging.shift_y
    cos, sin = np.cos(imaging.angle) / imaging.zoom, np.sin(imaging.angle) / imaging.zoom
    return cos * u + sin * v, cos * v - sin * u


def _cage_width(a: SimpleNamespace, y: np.ndarray) -> np.ndarray:
    """Half width of the rib cage at height y: wide at the base, closing above the apex."""
    height = np.clip((0.75 - y) / (0.75 - a.apex), 0, 1)
    return a.chest_width * (1 - height**a.chest_shape) ** 0.6


def _diaphragm(a: SimpleNamespace, x: np.ndarray) -> np.ndarray:
    """Height y of the two domes at x; the patient's right dome (the liver's) stands higher."""
    side = np.abs(x) - 0.5 * a.chest_width
    return a.diaphragm - 0.10 + a.dome * side**2 + a.dome_asymmetry * np.tanh(6 * x)


def _heart(a: SimpleNamespace, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Mediastinum, aortic knob and the heart that grows out of it, mostly to image right."""
    descent = np.clip((y - a.heart_y) / (a.diaphragm - a.heart_y), 0, 1)
    left = a.mediastinum + a.heart_left * np.sin(2.1 * descent) ** 1.3
    right = a.mediastinum + a.heart_right * np.sin(2.4 * descent)
    knob = 0.05 * _bump(y - a.heart_y + 0.16, 0.09)
    return _inside(np.where(x > 0, left + knob - x, right + x), 1.6 * EDGE)


def _lungs(a: SimpleNamespace, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How much of the ray through each pixel is lung, (size, size) in [0, 1]."""
    cage = _inside(_cage_width(a, y) - np.abs(x))
    return cage * _inside(_diaphragm(a, x) - y) * (1 - _heart(a, x, y))


def _body(a: SimpleNamespace, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Thickness of trunk, arms' beginning, neck and chin: thin at the flanks, thick below."""
    # The trunk narrows from the armpit to the waist; the flare opens it into raised arms.
    flare = a.arm_flare * np.clip(-0.3 - y, 0, 1) ** 1.5 - 0.08 * np.clip(y, 0, 1)
    trunk = a.chest_width + a.soft_tissue + flare - np.abs(x)
    shoulder = y - a.shoulder - a.shoulder_slope * np.clip(np.abs(x) - 0.2, 0, 1) ** 1.2
    depth = 0.5 + 0.28 * _bump(x, 0.45) + 0.14 * np.clip(y + 0.2, 0, 1)
    trunk_mask = _inside(trunk, 2.5 * EDGE) * _inside(shoulder, 3 * EDGE)
    neck = _inside(0.25 - np.abs(x), 3 * EDGE) * (y < 0)
    chin = _inside(0.5 - np.hypot(0.8 * x, y - a.chin), 3 * EDGE)
    return np.maximum(depth * np.maximum(trunk_mask, 0.85 * neck), 0.85 * chin)


def _bones(a: SimpleNamespace, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Ribs (posterior ones falling outwards, faint anterior ones rising), clavicles, spine."""
    side, cage = np.abs(x), _cage_width(a, y)
    in_cage = _inside(cage + 0.05 - side) * _inside(0.95 - y, 3 * EDGE)
    drop = a.rib_drop * side**2
    posterior = np.cos(2 * np.pi * ((y - drop) / a.rib_period + a.rib_phase))
    anterior = np.cos(2 * np.pi * ((y + 0.7 * side) / (1.3 * a.rib_period) - a.rib_phase))
    ribs = np.clip(posterior, -0.2, 1) + 0.35 * np.clip(anterior, 0, 1)
    wall = 1.3 * _bump(cage + 0.015 - side, 0.028) * (y < 0.75) * (0.75 + 0.35 * posterior)
    clavicle_line = a.clavicle_y - a.clavicle_rise * (side - 0.1) + 0.25 * (side - 0.35) ** 2
    clavicles = _bump(y - clavicle_line, 0.026) * _inside(side - 0.08) * _inside(0.72 - side)
    discs = 0.75 + 0.25 * np.cos(2 * np.pi * y / (0.8 * a.rib_period))
    spine = _inside(0.075 - side) * discs
    return a.rib_contrast * (in_cage * ribs + wall + 1.6 * clavicles + 1.1 * spine)


def _patches(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bronchopneumonia: several soft blobs, often on both sides."""
    field = np.zeros_like(x)
    bias = rng.uniform(0.15, 0.85)
    for _ in range(rng.integers(2, 7)):
        side = 1 if rng.random() < bias else -1
        centre_x, centre_y = side * rng.uniform(0.22, 0.58), rng.uniform(-0.35, 0.5)
        radius = np.hypot(x - centre_x, (y - centre_y) * rng.uniform(0.7, 1.1))
        field += rng.uniform(0.5, 1.1) * _bump(radius, rng.uniform(0.08, 0.20))
    return field


def _lobe(d: SimpleNamespace, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Lobar consolidation: one side, dense, with a fissure for an edge, fading away from it."""
    side, zone = (1 if d.side > 0 else -1), (1 if d.zone > -0.3 else -1)
    beyond = zone * (y - d.fissure - d.fissure_slope * (np.abs(x) - 0.35))
    return 1.6 * _inside(side * x) * _inside(beyond, 1.5 * EDGE) * _bump(np.maximum(beyond, 0), 0.4)


def _opacity(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, progress: float) -> np.ndarray:
    """Share of the lung's air that the patient's pneumonia replaces, (size, size) in [0, 1)."""
    disease = _draw(DISEASE, rng)
    mottle = 1 + 0.35 * _texture(rng, x, y)
    field = _lobe(disease, x, y) if disease.lobar < 0.4 else _patches(rng, x, y)
    return 1 - np.exp(-disease.severity * progress * field * np.clip(mottle, 0.2, None))


def _expose(tissue: np.ndarray, noise: np.ndarray, imaging: SimpleNamespace) -> np.ndarray:
    """Film curve, blur and quantum noise: thickness (size, size) -> uint8 (size, size)."""
    blurred = gaussian_filter(tissue, imaging.blur * len(tissue) / 64)
    film = 1 - np.exp(-1.35 * np.clip(blurred, 0, None))
    grey = imaging.offset + imaging.gain * film**imaging.gamma
    # Fewer photons pass thick tissue, so noise grows with density.
    grey += imaging.noise * np.sqrt(0.2 + film) * noise
    return np.round(255 * np.clip(grey, 0, 1)).astype(np.uint8)


def draw_phantom(
    label: int,
    size: int,
    patient_rng: np.random.Generator,
    image_rng: np.random.Generator,
    shifted: bool = False,
) -> np.ndarray:
    """Draw one phantom radiograph, uint8 of shape (size, size).

    `patient_rng` decides anatomy and disease, `image_rng` framing, exposure, blur and noise: two
    images of one patient come from equal patient generators. The draws shared by both classes come
    first: with equal generators, label 1 differs from label 0 only in the lungs. `shifted` frames
    and exposes like the test folder.
    """
    imaging = _draw(SHIFTED_IMAGING if shifted else IMAGING, image_rng)
    noise = image_rng.standard_normal((size, size))
    a = _draw(ANATOMY, patient_rng)
    x, y = _body_grid(size, imaging)
    x = x + a.scoliosis * y  # the midline leans, and the organs with it
    body, lungs = _body(a, x, y), _lungs(a, x, y)
    hilum = _bump(np.hypot(np.abs(x) - 0.2, y), 0.22)
    air = lungs * (1 - a.lung_density - a.vessels * _texture(patient_rng, x, y) - 0.3 * hilum)
    if label == 1:
        air = air * (1 - _opacity(patient_rng, x, y, imaging.progress))
    trachea = _inside(0.05 - np.abs(x)) * _inside(-0.3 - y) * _inside(y + 1.0)
    stomach = _bump(np.hypot(x - 0.38, 1.4 * (y - a.diaphragm - 0.12)), 0.09)
    liver = _inside(y - _diaphragm(a, x), 2 * EDGE) * _inside(_cage_width(a, y * 0.5) - np.abs(x))
    gas = 0.9 * air + 0.15 * trachea + max(a.stomach_gas, 0) * stomach
    tissue = body * (1 - gas + 0.15 * _heart(a, x, y) + 0.3 * liver + _bones(a, x, y))
    return _expose(tissue, noise, imaging)


def _patient_sizes(label: int, num_images: int, rng: np.random.Generator) -> list[int]:
    """Images of each patient, summing to `num_images`: mostly one, up to 30 for PNEUMONIA.

    Zipf exponents that give the real means: 1.11 images per NORMAL patient, 1.6 per PNEUMONIA.
    """
    # In a small split one patient with 30 images would be most of a class.
    exponent, largest = (2.6 if label == 1 else 4.0), min(30, 1 + num_images // 20)
    sizes: list[int] = []
    while (left := num_images - sum(sizes)) > 0:
        sizes.append(min(int(rng.zipf(exponent)), largest, left))
    return sizes


def _split_names(split: str, num_images: int, seed: int) -> list[tuple[int, str, int, int]]:
    """The label, group, patient number and image number of every file of a split."""
    index = SPLITS.index(split)
    rng = np.random.default_rng([seed, 2, index, num_images])
    num_normal = round(num_images * NORMAL_SHARE[split])
    used, names = dict.fromkeys(GROUPS, 0), []
    for label, count in ((0, num_normal), (1, num_images - num_normal)):
        for images in _patient_sizes(label, count, rng):
            # In the real train folder bacteria make up 2 in 3 PNEUMONIA images.
            group = GROUPS[2 * label + int(rng.random() > (0.66 if label == 1 else 0.5))]
            # Every third number belongs to this split, so splits of any size share no patient.
            number = 1 + index + len(SPLITS) * used[group]
            used[group] += 1
            names += [(label, group, number, image) for image in range(1, images + 1)]
    return names


def phantom_split(split: str, num_images: int, size: int = 64, seed: int = 0) -> list[dict]:
    """Draw a split as a list of {"image", "label", "file_name"}, NORMAL first as in a folder.

    `image` is a PIL image of mode "L" and size x size pixels, `label` indexes CLASS_NAMES. The name
    says bacteria or virus, the picture does not. The classes have the ratio of the real folder, and
    test is `shifted`. Splits of one seed share neither patients nor file names. Raises ValueError
    for num_images outside 2 to 10,000.
    """
    if not 2 <= num_images <= MAX_IMAGES:
        raise ValueError(f"num_images={num_images} is not allowed: choose 2 to {MAX_IMAGES}")
    records = []
    for label, group, number, image in _split_names(split, num_images, seed):
        key = [GROUPS.index(group), number]
        patient_rng = np.random.default_rng([seed, 0, *key])
        image_rng = np.random.default_rng([seed, 1, *key, image])
        pixels = draw_phantom(label, size, patient_rng, image_rng, shifted=split == "test")
        file_name = FILE_NAMES[group].format(number, image)
        records.append({"image": Image.fromarray(pixels), "label": label, "file_name": file_name})
    return records
