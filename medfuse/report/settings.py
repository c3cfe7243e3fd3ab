"""What a pipeline file says of the report."""

from pydantic import Field

from medfuse.core.section import Section


class ReportSettings(Section):
    """What a report shows beside results; pictures are of the best, the median and the worst case."""

    viewer: bool = Field(
        True, description="whether held-out cases can be opened in three planes and in 3-D from the report"
    )
    lesions: bool = Field(
        False, description="whether components of each label are counted: found, missed, false, and their F1"
    )
    calibration: bool = Field(
        False, description="whether probabilities of held-out cases are kept and judged (ECE); they are large"
    )
    maps: tuple[str, ...] = Field(
        (), description="taps or nodes whose channels are drawn; BACKBONE.* means every tap of it"
    )
    gradcam: tuple[str, ...] = Field(
        (), description="taps or nodes whose Grad-CAM is drawn, for each label (Selvaraju et al. 2017)"
    )
