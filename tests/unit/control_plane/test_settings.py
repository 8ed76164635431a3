"""Settings come from the environment and every bad variable is named at once."""

from __future__ import annotations

import pytest

from control_plane.settings import Settings, SettingsError, load_settings


def test_every_bad_variable_is_named_and_no_value_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDS_HTTP_PORT", "eighty")
    monkeypatch.setenv("DDS_DATABASE_URL", "mysql://user:secret@host/db")
    monkeypatch.setenv("DDS_LOG_LEVEL", "LOUD")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    text = str(refused.value)
    assert all(name in text for name in ("DDS_HTTP_PORT", "DDS_DATABASE_URL", "DDS_LOG_LEVEL"))
    assert "secret" not in text


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDS_HTTP_PORT", "9001")
    monkeypatch.setenv("DDS_PULSAR_SERVICE_URL", "pulsar://inside:6650")
    monkeypatch.setenv("DDS_PUBLIC_SERVICE_URL", "pulsar+ssl://outside:6651")
    settings = load_settings()
    assert settings.http_port == 9001
    assert settings.consumer_service_url == "pulsar+ssl://outside:6651"


def test_every_field_is_documented() -> None:
    assert all(field.description for field in Settings.model_fields.values())
