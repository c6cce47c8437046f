"""Which code ran, and where."""

import platform
import shutil
import subprocess
from importlib import metadata

import monai
import torch

from pipelines.utils import provenance
from pipelines.utils import provenance as module
from pipelines.utils.provenance import code_version, environment, uncommitted, versions


def test_the_code_is_that_of_this_repository_only(tmp_path, monkeypatch):
    found = code_version()["mlflow.source.git.commit"]
    in_git = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=module.REPOSITORY, capture_output=True, text=True
    )
    if in_git.returncode == 0:
        assert found == in_git.stdout.strip()
        assert code_version()["git.dirty"] in ("true", "false")
    # installed into somebody else's repository, that repository's commit says nothing about this code
    foreign = tmp_path / "theirs"
    (foreign / "pipelines" / "utils").mkdir(parents=True)
    subprocess.run(["git", "init", "-q", str(foreign)], check=True)
    shutil.copy(module.__file__, foreign / "pipelines" / "utils" / "provenance.py")
    monkeypatch.setattr(module, "REPOSITORY", foreign)
    monkeypatch.setattr(module, "__file__", str(foreign / "pipelines" / "utils" / "provenance.py"))
    assert code_version() == {"mlflow.source.git.commit": "unknown: not a git checkout"}


def test_passwords_of_changed_files_are_not_in_the_diff(tmp_path, monkeypatch):
    file = tmp_path / "pipelines" / "utils" / "provenance.py"
    file.parent.mkdir(parents=True)
    shutil.copy(module.__file__, file)
    settings, program = tmp_path / "server.ini", tmp_path / "server.py"
    settings.write_text("[server]\nport = 1\n")
    program.write_text("port = 1\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "m"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(module, "REPOSITORY", tmp_path)
    monkeypatch.setattr(module, "__file__", str(file))
    settings.write_text("[server]\nport = 1\npassword = hunter2\n")
    program.write_text('port = 1\npassword = "hunter2"\ntoken = port\n')
    diff = uncommitted()
    assert "hunter2" not in diff
    assert "+password = ***\n" in diff
    assert '+password = "***"\n' in diff
    assert "+token = port\n" in diff
    subprocess.run([*git, "checkout", "-q", "."], check=True)
    subprocess.run([*git, "apply"], input=diff.encode(), check=True)
    assert program.read_text() == 'port = 1\npassword = "***"\ntoken = port\n'


def test_the_version_of_torch_says_which_build_ran(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: "2.15.0" if name == "torch" else monai.__version__)
    monkeypatch.setattr(torch, "__version__", "2.15.0+cu132")
    assert versions("torch", "monai") == {
        "python": platform.python_version(),
        "torch": "2.15.0+cu132",
        "monai": monai.__version__,
    }
    assert environment()["version.torch"] == "2.15.0+cu132"


def test_packages_that_are_not_installed_have_no_version():
    assert versions("no-such-package", "numpy").keys() == {"python", "numpy"}


def test_uncommitted_changes_are_kept_and_can_be_applied(tmp_path, monkeypatch):
    repository = tmp_path / "repository"
    (repository / "pipelines").mkdir(parents=True)
    file = repository / "pipelines" / "provenance.py"
    shutil.copy(provenance.__file__, file)
    git = ["git", "-C", str(repository), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "m"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(provenance, "REPOSITORY", repository)
    monkeypatch.setattr(provenance, "__file__", str(file))
    assert uncommitted() == ""
    changed = file.read_text().replace("import platform", "import platform  # für mich")
    file.write_text(changed, encoding="utf-8")
    (repository / "new.py").write_text("secret = 1\n")
    diff = uncommitted()
    assert "# untracked: new.py" in diff
    assert "secret" not in diff
    subprocess.run([*git, "checkout", "-q", "."], check=True)
    (tmp_path / "diff").write_text(diff, encoding="utf-8")
    subprocess.run([*git, "apply", str(tmp_path / "diff")], check=True)
    assert file.read_text(encoding="utf-8") == changed
    short = uncommitted(limit=200)
    assert len(short) < 320
    assert "# cut off here" in short
