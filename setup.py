"""Packaging: two import packages from two folders, one distribution (metadata is in pyproject.toml)."""

from setuptools import find_packages, setup

setup(
    packages=find_packages("export") + find_packages("runtime"),
    package_dir={"onfh_export": "export/onfh_export", "onfh_runtime": "runtime/onfh_runtime"},
)
