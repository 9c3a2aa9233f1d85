"""Patient and study of a result: those of its source, byte for byte."""

from __future__ import annotations

from pydicom import Dataset
from pydicom.tag import BaseTag

from dicom_node.dicom.header import text
from dicom_node.dicom.verbatim import copy_verbatim, tags_of

_STUDY = tags_of(
    [
        # Specific Character Set travels with the bytes that it describes, and so does the time zone.
        "SpecificCharacterSet",
        "TimezoneOffsetFromUTC",
        # Patient, C.7.1.1, outside group 0010
        "ReferencedPatientSequence",
        # General Study, PS3.3 C.7.2.1
        "StudyInstanceUID",
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "IssuerOfAccessionNumberSequence",
        "StudyID",
        "ReferringPhysicianName",
        "ReferringPhysicianIdentificationSequence",
        "ConsultingPhysicianName",
        "ConsultingPhysicianIdentificationSequence",
        "StudyDescription",
        "PhysiciansOfRecord",
        "PhysiciansOfRecordIdentificationSequence",
        "NameOfPhysiciansReadingStudy",
        "PhysiciansReadingStudyIdentificationSequence",
        "RequestingService",
        "RequestingServiceCodeSequence",
        "ReferencedStudySequence",
        "ProcedureCodeSequence",
        "ReasonForPerformedProcedureCodeSequence",
        # Patient Study, C.7.2.2, outside group 0010
        "AdmittingDiagnosesDescription",
        "AdmittingDiagnosesCodeSequence",
        "AdmissionID",
        "IssuerOfAdmissionIDSequence",
        "ReasonForVisit",
        "ReasonForVisitCodeSequence",
        "ServiceEpisodeID",
        "ServiceEpisodeDescription",
        "IssuerOfServiceEpisodeIDSequence",
        "PatientState",
    ]
)
_IMAGE = tags_of(
    [
        "RequestAttributesSequence",
        "AnatomicRegionSequence",
        "AcquisitionDate",
        "AcquisitionTime",
        "AcquisitionDateTime",
    ]
)
PATIENT_AND_STUDY_TYPE_2 = [
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyID",
]
"""Keywords that have to be there, if empty (PS3.3 C.7.1.1, C.7.2.1)."""
_TRIAL_SERIES = (0x00120071, 0x00120072, 0x00120073)


def copy_patient_and_study(source: Dataset, ds: Dataset) -> None:
    """Verbatim. Group 0010 is the patient's alone; group 0012 goes only where its keys are complete,
    because a trial without sponsor or protocol would make an object of ours invalid."""
    groups = {0x0010}
    if text(source, "ClinicalTrialSponsorName") and text(source, "ClinicalTrialProtocolID"):
        groups.add(0x0012)
    tags = [BaseTag(tag) for tag in source.keys()]  # noqa: SIM118 - a data set iterates elements
    copy_verbatim(source, ds, [tag for tag in tags if tag.group in groups and tag not in _TRIAL_SERIES])
    copy_verbatim(source, ds, (*_STUDY, *_IMAGE))
    for keyword in PATIENT_AND_STUDY_TYPE_2:
        if keyword not in ds:
            setattr(ds, keyword, None)
