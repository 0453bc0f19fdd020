"""What the panel remembers in the scene."""

from slicer import vtkMRMLMarkupsROINode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import parameterNodeWrapper

from .runs import EngineChoice
from .segmentation_writer import Existing


@parameterNodeWrapper
class RefSAM3DParameterNode:
    """One per scene.

    ``region``: "volume", "roi" or "view". ``frames``: "current" or "all". Empty ``model`` is the one that comes with the extension,
    empty ``modality`` means: as DICOM or the voxels say.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    segmentation: vtkMRMLSegmentationNode
    prompts: list[str]
    existing: Existing = Existing.NEW
    region: str = "volume"
    roi: vtkMRMLMarkupsROINode
    frames: str = "current"
    model: str = ""
    adapter: str = ""
    device: str = "auto"
    modality: str = ""
    probability: bool = False
    allowUnknown: bool = False


def engineChoice(parameters: RefSAM3DParameterNode) -> EngineChoice:
    """The weights and the device that were chosen under Advanced."""
    return EngineChoice(parameters.model, parameters.adapter.strip(), parameters.device)
