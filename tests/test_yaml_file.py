"""YAML from anyone: plain data, or one line with file and line; little time and memory."""

from __future__ import annotations

import math
import os
import resource
import time
from pathlib import Path
from typing import Any

import pytest

from retnet_bench import yaml_file
from retnet_bench.base import UserError, printable

HERE = Path("s.yaml")


def parse(text: str) -> Any:
    return yaml_file.parse(text, HERE)


def refused(text: str) -> str:
    with pytest.raises(UserError) as caught:
        parse(text)
    message = str(caught.value)
    assert message.startswith("s.yaml")
    assert message == printable(message)
    assert len(message) < 500
    return message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("90", 90),
        ("-7", -7),
        ("0", 0),
        ("0x10", 16),
        ("1.5", 1.5),
        ("1e-3", 0.001),
        ("6E2", 600.0),
        (".inf", math.inf),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("fp32", "fp32"),
        ("'yes'", "yes"),
        ('"0100"', "0100"),
        ("2023-07", "2023-07"),
        ("0.1M", "0.1M"),
        ("9" * 18, 10**18 - 1),
    ],
)
def test_plain_values_are_what_every_reader_of_yaml_takes_them_for(text, value):
    found = parse(f"a: {text}")["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        ("1:30", "90", '"1:30"'),
        ("1:30.5", "90.5", '"1:30.5"'),
        ("190:20:30", "685230", '"190:20:30"'),
        ("0100", "64", "100"),
        ("-010", "-8", "-10"),
        ("089", '"089"', "89"),
        ("0o17", '"0o17"', "15"),
        ("0b11", "3", '"0b11"'),
        ("1_000", "1000", '"1_000"'),
        ("yes", "true", '"yes"'),
        ("No", "false", '"No"'),
        ("on", "true", '"on"'),
        ("OFF", "false", '"OFF"'),
        ("2024-01-02", "a date", '"2024-01-02"'),
        ("2001-99-99", "a date", '"2001-99-99"'),
        ("2001-01-01 10:00:00", "a date", '"2001-01-01 10:00:00"'),
        ("=", "another value", '"="'),
    ],
)
def test_what_yaml_1_1_and_1_2_read_differently_is_refused_with_both_readings(text, old, new):
    said = f"s.yaml: line 2: {text} is {old} in YAML 1.1 and {new} in YAML 1.2; write the one that"
    assert refused(f"b: 1\na: {text}\n").startswith(said)


def test_so_is_a_key():
    assert 'line 1: on is true in YAML 1.1 and "on"' in refused("on: {a: 1}")


BOMB = "a: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"b{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
)
MERGED = "a: &a0 {x: 1}\n" + "".join(
    f"b{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 30)
)
HOSTILE = {
    "bomb": (BOMB, "line 5: more than 50,000 values, aliases written out"),
    "merged": (MERGED, "more than 50,000 values, aliases written out"),
    "many": ("[" + "1," * 60_000 + "]", "more than 50,000 values"),
    "many keys": ("\n".join(f"k{i}: 1" for i in range(30_000)), "more than 50,000 values"),
    "itself": ("a: &a [1, *a]", "line 1: *a contains itself"),
    "own value": ("a: &a {b: {c: *a}}", "line 1: *a contains itself"),
    "nobody": ("a: *b", "undefined alias"),
    "deep": ("[" * 100_000, "nested more than 50 deep"),
    "deep mapping": ("{a: " * 3000 + "}" * 3000, "nested more than 50 deep"),
    "deep block": ("".join(" " * i + "-\n" for i in range(900)), "nested more than 50 deep"),
    "long": ("a: " + "x" * 10_001, "line 1: a value of more than 10,000 characters"),
    "digits": ("\n\na: " + "9" * 5000, "line 3: 999"),
    "19 digits": ("a: 1" + "0" * 18, "is an integer of more than 18 digits"),
    "hexadecimal": ("a: 0x" + "f" * 5000, "is an integer of more than 18 digits"),
    "base 60": ("a: 1" + ":1" * 4000, "is another value in YAML 1.1"),
    "tag": ("a: !!bool maybe", "line 1: tag !!bool: tags are not taken"),
    "object": ("a: !!python/name:os.system ''", "tag !!python/name:os.system: tags are"),
    "set": ("!!set {a}", "tag !!set"),
    "own tag": ("a: !evil\n b", "tag !evil"),
    "key": ("? [a]\n: 1", "key [...] is no text"),
    "key 1": ("a: 1\n1: 2", "line 2: key 1 is no text; write it in quotes"),
    "key null": ("null: 2", "key null is no text"),
    "twice": ("a: 1\na: 1", 'line 2 is not valid YAML: key "a" stands twice'),
    "twice, odd": ('"\\e]0;T\\a": 1\n"\\e]0;T\\a": 2', r'key "\x1b]0;T\x07" stands twice'),
    "merge": ("a: {<<: 1}", "is not valid YAML"),
    "lone merge": ("a: <<", "is not valid YAML"),
    "unfinished": ("a: [b", "line 1 is not valid YAML"),
    "two": ("a: 1\n---\na: 2", "is not valid YAML"),
    "surrogate": ('a: "\\ud800"', "is not valid YAML"),
    "beyond": ('a: "\\UFFFFFFFF"', "is not valid YAML"),
    "control": ("a: \x00", "is not valid YAML"),
    "directive": ("%YAML 1" + "9" * 5000 + ".1\n---\na", "is not valid YAML"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_the_hostile_is_one_line_in_little_time_and_memory(name):
    text, said = HOSTILE[name]
    before, start_s = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    assert said in refused(text)
    assert time.process_time() - start_s < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_aliases_and_merge_keys_in_reason_are_taken():
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]"
    both = {"x": 1, "y": 2}
    assert parse(text) == {"a": both, "b": {"x": 1, "y": 3}, "c": [both, both]}


def test_only_a_regular_file_of_bounded_size_is_read(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b"#" * 1_000_001)
    (tmp_path / "latin").write_bytes(b"name: caf\xe9\n")
    (tmp_path / "fits").write_bytes(b"#" * 1_000_000)
    assert len(yaml_file.read(tmp_path / "fits")) == 1_000_000
    for path, said in (
        (tmp_path / "fifo", "is no regular file"),
        (Path("/dev/zero"), "is no regular file"),
        (tmp_path, "is no regular file"),
        (tmp_path / "large", "has more than 1,000,000 bytes, the limit"),
        (tmp_path / "latin", "can't be read: not UTF-8: byte 0xe9 in line 1; save"),
        (tmp_path / "none", "can't be read: No such file"),
        (tmp_path / ("x" * 300), "can't be read: File name too long"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            yaml_file.read(path)
        assert str(caught.value).startswith(str(path))
