"""CudaDevice without a GPU: the real PyCUDA on a driver in C that keeps its memory on the host (fake_cuda.c).

Kernels and graphs need a GPU: ``test_device.py`` has them, marked ``gpu``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import onfh_runtime

FAKE = Path(__file__).resolve().parents[1] / "helpers" / "fake_cuda.c"
RUNTIME = Path(onfh_runtime.__path__[0]).parent
OPEN = "from onfh_runtime.device import open_device\n"
TELL = """
from onfh_runtime.errors import OnfhError
try:
    open_device(ordinal)
except OnfhError as error:
    print(type(error).__name__, error.code, error.text, error.fix, sep="|")
"""
DEVICE = """
import ctypes, gc, threading
import numpy as np
import onfh_runtime.cuda_device as module
from onfh_runtime.device import DeviceMemoryError
from onfh_runtime.errors import BackendError
driver = ctypes.CDLL("libcuda.so.1")
module.compiled_kernels = lambda context: {}
def held():
    return [driver.fake_held(kind) for kind in range(4)], driver.fake_depth(), driver.fake_contexts()
def uploaded(name, values):
    pinned, array = (give(name, values.shape, values.dtype) for give in (workspace.pinned, workspace.device))
    pinned[...] = values
    stream.upload(array, pinned)
    return array
"""


def compiled(folder, *more):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(folder / "libcuda.so.1")]
    subprocess.run([compiler, *library, str(FAKE), *map(str, more), "-lpthread"], check=True)
    return folder


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """A folder with the fake driver."""
    return compiled(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="module")
def whole_driver(tmp_path_factory):
    """The same with every other function that PyCUDA is linked against; they answer that they are not supported."""
    found, tool = find_spec("pycuda"), shutil.which("nm")
    if found is None or find_spec("cupy") is None:
        pytest.skip("PyCUDA and CuPy are not both installed")
    if tool is None:
        pytest.skip("nm is not installed")
    library = next(Path(found.submodule_search_locations[0]).glob("_driver*.so"))
    listed = subprocess.run([tool, "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True)
    ours = set(re.findall(r"^int (cu\w+)\(", FAKE.read_text(), re.MULTILINE))
    others = set(re.findall(r" U (cu[A-Z]\w+)", listed.stdout)) - ours
    folder = tmp_path_factory.mktemp("driver")
    (folder / "others.c").write_text("".join(f"int {name}(void) {{ return 801; }}\n" for name in sorted(others)))
    return compiled(folder, folder / "others.c")


def output(folder, script, quiet=True, **setting):
    """What a script prints where the folder's libcuda.so.1 is the driver, with nothing on standard error."""
    paths = os.pathsep.join([str(RUNTIME), str(folder)])
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": paths, **setting}
    command = [sys.executable, "-W", "error", "-c", f"import sys\n{script}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (quiet and done.stderr)
    return done.stdout.strip()


def refusal(folder, before="", ordinal=0, **setting):
    return output(folder, f"{before}\n{OPEN}ordinal = {ordinal}\n{TELL}", **setting).split("|")


def test_no_driver(tmp_path):
    (tmp_path / "libcuda.so.1").touch()
    kind, code, text, fix = refusal(tmp_path)
    assert (kind, code) == ("BackendError", "no_driver")
    assert "libcuda.so.1" in text
    assert "--gpus all" in fix


def test_a_driver_that_does_not_start(driver):
    assert refusal(driver, FAKE_INIT="803")[1:3] == [
        "no_driver",
        "The NVIDIA driver does not start: an error of the fake driver (803).",
    ]


def test_a_driver_without_a_gpu(driver):
    assert refusal(driver, FAKE_INIT="100")[1:3] == ["no_such_gpu", "The NVIDIA driver sees no GPU."]


@pytest.mark.parametrize("ordinal", [2, -1])
def test_the_gpus_there_are_get_listed(driver, ordinal):
    assert refusal(driver, ordinal=ordinal)[1:3] == [
        "no_such_gpu",
        f"There is no GPU {ordinal}; the driver lists 0: NVIDIA RTX 4000 Ada (sm89), 1: NVIDIA RTX 5090 (sm120).",
    ]


def test_cupy_is_missing(driver):
    kind, code, text, fix = refusal(driver, "sys.modules['cupy'] = None")
    assert (kind, code) == ("MissingExtraError", "missing_extra")
    assert text.startswith("CuPy cannot be imported")
    assert "onfh-edge[gpu]" in fix


CUPY = """
import types
runtime = types.SimpleNamespace(runtimeGetVersion=lambda: 13020, CUDARuntimeError=OSError)
sys.modules["cupy"] = types.SimpleNamespace(cuda=types.SimpleNamespace(runtime=runtime))
"""


def test_the_driver_is_too_old_for_cupy(driver):
    assert refusal(driver, CUPY, FAKE_VERSION="12040")[1:] == [
        "driver_too_old",
        "The NVIDIA driver serves CUDA 12.4, and the CuPy installed here is built for CUDA 13.2.",
        "Install a driver for CUDA 13 (on a Jetson: a newer JetPack), or cupy-cuda12x in place of cupy-cuda13x.",
    ]


def test_an_older_driver_of_the_same_cuda_will_do(driver):
    answer = refusal(driver, f"{CUPY}\nsys.modules['pycuda'] = None", FAKE_VERSION="13000")
    assert answer[1] == "missing_extra"
    assert answer[2].startswith("PyCUDA cannot be imported")


def test_pycuda_was_built_for_another_cuda(driver, tmp_path):
    shutil.copy(driver / "libcuda.so.1", tmp_path)
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda" / "__init__.py").touch()
    (tmp_path / "pycuda" / "driver.py").write_text("raise ImportError('undefined symbol: cuCtxCreate_v9')")
    _, code, text, fix = refusal(tmp_path, f"sys.path.insert(0, {str(tmp_path)!r})\n{CUPY}")
    assert code == "missing_extra"
    assert text == "PyCUDA is installed and cannot be loaded: undefined symbol: cuCtxCreate_v9"
    assert "--no-cache-dir pycuda" in fix


def test_a_gpu_is_opened_used_and_closed(whole_driver):
    script = """
device = module.CudaDevice(1)
print(device.name, device.target, device.ordinal, device.integrated, device.memory_bytes, device.free_bytes())
workspace, stream = device.workspace(), device.stream()
values = np.arange(12, dtype=np.float32).reshape(4, 3)
start, array = stream.record(), uploaded("a", values)
other = workspace.device("b", values.shape, np.float32)
stream.copy(other, array)
stream.zero(other.rows(1, 3))
stream.zero(other.rows(1, 1))
stream.download(workspace.pinned("a", values.shape, np.float32), other)
end = stream.record()
stream.synchronize()
end.synchronize()
print(workspace.pinned("a", (4, 3), np.float32).sum(1), end.elapsed_ms(start) > 0, stream.handle != 0)
print(held(), device.memory.allocations, device.free_bytes())
del start, end
stream.record()
print(held())
device.close()
device.close()
print(held())
"""
    assert output(whole_driver, DEVICE + script).splitlines() == [
        "NVIDIA RTX 5090 sm120 1 False 1048576 1048576",
        "[ 3.  0.  0. 30.] True True",
        f"([2, 1, 1, 2], 0, 1) 3 {(1 << 20) - 512}",
        "([2, 1, 1, 2], 0, 1)",
        "([0, 0, 0, 0], 0, 0)",
    ]


def test_threads_use_it_and_another_closes_it(whole_driver):
    script = """
device, depths = module.CudaDevice(), []
def lane(seed):
    workspace, stream = device.workspace(), device.stream()
    for number in range(50):
        pinned, array = (give("a", (64,), np.int32) for give in (workspace.pinned, workspace.device))
        pinned[:] = seed + number
        stream.upload(array, pinned)
        other = device.stream() if number == 0 else other
        other.wait(stream.record())
        pinned[:] = 0
        other.download(pinned, array)
        other.synchronize()
        assert (pinned == seed + number).all()
    depths.append(held()[1])
def run(work, *arguments):
    threads = [threading.Thread(target=work, args=(argument,)) for argument in arguments]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
run(lane, 100, 200)
gc.collect()
print(depths, held())
run(lambda _: (device.close(), print(held())), 0)
"""
    lines = output(whole_driver, DEVICE + script).splitlines()
    assert re.fullmatch(r"\[0, 0\] \(\[2, 2, 4, [1-4]\], 0, 1\)", lines[0])
    assert lines[1] == "([0, 0, 0, 0], 0, 0)"


def test_too_much_is_refused_by_name_and_less_still_fits(whole_driver):
    script = """
device = module.CudaDevice()
workspace = device.workspace()
workspace.device("a", (900_000,), np.uint8)
for ask in (lambda: workspace.device("b", (900_000,), np.uint8), lambda: device._context.cuda.mem_alloc(900_000)):
    try:
        with device._context.calling():
            ask()
    except DeviceMemoryError as error:
        print(error.code, error.text)
print(workspace.device("b", (1000,), np.uint8).nbytes, device.memory.allocations)
device.close()
"""
    assert output(whole_driver, DEVICE + script).splitlines() == [
        "gpu_out_of_memory The GPU has no room for 0.9 MB more: 0.1 MB can still be had.",
        "gpu_out_of_memory GPU 0 has no memory left: cuMemAlloc failed: out of memory.",
        "1000 2",
    ]


def test_an_error_says_what_cuda_said_and_whether_it_stays(whole_driver):
    script = """
device = module.CudaDevice()
workspace, stream = device.workspace(), device.stream()
array = uploaded("a", np.zeros(4))
def tried(call):
    try:
        call()
    except BackendError as error:
        print(error.code, error.text, error.fix, sep="|")
tried(lambda: stream.upload(array, np.zeros(4)))
driver.fake_break(700)
tried(stream.synchronize)
tried(lambda: uploaded("a", np.zeros(400)))
tried(device.close)
tried(stream.synchronize)
print(held()[1:])
"""
    done = output(
        whole_driver, DEVICE + script, quiet=False
    ).splitlines()  # PyCUDA complains of what it cannot clean up
    assert done[0].startswith("gpu_failed|GPU 0 failed: cuMemcpyHtoDAsync failed: ")
    assert done[0].endswith("|")
    dead = "an illegal memory access was encountered.|Start the process again: CUDA lets this one do nothing more."
    assert done[1] == f"gpu_failed|GPU 0 failed: cuStreamSynchronize failed: {dead}"
    assert done[2].endswith(dead)
    assert done[3:] == ["gpu_failed|GPU 0 was closed and cannot be used.|Open it again.", "(0, 0)"]


def test_half_an_opening_is_undone(whole_driver):
    script = """
def failing(context):
    raise BackendError("gpu_failed", "no compiler")
module.compiled_kernels = failing
try:
    module.CudaDevice()
except BackendError as error:
    print(error.text, held())
"""
    assert output(whole_driver, DEVICE + script) == "no compiler ([0, 0, 0, 0], 0, 0)"


def test_an_integrated_gpu_maps_memory_and_the_limit_holds_for_all_of_it(whole_driver):
    script = """
device = module.CudaDevice(memory_limit=4096)
workspace, stream = device.workspace(), device.stream()
host, array = workspace.mapped("a", (3, 4), np.float16)
host[:] = 1
print(device.integrated, array.address == host.ctypes.data, device.free_bytes())
try:
    workspace.pinned("a", (4096,), np.uint8)
except DeviceMemoryError as error:
    print(error.text)
device.close()
print(held())
"""
    assert output(whole_driver, DEVICE + script, FAKE_INTEGRATED="1").splitlines() == [
        "True True 3840",
        "The GPU has no room for 0.0 MB more: 0.0 MB can still be had.",
        "([0, 0, 0, 0], 0, 0)",
    ]
