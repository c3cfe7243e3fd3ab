"""DICOM: series found in folders, archives and DICOMDIRs, put in order, and read as volumes."""
