"""Commands for the machines that onfh-edge is installed on."""

from __future__ import annotations

import pytest

from onfh_runtime.survey_commands import commands_for, jetson_release, kind_of

ORIN = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 2025\n"
THOR = "# R38 (release), REVISION: 2.0, GCID: 41844464, BOARD: generic, EABI: aarch64\n"


def kind(tmp_path, driver, *, release="", system="ID=ubuntu\n", machine="x86_64"):
    files = {"release": release, "system": system}
    for name, text in files.items():
        if text:
            (tmp_path / name).write_text(text)
    return kind_of(driver, release=tmp_path / "release", system=tmp_path / "system", machine=machine)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ORIN, ("36.4.3", "6")),
        (THOR, ("38.2.0", "7")),
        ("# R99 (release), REVISION: 1.0", ("99.1.0", "")),
        ("?", ("", "")),
    ],
)
def test_a_release_names_its_jetpack(text, expected):
    assert jetson_release(text) == expected


@pytest.mark.parametrize(
    ("driver", "cupy", "tensorrt"),
    [
        (13020, "pip install 'onfh-edge[gpu]'", "pip install tensorrt"),
        (None, "pip install 'onfh-edge[gpu]'", "pip install tensorrt"),
        (12040, "pip install 'cupy-cuda12x>=14.0.1'", "pip install tensorrt-cu12"),
    ],
)
def test_a_workstation_takes_the_packages_of_its_driver(tmp_path, driver, cupy, tensorrt):
    commands = commands_for(kind(tmp_path, driver), "x86_64")
    assert (commands["cupy"], commands["tensorrt"]) == (cupy, tensorrt)
    assert commands["tensorrt-rtx"] == "pip install 'onfh-edge[rtx]'"
    assert "onnxruntime-gpu" in commands["onnxruntime-cuda"]
    assert "no package" in commands_for(kind(tmp_path, driver), "aarch64")["onnxruntime-cuda"]


@pytest.mark.parametrize(("release", "extra"), [(ORIN, "jetson"), (THOR, "gpu")])
def test_a_jetson_takes_tensorrt_from_jetpack(tmp_path, release, extra):
    found = kind(tmp_path, None, release=release, machine="aarch64")
    commands = commands_for(found, "aarch64")
    assert found.name.startswith("Jetson, Jetson Linux 3")
    assert commands["cupy"] == f"pip install 'onfh-edge[{extra}]'"
    assert "python3-libnvinfer" in commands["tensorrt"]
    assert "--system-site-packages" in commands["tensorrt"]
    assert "does not run on a Jetson" in commands["tensorrt-rtx"]
    assert "PyPI" in commands["onnxruntime-cuda"]


@pytest.mark.parametrize(
    ("system", "command"),
    [
        ("ID=ubuntu\n", "ubuntu-drivers"),
        ('ID="debian"\n', "nvidia-driver"),
        ("ID=fedora\n", "handbook"),
        ("", "handbook"),
    ],
)
def test_the_driver_comes_as_the_system_has_it(tmp_path, system, command):
    found = kind(tmp_path, None, system=system)
    assert command in commands_for(type(found)(**{**vars(found), "container": False}))["driver"]
    assert "--gpus all" in commands_for(type(found)(**{**vars(found), "container": True}))["driver"]


def test_every_kind_of_machine_has_a_command_for_every_part(tmp_path):
    keys = [
        set(commands_for(kind(tmp_path, driver, release=release), machine))
        for driver, release, machine in ((13000, "", "x86_64"), (12000, "", "aarch64"), (None, ORIN, "aarch64"))
    ]
    assert keys[0] == keys[1] == keys[2]
