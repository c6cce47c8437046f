"""Headers of MetaImage files."""

import pytest

from transforms.io.readers import ImageError, read_image


def test_mha_without_orientation(tmp_path):
    head = (
        "ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
    )
    (tmp_path / "a.mha").write_bytes(head.encode() + bytes(8))
    with pytest.raises(ImageError, match="no TransformMatrix"):
        read_image(tmp_path / "a.mha")
