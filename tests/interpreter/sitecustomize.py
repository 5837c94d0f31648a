"""Run by every Python that a test starts: worker processes and commands know nothing of `conftest.py`."""

import torchvision_on_cpu

torchvision_on_cpu.install()
