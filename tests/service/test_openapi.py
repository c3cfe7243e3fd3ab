"""What /openapi.json says is what the service does, whatever is sent."""

import pytest
import torch

pytest.importorskip("schemathesis", reason="schemathesis is not installed (extra dev)")

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import positive_data_acceptance

TOKEN = "a-token-of-the-tests"
GENTLE = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck), "derandomize": True}

UNDESCRIBED = {"PUT /datastore/label": [positive_data_acceptance]}
"""That what is sent must be a label map."""


@pytest.fixture
def described(make_service, finished_run, tmp_path):
    desk = {"data": finished_run.data / "imagesTr", "labels": tmp_path / "labels", "token": TOKEN}
    service = make_service(desk=desk)
    how = {"headers": {"Authorization": f"Bearer {TOKEN}"}}
    schema = schemathesis.openapi.from_asgi("/openapi.json", service.client.app, **how)
    schema.config.update(**how)
    return schema


@pytest.mark.slow
def test_every_operation_keeps_to_its_description(described):
    torch.set_flush_denormal(False)  # hypothesis draws such numbers
    tried, wrong = [], []
    for found in described.get_all_operations():
        operation = found.ok()
        tried.append(operation.label)

        @settings(max_examples=25, phases=[Phase.explicit, Phase.generate], **GENTLE)
        @given(case=operation.as_strategy())
        def keeps(case):
            case.call_and_validate(excluded_checks=UNDESCRIBED.get(case.operation.label, []))

        try:
            keeps()
        except (Exception, FailureGroup) as error:
            wrong.append(f"{operation.label}: {error}")
    assert len(tried) > 15, tried
    assert not wrong, "\n\n".join(wrong)
