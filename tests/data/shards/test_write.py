import io
import tarfile

from hypothesis import given
from hypothesis import strategies as st

from hbdist.data.shards.write import tar_header


@given(number=st.integers(0, 10**9), size=st.integers(0, 8**11 - 1))
def test_headers_are_those_of_tarfile(number: int, size: int) -> None:
    member = tarfile.TarInfo(f"{number:09d}.json")
    member.size = size
    assert tar_header(member.name, size) == member.tobuf(tarfile.USTAR_FORMAT)


def test_a_header_is_read_back_by_tarfile() -> None:
    with tarfile.open(fileobj=io.BytesIO(tar_header("a.json", 3) + b"abc".ljust(512, b"\0") + bytes(1024))) as archive:
        assert [(member.name, member.size, member.mode, member.mtime) for member in archive] == [
            ("a.json", 3, 0o644, 0)
        ]
