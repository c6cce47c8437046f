"""Addresses and certificates."""

import sys

import pytest

from pipelines.deployment.node.network import Destination, MissingLibraryError, Tls, ae_title, pynetdicom
from transforms.errors import SettingError


def test_destinations():
    assert Destination.of("PACS@10.0.0.5:104") == ("PACS", "10.0.0.5", 104)
    assert Destination.of(" MY PACS @[::1]:11112") == ("MY PACS", "::1", 11112)
    assert str(Destination.of("A@b:1")) == "A@b:1"


@pytest.mark.parametrize(
    "text", ["", "PACS", "PACS@host", "@host:1", "PACS@:1", "PACS@h:0", "PACS@h:65536", "P@h:x", "P@h:²"]
)
def test_what_is_no_destination(text):
    with pytest.raises(SettingError, match="is no destination; give AET@host:port"):
        Destination.of(text)


@pytest.mark.parametrize("text", ["", "  ", "SEVENTEEN LETTERS", "LÜBECK", "A\\B", "A\nB"])
def test_what_is_no_title(text):
    with pytest.raises(SettingError, match="is no AE title"):
        ae_title(text)


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynetdicom", None)
    with pytest.raises(
        MissingLibraryError, match=r"needs the package pynetdicom: pip install 'segbundles\[node\]'"
    ):
        pynetdicom()


def test_certificates_that_are_none(tmp_path):
    for name in "abc":
        (tmp_path / name).write_text("no certificate")
    for names in ("abc", "abx"):
        with pytest.raises(SettingError, match="are no certificate, key and authority in PEM"):
            Tls(*(str(tmp_path / name) for name in names)).listening()
