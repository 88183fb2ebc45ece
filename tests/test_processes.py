"""What the processes of a run share: videos to take, readers, types."""

import torch
import torch.distributed as dist

from crashchat import processes
from crashchat.processes import Claims, choose_dtype, join_processes, reader_count


def test_each_number_is_claimed_by_one_process_alone():
    store = dist.HashStore()
    first, second = iter(Claims(5, store)), iter(Claims(5, store))
    taken = [next(first), next(second), next(second), next(first), next(second)]
    assert taken == [0, 1, 2, 3, 4] and next(first, None) is next(second, None) is None
    assert list(Claims(3, None)) == [0, 1, 2]
    assert join_processes() is None  # alone, there is nobody to wait for


def test_types_are_those_of_the_device_unless_a_setting_says_otherwise():
    assert choose_dtype(torch.device("cpu")) == torch.float32
    assert choose_dtype(torch.device("cuda")) == torch.bfloat16
    assert choose_dtype(torch.device("cpu"), "bfloat16") == torch.bfloat16
    assert choose_dtype(torch.device("cuda"), "float32") == torch.float32


def test_a_small_shared_memory_is_told(monkeypatch, capsys):
    assert reader_count(0) == 0 and reader_count(None) in (2, 8)
    capsys.readouterr()
    monkeypatch.setattr(processes, "VIDEO_BYTES", 2**60)
    assert reader_count(3) == 3
    told = capsys.readouterr().out
    assert "3 readers may fill" in told and "--shm-size" in told and "num_workers=0" in told
    assert reader_count(0) == 0 and capsys.readouterr().out == ""
