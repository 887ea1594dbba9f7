"""What `import hbdist` gives."""

import inspect
import subprocess
import sys

import hbdist


def test_every_public_name_is_there_and_stays_what_it_is() -> None:
    for name in hbdist.__all__:
        assert getattr(hbdist, name) is getattr(hbdist, name)
        assert not inspect.ismodule(getattr(hbdist, name)), name


def test_a_public_name_stays_what_it_is_when_a_module_of_its_name_is_imported() -> None:
    code = "import hbdist, hbdist.train; from hbdist.train import main; print(callable(hbdist.train), callable(main))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["True", "True"]


def test_importing_hbdist_imports_no_torch() -> None:
    code = "import sys, hbdist; print('torch' in sys.modules, callable(hbdist.Config))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "True"]
