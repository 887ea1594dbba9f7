"""Public names of `import hbdist`."""

import inspect
import subprocess
import sys

import hbdist


def test_every_public_name_exists_and_is_not_a_module() -> None:
    for name in hbdist.__all__:
        assert getattr(hbdist, name) is getattr(hbdist, name)
        assert not inspect.ismodule(getattr(hbdist, name)), name


def test_importing_a_module_does_not_replace_the_public_name_it_shares() -> None:
    code = (
        "import hbdist, hbdist.train; from hbdist.train import Engine; print(callable(hbdist.train), callable(Engine))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["True", "True"]


def test_importing_hbdist_does_not_import_torch() -> None:
    code = "import sys, hbdist; print('torch' in sys.modules, callable(hbdist.Config))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "True"]
