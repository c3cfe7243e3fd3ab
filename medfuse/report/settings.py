"""What a pipeline file says of the report."""

from pydantic import Field

from medfuse.core.section import Section


class ReportSettings(Section):
    """Pictures of what is inside the network, for the best, the median and the worst held-out case."""

    maps: tuple[str, ...] = Field(
        (), description="taps or nodes whose channels are drawn; BACKBONE.* means every tap of it"
    )
    gradcam: tuple[str, ...] = Field(
        (), description="taps or nodes whose Grad-CAM is drawn, for each label (Selvaraju et al. 2017)"
    )
