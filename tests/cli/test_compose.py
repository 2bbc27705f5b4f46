"""The compose file fits the program: commands, settings, volumes."""

from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from app.cli.main import app
from app.config import Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return found


def test_every_command_exists(services: dict[str, Any]) -> None:
    commands = typer.main.get_command(app).commands
    ours = {name: one["command"] for name, one in services.items() if one.get("image") == "almanac"}
    assert set(ours) == {"migrate", "api", "engine", "worker"}
    assert all(command == ["almanac", name] and name in commands for name, command in ours.items())


def test_every_variable_is_a_setting(services: dict[str, Any]) -> None:
    names = {name for one in services.values() for name in one.get("environment", {})}
    ours = {name.removeprefix("ALMANAC_").lower() for name in names if name.startswith("ALMANAC_")}
    assert "database_url" in ours
    assert ours <= set(Settings.model_fields)


def test_the_engine_can_only_read_the_store(services: dict[str, Any]) -> None:
    assert services["engine"]["volumes"] == ["data:/data:ro"]


def test_the_broker_drops_nothing(services: dict[str, Any]) -> None:
    command = services["redis"]["command"]
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"


def test_nothing_starts_before_what_it_needs(services: dict[str, Any]) -> None:
    for name in ("api", "engine", "worker"):
        needed = services[name]["depends_on"]
        assert needed["migrate"] == {"condition": "service_completed_successfully"}
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
