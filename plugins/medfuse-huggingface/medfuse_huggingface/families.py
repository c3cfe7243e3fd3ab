"""Families of networks whose constructors do nothing with a configuration but compute, whoever wrote it."""

KNOWN = frozenset(
    {
        *("beit", "bit", "convnext", "convnextv2", "data2vec-vision", "deit", "dinov2"),
        *("dinov2_with_registers", "dinov3_convnext", "dinov3_vit", "efficientnet", "focalnet", "hgnet_v2"),
        *(
            "hiera",
            "ijepa",
            "mobilenet_v1",
            "mobilenet_v2",
            "mobilevit",
            "mobilevitv2",
            "pixio",
            "poolformer",
        ),
        *(
            "pvt",
            "pvt_v2",
            "regnet",
            "resnet",
            "rt_detr_resnet",
            "segformer",
            "swiftformer",
            "swin",
            "swinv2",
        ),
        *("clip_vision_model", "sam_vision_model", "siglip_vision_model"),
        *("textnet", "vit", "vit_msn", "vitdet", "vitpose_backbone"),
    }
)
