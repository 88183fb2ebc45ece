"""The table of commands, and what its words and the scripts' say when they are wrong."""

import importlib
import pkgutil

import pytest

import crashchat
from crashchat.__main__ import COMMANDS, main
from tests.helpers.commands import ROOT, TRAIN, run


def test_the_table_names_every_command(capsys):
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"  {command} " in told for command in COMMANDS)
    assert main([]) == 2 and "usage: crashchat COMMAND" in capsys.readouterr().err
    assert main(["--version"]) == 0 and crashchat.__version__ in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_by_an_example(command, capsys):
    words = [command, "crash_recognition", "--help"] if command == "score" else [command, "--help"]
    with pytest.raises(SystemExit) as end:
        main(words)
    told = capsys.readouterr().out
    # In the usage line, and in an example.
    assert end.value.code == 0 and told.count(f"crashchat {command}") >= 2


def test_a_wrong_word_is_named(capsys):
    assert main(["analyse", "clip.mp4"]) == 2
    assert capsys.readouterr().err == "error: there is no command 'analyse'; did you mean analyze?\n"
    assert main(["score", "crash"]) == 2 and "found 'crash', expected a task" in capsys.readouterr().err
    for word, told in (
        ("--everything", "expected --all, --reinforce or settings"),
        ("data_dir=x", "the demo has its own"),
    ):
        assert f"found '{word}', " in (output := run("bash", "scripts/demo.sh", word, ok=False))
        assert told in output


def test_an_option_given_twice_is_refused(capsys):
    words = ["compare", "a=x", "--losses", "a", "b=y", "--out", "o"]
    with pytest.raises(SystemExit) as end:
        main([*words, "--losses", "b"])
    assert end.value.code == 2 and "--losses is given twice" in capsys.readouterr().err
    assert main(words) == 1 and "a=x" not in capsys.readouterr().err.partition("usage")[2]


def test_wrong_settings_are_found_before_any_process_starts(tmp_path):
    for words, told in (
        (["epoch=3"], "unknown key 'epoch'"),
        (["global_batch_size=1"], "2 processes cannot share so few questions"),
    ):
        output = run("bash", TRAIN, "2", f"output_dir={tmp_path}", *words, ok=False)
        assert output.startswith("error: ") and told in output and "torch" not in output


def test_every_module_can_be_imported():
    names = [module.name for module in pkgutil.walk_packages(crashchat.__path__, "crashchat.")]
    assert len(names) > 60
    for name in names:
        if name != "crashchat.__main__":
            importlib.import_module(name)


def test_scripts_explain_themselves():
    assert "key=value" in run("bash", TRAIN, "--help")
    scripts = sorted((ROOT / "scripts" / "train").glob("*.sh"))
    assert len(scripts) == 12 and len(list((ROOT / "scripts" / "eval").glob("eval_video_*.sh"))) == 7
    assert len(list((ROOT / "scripts" / "eval").glob("compute_*_metrics.py"))) == 6
    for script in scripts:
        config = next(word for word in script.read_text().split() if word.endswith(".yaml"))
        assert (ROOT / config).is_file(), script
