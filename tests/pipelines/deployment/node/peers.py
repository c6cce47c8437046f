"""The others on the network, by pynetdicom: a sender of images and a destination of results."""

import contextlib
from io import BytesIO

from pydicom import dcmread
from pydicom.uid import CTImageStorage, MRImageStorage, SegmentationStorage
from pynetdicom import AE, DEFAULT_TRANSFER_SYNTAXES, evt

from tests import dicom_phantom as ph

VERIFICATION = "1.2.840.10008.1.1"


def associate(port, title="SEGBUNDLES", calling="SENDER", contexts=(CTImageStorage,), **options):
    """An association with a node; whether it is established is for the test to see."""
    entity = AE(ae_title=calling)
    for context in contexts:
        entity.add_requested_context(context)
    return entity.associate("127.0.0.1", port, ae_title=title, **options)


def series(uid="1.2.3", count=3, **values):
    """Images of a series, as they are read from files."""
    images = ph.Phantom(shape=(6, 5, count), signed=True).slices()
    for number, image in enumerate(images, 1):
        image.SeriesInstanceUID = uid
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"{uid}.{number}"
        for keyword, value in values.items():
            setattr(image, keyword, value)
    return [_read(image) for image in images]


def _read(image):
    stream = BytesIO()
    image.save_as(stream, enforce_file_format=True, implicit_vr=False, little_endian=True)
    return dcmread(BytesIO(stream.getvalue()))


@contextlib.contextmanager
def destination(status=lambda: 0x0000, port=0, contexts=(SegmentationStorage,), syntaxes=None, accept=()):
    """A PACS that answers each C-STORE with `status()`; yields its port and the instances that it took."""
    taken = []

    def store(event):
        answer = status()
        if answer == 0:
            event.dataset.file_meta = event.file_meta
            taken.append(event.dataset)
        return answer

    entity = AE(ae_title="PACS")
    entity.require_calling_aet = list(accept)
    for context in (*contexts, MRImageStorage):
        entity.add_supported_context(context, syntaxes or DEFAULT_TRANSFER_SYNTAXES)
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        yield server.server_address[1], taken
    finally:
        server.shutdown()
