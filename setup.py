"""Packaging: the four folders at the top are installed as skewless.<folder>.

Beam ships this file to its workers (`--setup_file`), so the mapping lives here and
nowhere else. Metadata is in pyproject.toml.
"""

from setuptools import find_packages, setup

FOLDERS = ("pipeline", "transforms", "models", "launch")

packages = ["skewless"]
package_dir = {"skewless": "skewless"}
for folder in FOLDERS:
    package_dir[f"skewless.{folder}"] = folder
    packages.append(f"skewless.{folder}")
    packages.extend(f"skewless.{folder}.{name}" for name in find_packages(folder))

setup(packages=packages, package_dir=package_dir)
