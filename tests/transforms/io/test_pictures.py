"""2D pictures, and what is refused."""

import contextlib
import random

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from monai.transforms import LoadImage
from PIL import Image

from transforms.io.readers import ImageError, read_header, read_image, read_label


@pytest.fixture
def colours() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 4, 3)).astype(np.uint8)  # rows, columns, RGB


@pytest.mark.parametrize("name", ["a.png", "a.bmp"])
def test_pictures_have_monais_axes(tmp_path, colours, name):
    Image.fromarray(colours).save(tmp_path / name)
    ours, monai = read_image(tmp_path / name), LoadImage(ensure_channel_first=True)(tmp_path / name)
    assert tuple(ours.shape) == (3, 4, 6)
    np.testing.assert_array_equal(ours.numpy(), monai.numpy())
    np.testing.assert_array_equal(ours.affine, np.eye(4))
    header = read_header(tmp_path / name)
    assert (header.channels, header.shape) == (3, (4, 6))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_depth_of_pictures_is_kept(tmp_path, suffix, channels, dtype):
    """Pillow would cut 16-bit colours down to 8 bits without a word."""
    array = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (6, 4, channels)).astype(dtype)
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(
        sitk.GetImageFromArray(array if channels == 3 else array[..., 0], isVector=channels == 3), str(path)
    )
    np.testing.assert_array_equal(read_image(path).numpy(), array.transpose(2, 1, 0))
    assert read_header(path).channels == channels


def test_float_tiff_and_its_spacing(tmp_path):
    array = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, resolution=(20000, 10000), resolutionunit="CENTIMETER")
    np.testing.assert_array_equal(read_image(path).numpy()[0], array.T)
    np.testing.assert_allclose(np.diag(read_header(path).affine), [5e-4, 1e-3, 1, 1])
    tifffile.imwrite(path, array, resolution=(300, 300), resolutionunit="INCH")
    np.testing.assert_array_equal(read_header(path).affine, np.eye(4))
    for unit, step in (("um", 1e-3), ("\\u00B5m", 1e-3), ("mm", 1.0), ("pixel", 2.0)):
        tifffile.imwrite(path, array, imagej=True, resolution=(2, 2), metadata={"unit": unit})
        np.testing.assert_allclose(np.diag(read_header(path).affine)[:2], step / 2, err_msg=unit)


def test_colour_pixmaps(tmp_path, colours):
    """PPM, in which STARE's photographs lie, and which MONAI does not read."""
    Image.fromarray(colours).save(tmp_path / "a.ppm")
    np.testing.assert_array_equal(read_image(tmp_path / "a.ppm").numpy(), colours.transpose(2, 1, 0))
    assert read_header(tmp_path / "a.ppm").channels == 3


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_pixmaps(tmp_path, bits):
    """PGM, in which labels of STARE lie."""
    array = np.random.default_rng(0).integers(0, 2**bits, (6, 4)).astype(f"uint{bits}")
    (tmp_path / "a.pgm").write_bytes(
        f"P5 4 6 {2**bits - 1}\n".encode() + array.astype(f">u{bits // 8}").tobytes()
    )
    np.testing.assert_array_equal(read_image(tmp_path / "a.pgm").numpy()[0], array.T)
    assert read_header(tmp_path / "a.pgm").channels == 1


def test_gif(tmp_path, colours):
    """In which DRIVE's labels and masks lie: indices are the label, and colours the image, of one picture only."""
    index = np.random.default_rng(1).integers(0, 3, (6, 4)).astype(np.uint8)
    picture = Image.fromarray(index, mode="P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    picture.save(tmp_path / "a.gif")
    np.testing.assert_array_equal(read_label(tmp_path / "a.gif").numpy()[0], index.T)
    palette = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]])
    np.testing.assert_array_equal(read_image(tmp_path / "a.gif").numpy(), palette[index].transpose(2, 1, 0))
    mask = np.where(index > 0, 255, 0).astype(np.uint8)
    Image.fromarray(mask).save(tmp_path / "mask.gif")
    np.testing.assert_array_equal(read_label(tmp_path / "mask.gif").numpy()[0] > 0, mask.T > 0)
    frames = [Image.fromarray(colours), Image.fromarray(255 - colours)]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match="2 pages in one file"):
        read_image(tmp_path / "two.gif")


def test_labels_in_pictures(tmp_path, colours):
    index = np.random.default_rng(1).integers(0, 4, (6, 4)).astype(np.uint8)
    palette = Image.fromarray(index)
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "p.png")
    Image.fromarray(np.stack([index] * 3, axis=-1)).save(tmp_path / "grey.png")
    Image.fromarray(index > 1).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_label(tmp_path / "p.png").numpy()[0], index.T)
    np.testing.assert_array_equal(read_label(tmp_path / "grey.png").numpy()[0], index.T)
    np.testing.assert_array_equal(read_label(tmp_path / "mask.png").numpy()[0], index.T > 1)
    Image.fromarray(colours).save(tmp_path / "c.png")
    with pytest.raises(ImageError, match="one channel, this file has 3"):
        read_label(tmp_path / "c.png")


def test_refused_pictures(tmp_path, colours):
    clear = np.dstack([colours, np.full((6, 4), 255, np.uint8)])
    Image.fromarray(clear).save(tmp_path / "opaque.png")
    np.testing.assert_array_equal(read_image(tmp_path / "opaque.png").numpy(), colours.transpose(2, 1, 0))
    clear[0, 0, 3] = 7
    Image.fromarray(clear).save(tmp_path / "alpha.png")
    tifffile.imwrite(tmp_path / "pages.tif", np.zeros((2, 6, 4), np.uint8), photometric="minisblack")
    Image.fromarray(colours).convert("CMYK").save(tmp_path / "cmyk.jpg")
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(colours).save(tmp_path / "turned.jpg", exif=exif)
    raw = (tmp_path / "opaque.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(raw[: len(raw) // 2])
    (tmp_path / "text.png").write_text("no picture")
    for name, message in (
        ("alpha.png", "partly transparent"),
        ("pages.tif", "2 pages"),
        ("cmyk.jpg", "colours are CMYK"),
        ("turned.jpg", "EXIF orientation 6"),
        ("cut.png", "truncated"),
        ("text.png", "not a readable picture"),
    ):
        with pytest.raises(ImageError, match=rf"{name}: .*{message}"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("name", ["grey.png", "mask.png", "deep.png", "deflated.tif", "deep.tif"])
def test_damaged_pictures_with_a_checksum_are_never_read_wrong(tmp_path, name):
    """Decoders stop at the last row, before the checksum; of a mask a flipped bit left a good-looking picture."""
    grey = np.random.default_rng(0).normal(100, 20, (60, 50)).astype(np.uint8)
    path = tmp_path / name
    if name == "mask.png":
        Image.fromarray((grey > 100).astype(np.uint8)).save(path)
    elif name == "deep.tif":
        tifffile.imwrite(path, grey.astype(np.uint16) * 200, compression="zlib")
    elif name == "deep.png":
        sitk.WriteImage(sitk.GetImageFromArray(grey.astype(np.uint16) * 200), str(path))
    else:
        Image.fromarray(grey).save(path, **({"compression": "tiff_adobe_deflate"} if "tif" in name else {}))
    whole, raw = read_image(path).numpy(), path.read_bytes()
    start, stop = 33, len(raw)  # of a PNG, behind what says how large it is
    if name.endswith(".tif"):
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            start, stop = page.dataoffsets[0], page.dataoffsets[-1] + page.databytecounts[-1]
    chance, refused = random.Random(5), 0
    for _ in range(60):
        damaged = bytearray(raw)
        damaged[chance.randrange(start, stop)] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            found = read_image(path).numpy()
        except ImageError:
            refused += 1
            continue
        np.testing.assert_array_equal(found, whole)
    assert refused > 50


@pytest.mark.parametrize("kind", ["grey", "colours", "two values", "deep"])
def test_packbits_of_another_length_are_refused(tmp_path, kind):
    """ITK only prints a warning of them, and what it returns is made up in part."""
    path, grey = tmp_path / "a.tif", np.tile(np.repeat(np.arange(6, dtype=np.uint8) * 40, 9)[:53], (60, 1))
    stored = {"colours": np.stack([grey] * 3, axis=-1), "two values": grey > 90}.get(kind, grey)
    if kind == "deep":
        sitk.WriteImage(sitk.GetImageFromArray(grey.astype(np.uint16) * 200), str(path), True)
        assert tifffile.TiffFile(path).pages[0].compression == tifffile.COMPRESSION.PACKBITS
        stored = grey.astype(np.uint16) * 200
    else:
        Image.fromarray(stored).save(path, compression="packbits")
    np.testing.assert_array_equal(read_image(path).numpy().squeeze().T, stored)
    raw = bytearray(path.read_bytes())
    start = tifffile.TiffFile(path).pages[0].dataoffsets[0]
    raw[start] = raw[start] + 1 if raw[start] < 127 else raw[start] - 1
    path.write_bytes(raw)
    with pytest.raises(ImageError, match=r"a\.tif: the file is damaged"):
        read_image(path)


def test_damaged_pictures_raise_nothing_but_image_errors(tmp_path, colours):
    chance = random.Random(2)
    packings = {"deflated.tif": "tiff_adobe_deflate", "packed.tif": "packbits"}
    for name in ("a.bmp", "a.tif", "a.jpg", "a.png", "a.gif", "a.ppm", *packings):
        options = {"compression": packings[name]} if name in packings else {}
        Image.fromarray(colours).save(tmp_path / name, **options)
        raw = (tmp_path / name).read_bytes()
        for number in range(80):
            damaged = bytearray(raw)
            damaged[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
            (tmp_path / name).write_bytes(damaged if number % 2 else raw[: chance.randrange(len(raw))])
            with contextlib.suppress(ImageError):
                read_image(tmp_path / name)
