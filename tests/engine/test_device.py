"""One form for what Macs, CUDA cards and CPUs say of themselves."""

import pytest

from mlx_chandra.engine.device import Device, Host, device_facts, this_device
from mlx_chandra.engine.memory import device_memory
from mlx_chandra.models.backend import BackendName, current_backend

GIB = 1 << 30
MAC_HOST = Host("macOS 15.5 arm64", 10, 0)  # a Mac's memory is known from Metal alone
LINUX = Host("Linux x86_64", 32, 256 * GIB)

# What mx.device_info() gives on Metal: chip, architecture, memory, recommended working set, largest buffer.
MACS = [
    ("Apple M1", "applegpu_g13g", 8 * GIB, 5_726_633_984, 4_294_967_296),
    ("Apple M1 Max", "applegpu_g13s", 32 * GIB, 22_906_503_168, 17_179_869_184),
    ("Apple M2", "applegpu_g14g", 16 * GIB, 11_453_251_584, 8_589_934_592),
    ("Apple M3 Max", "applegpu_g15s", 128 * GIB, 103_079_215_104, 77_309_411_328),
    ("Apple M4 Pro", "applegpu_g16s", 48 * GIB, 40_200_896_512, 30_150_672_384),
    ("Apple M5 Max", "applegpu_g17s", 128 * GIB, 115_448_725_504, 86_586_540_032),
    ("Apple M3 Ultra", "applegpu_g15d", 512 * GIB, 498_216_206_336, 373_662_154_752),
]
H200 = {
    "device_name": "NVIDIA H200",
    "architecture": "sm_90",
    "uuid": "GPU-00000000-0000-0000-0000-000000000000",
    "pci_bus_id": "0000:18:00.0",
    "compute_capability_major": 9,
    "compute_capability_minor": 0,
    "free_memory": 149_000_000_000,
    "total_memory": 150_754_820_096,
}


def metal_info(
    name: str, architecture: str, memory: int, recommended: int, buffer: int
) -> dict[str, str | int]:
    return {
        "device_name": name,
        "architecture": architecture,
        "memory_size": memory,
        "max_recommended_working_set_size": recommended,
        "max_buffer_length": buffer,
        "resource_limit": 499_000,
    }


@pytest.mark.parametrize("mac", MACS, ids=lambda mac: f"{mac[0]} {mac[2] // GIB} GB")
def test_a_mac_computes_in_what_metal_recommends_of_its_memory(mac: tuple[str, str, int, int, int]) -> None:
    name, architecture, memory, recommended, buffer = mac
    found = device_facts(BackendName.METAL, metal_info(*mac), MAC_HOST)
    assert found == Device(BackendName.METAL, name, architecture, memory, recommended, buffer, MAC_HOST)


@pytest.mark.parametrize("recommended", [0, None])
def test_a_mac_without_a_recommendation_computes_in_two_thirds_of_its_memory(recommended: int | None) -> None:
    info = metal_info(*MACS[0])
    if recommended is None:
        del info["max_recommended_working_set_size"]
    else:
        info["max_recommended_working_set_size"] = recommended
    found = device_facts(BackendName.METAL, info, MAC_HOST)
    assert found.memory == 8 * GIB
    assert found.working_set == 8 * GIB * 2 // 3


def test_a_mac_that_computes_on_its_cpu_has_half_its_memory_for_that() -> None:
    info: dict[str, str | int] = {"device_name": "Apple M1 Max", "architecture": "arm64"}
    found = device_facts(BackendName.CPU, info, Host("macOS 15.5 arm64", 10, 32 * GIB))
    assert (found.name, found.memory, found.working_set) == ("Apple M1 Max", 32 * GIB, 16 * GIB)


def test_a_cuda_card_computes_in_what_is_free_of_its_memory_and_has_no_limit_on_one_array() -> None:
    found = device_facts(BackendName.CUDA, H200, LINUX)
    assert found == Device(
        BackendName.CUDA, "NVIDIA H200", "sm_90", 150_754_820_096, 149_000_000_000, None, LINUX
    )


@pytest.mark.parametrize(
    ("free", "held", "usable"), [(60, 0, 60), (60, 17, 77), (60, 100, 140), (None, 0, 140)]
)
def test_what_others_have_of_a_card_is_not_planned_with_but_what_mlx_holds_is(
    free: int | None, held: int, usable: int
) -> None:
    info: dict[str, str | int] = {"total_memory": 140 * GIB}
    if free is not None:
        info["free_memory"] = free * GIB
    found = device_facts(BackendName.CUDA, info, LINUX, held=held * GIB)
    assert (found.memory, found.working_set) == (140 * GIB, usable * GIB)


def test_a_cpu_computes_in_half_the_ram() -> None:
    info: dict[str, str | int] = {"device_name": "AMD EPYC", "architecture": "x86_64"}
    found = device_facts(BackendName.CPU, info, LINUX)
    assert found == Device(BackendName.CPU, "AMD EPYC", "x86_64", 256 * GIB, 128 * GIB, None, LINUX)


def test_a_device_that_says_nothing_of_itself_still_has_a_name() -> None:
    assert device_facts(BackendName.CUDA, {}, LINUX).name == "unknown"
    assert device_facts(BackendName.CUDA, {"architecture": "sm_120"}, LINUX).name == "sm_120"


def test_this_machine_says_what_it_is_and_the_planner_takes_its_word() -> None:
    here = this_device(current_backend().name)
    assert here.name
    assert here.host.cores >= 1
    assert 0 < here.working_set <= here.memory
    assert device_memory(here.backend) == here.working_set
