"""What a pipeline file says of training."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from medfuse.core.section import Section

Amount = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class TrainSettings(Section):
    """Optimiser, learning rate, budget and precision."""

    epochs: Count | None = Field(None, description="budget: epochs of `steps_per_epoch` steps")
    steps: Count | None = Field(None, description="budget: steps")
    minutes: Amount | None = Field(None, description="budget: minutes of training, validation included")
    steps_per_epoch: Count = Field(250, description="steps between two validations")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="sgd with Nesterov momentum 0.99, or AdamW")
    learning_rate: Amount | Literal["auto"] = Field(
        "auto", description="peak value; auto: 0.01 for sgd, 0.001 for adamw"
    )
    weight_decay: float = Field(3e-5, ge=0, description="L2 penalty (decoupled in AdamW)")
    decay: Literal["poly", "cosine", "none"] = Field(
        "poly", description="learning rate over the budget; poly has power 0.9"
    )
    warmup: float = Field(
        0.0, ge=0, lt=1, description="share of the budget over which the learning rate rises from 0"
    )
    clip: float = Field(12.0, ge=0, description="largest gradient norm; 0 for no clipping")
    average: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay of a running average of the weights, which is then validated and saved; 0: off",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where a probe finds it right and faster"
    )
    compile: bool = Field(False, description="torch.compile the network; falls back, saying why")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is one")
    validation_cases: Annotated[int, Field(ge=0)] = Field(
        8, description="held-out cases looked at after each epoch; the final evaluation uses all"
    )

    @model_validator(mode="after")
    def _one_budget(self) -> "TrainSettings":
        if sum(v is not None for v in (self.epochs, self.steps, self.minutes)) != 1:
            raise ValueError("give the budget once: one of epochs, steps or minutes")
        return self
