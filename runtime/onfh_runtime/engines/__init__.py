"""TensorRT plans: which flavours are here, building a plan from an ONNX file, plans on disk and whether they fit."""

from onfh_runtime.engines.build import BuiltPlan, EngineOptions, Profile, plan_from_onnx
from onfh_runtime.engines.flavours import FLAVOURS, Flavour, check_target, find_flavours, flavour, known_targets
from onfh_runtime.engines.half import HalfShare
from onfh_runtime.engines.listening import EngineError, Progress
from onfh_runtime.engines.machine import Gpu, Machine, find_gpus, this_machine
from onfh_runtime.engines.plan_files import PlanFacts, PlanFile, Unfit, engine_folder, read_plans, unfit, write_plan

__all__ = [
    "FLAVOURS",
    "BuiltPlan",
    "EngineError",
    "EngineOptions",
    "Flavour",
    "Gpu",
    "HalfShare",
    "Machine",
    "PlanFacts",
    "PlanFile",
    "Profile",
    "Progress",
    "Unfit",
    "check_target",
    "engine_folder",
    "find_flavours",
    "find_gpus",
    "flavour",
    "known_targets",
    "plan_from_onnx",
    "read_plans",
    "this_machine",
    "unfit",
    "write_plan",
]
