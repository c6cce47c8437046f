"""A model in a DICOM network: CT in, results out."""
