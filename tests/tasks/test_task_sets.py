"""Task sets: read from YAML, checked with file and line, and named by nobody outside crashchat/tasks."""

import ast
import re
import shutil
from typing import get_args

import pytest

from crashchat.config import CONFIG_DIR, ROOT, load_config
from crashchat.evaluation_settings import EvalConfig
from crashchat.tasks import CRASHCHAT, TASK_SET_FILE, TASKS, Task, TaskSet, TaskSetError, read_task_set, using
from crashchat.tasks.records import AnyKind

HEAD = "name: mine\nfile_prefix: mine\ntasks:\n"
FIRST = '  - {name: crash, title: crash, group: all, answer: {kind: yes_no}, prompt: "Is there a crash?"}\n'
SECOND = "  - name: b\n    title: b\n    group: a\n    prompt: b\n    answer: {kind: KIND}\n"


def second(kind: str, more: str = "") -> str:
    return SECOND.replace("KIND", kind) + (f"    {more}\n" if more else "")


def written(folder, text):
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted((CONFIG_DIR / "tasks").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_set_in_configs_loads(path):
    assert len(TaskSet(path)) > 0


def texts_of(path) -> list[str]:
    """The texts in a module's code, its docstrings left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = {ast.get_docstring(node, clean=False) for node in nodes if isinstance(node, documented)}
    constants = [node.value for node in nodes if isinstance(node, ast.Constant)]
    return [text for text in constants if isinstance(text, str) and text not in docs]


def test_nothing_outside_tasks_names_a_task():
    modules = [*ROOT.glob("crashchat/**/*.py"), *ROOT.glob("tool/*.py")]
    own = ROOT / "crashchat" / "tasks"
    texts = {path: texts_of(path) for path in modules if path.parent != own}
    texts |= {page: [page.read_text(encoding="utf-8")] for page in ROOT.glob("crashchat/templates/*")}
    assert len(texts) > 100
    assert not [
        f"{path.relative_to(ROOT)}: {name}"
        for path, found in texts.items()
        for name in CRASHCHAT
        if any(name in text for text in found)
    ]


REFUSED = {
    "- a\n": "found a list, expected",
    HEAD + FIRST + FIRST: "line 5: crash: name: there is a task of this name already",
    HEAD + FIRST.replace("name: crash", "name: Crash"): "line 4: tasks.0.name",
    HEAD + FIRST.replace("yes_no", "yes_no, options: [a]"): "line 4: tasks.0.answer.yes_no.options",
    HEAD + second("poem"): "line 8: tasks.0.answer",
    HEAD + second("text").replace("    prompt: b\n", ""): "line 4: tasks.0.prompt is missing",
    HEAD
    + FIRST
    + second("text", "asked_if: {x: y}"): "line 10: b: asked_if: found x, expected a task before",
    HEAD
    + FIRST
    + second("text", "asked_if: {crash: perhaps}"): "line 10: b: .*'perhaps' is no answer to crash",
    HEAD + FIRST + FIRST.replace("crash, t", "again, t"): "line 5: again: prompt: found the words of crash",
    HEAD + FIRST.replace("}, p", "}, negative_answer: perhaps, p"): "line 4: .*'perhaps' is no answer",
    HEAD + FIRST.replace("all,", "all, fact: crash_interval,"): "is told by answers of the kind interval",
    HEAD + FIRST + second("moment, before: crash"): "line 9: b: answer: before: found crash, expected a task",
    HEAD.replace("tasks:", "base: mine.yaml\ntasks:")
    + FIRST: "line 3: base: 'mine.yaml' is based on this file",
    HEAD + FIRST + "name: again\n": "the key 'name' is there twice",
}


@pytest.mark.parametrize(("text", "message"), REFUSED.items())
def test_what_cannot_be_is_refused_with_file_and_line(tmp_path, text, message):
    with pytest.raises(TaskSetError, match=message) as refused:
        TaskSet(written(tmp_path, text))
    assert "mine.yaml" in str(refused.value)


def test_a_base_gives_its_tasks_first_and_a_models_folder_keeps_the_whole(tmp_path):
    nine = TaskSet(CONFIG_DIR / "tasks" / "nine_tasks.yaml")
    assert list(nine)[:6] == list(CRASHCHAT) and len(nine) == 9
    assert nine["crash_kind"].annotation_file("val") == "nine_crash_kind_val.json"
    assert nine["crash_recognition"].annotation_file("val") == "nine_crash_recognition_val.json"
    nine.write(tmp_path)
    copy = read_task_set(None, tmp_path)
    assert copy.path == tmp_path / TASK_SET_FILE
    assert copy.sha256 == nine.sha256 and copy.groups == nine.groups
    assert "rear-end, crossing" in (copy["crash_kind"].prompt or "")


def test_settings_take_the_set_that_they_name_or_the_models(tmp_path):
    mine = written(tmp_path, HEAD + FIRST)
    with using(CRASHCHAT):
        config = load_config(EvalConfig, None, [f"task_set={mine}"])
        assert config.tasks == ["crash"] == list(TASKS)
        mine.rename(tmp_path / TASK_SET_FILE)
        assert load_config(EvalConfig, None, [f"model={tmp_path}"]).tasks == ["crash"]
        assert load_config(EvalConfig, None, []).tasks == list(CRASHCHAT) == list(TASKS)
    assert TASKS.task_set is CRASHCHAT


def test_conditions_hold_where_the_answer_was_given():
    interval = CRASHCHAT["crash_localization"]
    assert CRASHCHAT.is_asked(interval, {"crash_recognition": "Yes"})
    assert not CRASHCHAT.is_asked(interval, {"crash_recognition": "No"})
    assert not CRASHCHAT.is_asked(interval, {})


PAGE = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")


def test_the_ten_lines_of_the_page_are_a_task_set(tmp_path):
    block, warned = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert len(block.splitlines()) == 9
    shutil.copy(CONFIG_DIR / "tasks" / "crashchat.yaml", tmp_path)
    tasks = TaskSet(written(tmp_path, block))
    assert list(tasks) == [*CRASHCHAT, "weather"]
    assert tasks["weather"].prompt == "What is the weather like? Answer with one of: clear, rain, snow, fog."
    assert tasks["weather"].parse("It rains: rain.") == {"pred_choice": "rain"}
    assert tasks["weather"].annotation_file("train") == "weather_weather_train.json"
    tasks = TaskSet(written(tmp_path, warned))
    assert list(tasks) == [*CRASHCHAT, "crash_warning"]
    assert (
        tasks["crash_warning"].annotation_file("val") == "crashchat_dada_video_total_crash_warning_val.json"
    )


def test_the_page_has_every_key_and_every_kind():
    for key in {*Task.model_fields} - {"name", "title"}:
        assert f"| `{key}` |" in PAGE, key
    kinds = get_args(get_args(AnyKind)[0])
    assert len(kinds) == 11
    for kind in kinds:
        (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{kind.name_of()}` |")]
        assert all(f"`{key}`" in row for key in kind.model_fields if key != "kind"), row
