"""Enhanced multi-frame CT written by hand from single-frame files, as the standard has it."""

from __future__ import annotations

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

UID = "1.2.826.0.1.3680043.10.999.77"
PER_IMAGE = ("ImagePositionPatient", "PixelData", "SOPInstanceUID", "InstanceNumber")
MOVED = (
    *("ImageOrientationPatient", "PixelSpacing", "SliceThickness", "ConvolutionKernel"),
    *("RescaleIntercept", "RescaleSlope", "RescaleType", "WindowCenter", "WindowWidth", "KVP", "GantryDetectorTilt"),
    *("AcquisitionDate", "AcquisitionTime"),
)


def item(**attributes):
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def code(value, scheme, meaning):
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def where(ds, number):
    """The functional groups that differ from frame to frame."""
    return item(
        FrameContentSequence=[
            item(
                FrameReferenceDateTime="20260101120000",
                FrameAcquisitionDateTime="20260101120000",
                FrameAcquisitionDuration=500.0,
                FrameAcquisitionNumber=1,
                StackID="1",
                InStackPositionNumber=number,
                DimensionIndexValues=[1, number],
            )
        ],
        PlanePositionSequence=[item(ImagePositionPatient=ds.ImagePositionPatient)],
    )


def how(ds):
    """The functional groups that are usually shared."""
    frame_type = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    groups = item(
        PixelMeasuresSequence=[item(PixelSpacing=ds.PixelSpacing, SliceThickness=ds.SliceThickness)],
        PlaneOrientationSequence=[item(ImageOrientationPatient=ds.ImageOrientationPatient)],
        PixelValueTransformationSequence=[
            item(RescaleIntercept=ds.RescaleIntercept, RescaleSlope=ds.RescaleSlope, RescaleType="HU")
        ],
        CTImageFrameTypeSequence=[
            item(
                FrameType=frame_type,
                PixelPresentation="MONOCHROME",
                VolumetricProperties="VOLUME",
                VolumeBasedCalculationTechnique="NONE",
            )
        ],
        CTReconstructionSequence=[
            item(
                ReconstructionAlgorithm="FILTER_BACK_PROJ",
                ConvolutionKernel=ds.ConvolutionKernel,
                ConvolutionKernelGroup="BONE",
                ReconstructionDiameter=380.0,
                ReconstructionPixelSpacing=[float(x) for x in ds.PixelSpacing],
                ReconstructionAngle=360.0,
                ImageFilter="NONE",
            )
        ],
        CTAcquisitionTypeSequence=[
            item(
                AcquisitionType="SPIRAL",
                ConstantVolumeFlag="NO",
                FluoroscopyFlag="NO",
            )
        ],
        CTAcquisitionDetailsSequence=[
            item(
                RotationDirection="CW",
                RevolutionTime=0.5,
                SingleCollimationWidth=0.6,
                TotalCollimationWidth=38.4,
                TableHeight=100.0,
                GantryDetectorTilt=0.0,
                DataCollectionDiameter=500.0,
            )
        ],
        CTTableDynamicsSequence=[item(TableSpeed=30.0, TableFeedPerRotation=15.0, SpiralPitchFactor=0.8)],
        CTGeometrySequence=[item(DistanceSourceToDetector=1000.0, DistanceSourceToDataCollectionCenter=500.0)],
        CTExposureSequence=[
            item(
                ExposureTimeInms=500.0,
                XRayTubeCurrentInmA=200.0,
                ExposureInmAs=100.0,
                ExposureModulationType="NONE",
                CTDIvol=8.0,
                CTDIPhantomTypeCodeSequence=[code("113691", "DCM", "IEC Body Dosimetry Phantom")],
            )
        ],
        CTXRayDetailsSequence=[item(KVP=120.0, FocalSpots=[1.2], FilterType="NONE", FilterMaterial=["ALUMINUM"])],
        FrameVOILUTSequence=[item(WindowCenter=500.0, WindowWidth=2000.0)],
        FrameAnatomySequence=[
            item(
                AnatomicRegionSequence=[code("24136001", "SCT", "Hip joint")],
                FrameLaterality="B",
            )
        ],
    )
    groups.CTPositionSequence = [
        item(
            TablePosition=100.0,
            DataCollectionCenterPatient=[0.0, 0.0, 0.0],
            ReconstructionTargetCenterPatient=[0.0, 0.0, 0.0],
        )
    ]
    groups.IrradiationEventIdentificationSequence = [item(IrradiationEventUID=f"{UID}.2")]
    return groups


def enhanced(sources, uid=UID, sop_class=EnhancedCTImageStorage):
    """One Enhanced CT object of CT Image data sets, written by hand after PS3.3 A.38.1."""
    first = sources[0]
    ds = Dataset()
    for element in first:
        if element.keyword not in (*PER_IMAGE, *MOVED):
            ds.add(element)
    ds.SOPClassUID, ds.SOPInstanceUID, ds.InstanceNumber = sop_class, uid, 1
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.PixelPresentation, ds.VolumetricProperties = "MONOCHROME", "VOLUME"
    ds.VolumeBasedCalculationTechnique = "NONE"
    ds.AcquisitionDateTime, ds.AcquisitionDuration = "20260101120000", 5.0
    ds.ContentQualification, ds.BurnedInAnnotation, ds.LossyImageCompression = "RESEARCH", "NO", "00"
    ds.PresentationLUTShape = "IDENTITY"
    ds.ContentDate, ds.ContentTime = "20260101", "120000"
    ds.Manufacturer, ds.ManufacturerModelName = "phantom", "phantom"
    ds.DeviceSerialNumber, ds.SoftwareVersions = "1", "1"
    ds.PositionReferenceIndicator = ""
    ds.PatientPosition = "HFS"
    ds.AcquisitionContextSequence = []
    ds.NumberOfFrames = len(sources)
    ds.DimensionOrganizationSequence = [item(DimensionOrganizationUID=f"{UID}.1")]
    ds.DimensionIndexSequence = [
        item(
            DimensionOrganizationUID=f"{UID}.1",
            DimensionIndexPointer=pointer,
            FunctionalGroupPointer=0x00209111,
        )
        for pointer in (0x00209056, 0x00209057)
    ]
    ds.SharedFunctionalGroupsSequence = [how(first)]
    ds.PerFrameFunctionalGroupsSequence = [where(source, number) for number, source in enumerate(sources, 1)]
    ds.PixelData = b"".join(source.PixelData for source in sources)
    ds["PixelData"].VR = "OW"
    return ds


def save(ds, path, syntax=ExplicitVRLittleEndian, lengths=None):
    """Write an object; ``lengths`` decides whether sequences have a length of their own."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    if lengths is not None:
        for element in ds.iterall():
            if element.VR == "SQ":
                element.is_undefined_length = not lengths
                for one in element.value:
                    one.is_undefined_length_sequence_item = not lengths
    if syntax == ExplicitVRBigEndian:
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").byteswap().tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(
        path,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
        enforce_file_format=True,
    )


def in_order(written):
    return [dcmread(path) for path in written.paths]


def shuffled(sources, seed=0):
    return [sources[int(k)] for k in np.random.default_rng(seed).permutation(len(sources))]
