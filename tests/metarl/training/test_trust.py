"""The module named by somebody else's run is not executed before the user agrees."""

import shutil
from pathlib import Path

import pytest

import evaluate
import train
from envs.gymnasium_tasks import GymnasiumConfig
from metarl.errors import UserError
from metarl.evaluation.adapt import adapt
from metarl.rollout.interface import FILE as INTERFACE
from metarl.system.user_module import UserModule
from metarl.training.trust import check_trusted, code_of
from tests.envs.user_modules import WALK, write
from tests.runs import fails

MARK = "\nfrom pathlib import Path\nPath(__file__).with_name('executed').touch()\n"
TINY = """
env: {kind: gymnasium, module: MODULE, num_workers: 0}
agent: {kind: rl2, hidden_size: 4, encoder_sizes: [], epochs: 1, num_minibatches: 1}
train: {env_steps: 20, meta_batch_size: 2, episodes_per_trial: 2}
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Run of another user, and the file that its module writes when executed."""
    module = Path(write(tmp_path, WALK + MARK))
    (tmp_path / "tiny.yaml").write_text(TINY.replace("MODULE", str(module)))
    monkeypatch.setenv("METARL_CACHE", str(tmp_path / "their_cache"))
    train.main([str(tmp_path / "tiny.yaml"), "--run-dir", str(tmp_path / "run")])
    mark = module.with_name("executed")
    mark.unlink()
    monkeypatch.setenv("METARL_CACHE", str(tmp_path / "my_cache"))
    return tmp_path / "run", mark


def test_code_of_others_waits_for_consent(theirs, tmp_path: Path, capsys) -> None:
    run, mark = theirs
    for program, arguments in ((evaluate, [str(run)]), (train, ["--resume", str(run)])):
        message = fails(capsys, program, arguments)
        assert f"would execute {tmp_path / 'module.py'}, which was not trained with" in message
        assert "add --trust, once" in message and not mark.exists()
    evaluate.main([str(run), "--trust"])
    assert mark.exists()
    train.main(["--resume", str(run)])  # the permission is remembered
    env = UserModule(str(tmp_path / "module.py")).loaded.make_env()
    env.set_task({"drift": 3})
    mark.unlink()
    copy = shutil.copytree(run, tmp_path / "copy")
    adapt(copy, env, episodes=1)
    assert not mark.exists(), "a run says itself what it was trained with"


def test_adapting_with_a_run_of_before_asks_too(theirs, tmp_path: Path) -> None:
    run, mark = theirs
    env = UserModule(str(tmp_path / "module.py")).loaded.make_env()
    env.set_task({"drift": 3})
    mark.unlink()
    (run / INTERFACE).unlink()
    with pytest.raises(UserError, match="add trust=True, once"):
        adapt(run, env, episodes=1)
    assert not mark.exists()
    adapt(run, env, episodes=1, trust=True)
    assert mark.exists()


def test_own_modules_are_never_asked_about(tmp_path: Path, monkeypatch, capsys) -> None:
    """Not even after a change; without a cache folder, the user is asked each time."""
    module = Path(write(tmp_path, WALK))
    (tmp_path / "tiny.yaml").write_text(TINY.replace("MODULE", str(module)))
    monkeypatch.setenv("METARL_CACHE", str(tmp_path / "cache"))
    train.main([str(tmp_path / "tiny.yaml"), "--run-dir", str(tmp_path / "run")])
    module.write_text(WALK + "\n# a remark\n")
    evaluate.main([str(tmp_path / "run")])
    (tmp_path / "file").touch()
    monkeypatch.setenv("METARL_CACHE", str(tmp_path / "file" / "below"))
    evaluate.main([str(tmp_path / "run"), "--trust"])
    assert "add --trust" in fails(capsys, evaluate, [str(tmp_path / "run")])
    code = code_of(GymnasiumConfig(module="this"))  # which is not imported
    check_trusted(code, tmp_path, allowed=True)
    with pytest.raises(UserError, match="would execute the module this, "):
        check_trusted(code, tmp_path, allowed=False)
    assert "--trust is for --resume" in fails(capsys, train, ["--trust"])
