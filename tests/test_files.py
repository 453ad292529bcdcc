"""The one way to write a file, and text that is safe to print."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from retnet_bench import files
from retnet_bench.base import UserError, printable, quoted
from retnet_bench.files import NotWritten


def test_a_written_file_is_whole_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    files.write_text(tmp_path / "new" / "a.txt", "é\n", durable=True)
    assert (tmp_path / "new" / "a.txt").read_bytes() == "é\n".encode()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EFBIG])
def test_a_failed_write_is_one_line_and_leaves_the_old_file(tmp_path: Path, number: int) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fill(partial: Path) -> None:
        partial.write_text("ne")
        raise OSError(number, os.strerror(number))

    with pytest.raises(UserError, match=r"a\.txt: can't be written: ") as caught:
        files.write(target, fill)
    assert os.strerror(number) in str(caught.value)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "\ud800"])
def test_a_path_that_no_system_takes_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError) as caught:
        files.write_text(tmp_path / name / "a.txt", "")
    assert str(caught.value).isprintable()


def test_a_name_as_long_as_the_system_allows_can_be_written(tmp_path: Path) -> None:
    files.write_text(tmp_path / ("x" * 255), "")
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_dead_process_left_is_swept_and_a_living_one_s_is_kept(tmp_path: Path) -> None:
    killed = (
        "import os, sys; from pathlib import Path; from retnet_bench import files\n"
        "here = Path(sys.argv[1]); files.temporary(here / 'a').touch()\n"
        "(files.temporary(here / 'tree') / 'inside').mkdir(parents=True)\n"
        "with files.scratch(here) as folder: (folder / 'log').touch(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", killed, str(tmp_path)], check=False)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 3
    mine = files.temporary(tmp_path / "a")
    kept = {mine.name, "kept.tmp", "retnet-bench-old", left[0].replace("-", "-0", 1)}
    for name in kept:
        (tmp_path / name).touch()
    with files.scratch(tmp_path) as folder:
        assert {path.name for path in tmp_path.iterdir()} == {*kept, folder.name}
        (folder / "a").touch()
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_no_place_for_temporary_files_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        NotWritten,
        match=r"file: can't be used for temporary files: .*/file is a file, where a folder",
    ):
        files.scratch(tmp_path / "file").__enter__()


def test_a_folder_that_can_t_be_removed_is_one_line(tmp_path: Path) -> None:
    files.remove(tmp_path / "not there")
    (tmp_path / "file").touch()
    with pytest.raises(
        NotWritten, match=r"file: can't be removed: .*/file is a file, where a folder is needed"
    ):
        files.remove(tmp_path / "file")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("retnet é 网 🙂", "retnet é 网 🙂"),
        ("\x1b]0;T\a", "\\x1b]0;T\\x07"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202etxt", "\\u202etxt"),
        ("\ufffe \udc80", "\\ufffe \\udc80"),
    ],
)
def test_text_is_made_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_tail_keeps_its_line_ends_and_a_long_value_is_cut() -> None:
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"
    assert quoted("y" * 100_000) == "y" * 77 + "..."
