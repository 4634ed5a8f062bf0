from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from onfh_runtime.cli import main as module
from onfh_runtime.cli.main import SUMMARIES, main


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for name, summary in SUMMARIES.items():
        assert name in said
        assert summary in said


def test_no_arguments_show_the_help(capsys):
    with pytest.raises(SystemExit):
        main([])
    assert "COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["demo", "infer", "inspect", "doctor"])
def test_each_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: onfh {name}")


def test_an_unknown_command_is_wrong_usage():
    with pytest.raises(SystemExit) as ended:
        main(["guess"])
    assert ended.value.code == 2


def test_interrupted(monkeypatch, capsys):
    class Command:
        HELP = ""

        @staticmethod
        def add_arguments(parser):
            pass

        @staticmethod
        def run(options):
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "import_module", lambda name: Command)
    monkeypatch.setattr(module, "entry_points", lambda group: [EntryPoint("wait", "any", group)])
    assert main(["wait"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_inspect_tells_what_is_in_a_bundle(bundle_folder, capsys):
    assert main(["inspect", str(bundle_folder)]) == 0
    said = capsys.readouterr().out
    assert "tiny 1" in said
    assert "classifier/model.onnx" in said
    assert said.count("verified") == 2
    assert "opens on onnxruntime (fp32" in said


def test_inspect_of_a_damaged_bundle(bundle_folder, capsys):
    (bundle_folder / "classifier" / "model.onnx").unlink()
    assert main(["inspect", str(bundle_folder)]) == 2
    assert "[bundle_file_missing]" in capsys.readouterr().err


def test_doctor_names_versions_and_what_is_missing(capsys):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for name in ("onnxruntime", "highdicom", "CPUExecutionProvider"):
        assert name in said


def test_the_command_runs_as_a_process():
    done = subprocess.run([sys.executable, "-m", "onfh_runtime.cli.main", "--version"], capture_output=True, text=True)
    assert done.stdout.startswith("onfh-edge ")


def test_export_without_its_extra_says_what_to_install(tmp_path):
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'onnx', 'onnxscript', 'safetensors'):\n"
        "    sys.modules[name] = None\n"
        "from onfh_runtime.cli.main import main\n"
        f"sys.exit(main(['train', {str(tmp_path)!r}, '--out', {str(tmp_path / 'run')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "onfh-edge[export]" in done.stderr


def test_a_reader_that_leaves_is_no_error():
    command = f"{sys.executable} -m onfh_runtime.cli.main doctor | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode in (0, 141)  # 0 when all was written before the reader left
