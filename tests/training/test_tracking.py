"""A tracker that fails while a model is trained."""

import pytest
import transformers

from sharpen.training.retriever import train_retriever
from sharpen.training.settings import RetrieverSettings
from sharpen.training.tracking import GuardedTracker
from tests.support.tiny_models import hugging_face
from tests.support.word_pairs import CORPUS, QUERIES, TRIPLETS


@pytest.mark.parametrize("event", ["on_train_begin", "on_log", "on_train_end"])
def test_a_training_goes_on_without_a_tracker_that_fails_and_ends_with_the_same_weights(tmp_path, monkeypatch, event):
    pytest.importorskip("tensorboardX")
    from transformers.integrations import TensorBoardCallback

    base = str(hugging_face(tmp_path / "base", "Bert"))
    settings = RetrieverSettings(base=base, batch_size=4, epochs=2, precision="float32")
    alone = train_retriever(QUERIES, TRIPLETS, CORPUS, settings, tmp_path / "alone", 1)
    called = []

    def fail(*_, **__) -> None:
        called.append(event)
        raise ConnectionError("nobody is there")

    monkeypatch.setattr(TensorBoardCallback, event, fail)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "curves"))
    tracked = settings.model_copy(update={"trackers": ("tensorboard",)})
    with pytest.warns(UserWarning, match=r"TensorBoard gets no more curves .*ConnectionError: nobody is there"):
        result = train_retriever(QUERIES, TRIPLETS, CORPUS, tracked, tmp_path / "tracked", 1)
    assert called == [event] and result.log == alone.log
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("alone", "tracked")]
    assert weights[0] == weights[1]


def test_every_event_reaches_a_tracker_until_it_fails():
    told = []

    class Tracker(transformers.TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            told.append(logs)
            if len(told) == 2:
                raise OSError("full")

    guarded = GuardedTracker(Tracker())
    with pytest.warns(UserWarning, match=r"Tracker gets no more curves .*OSError: full"):
        for number in range(4):
            assert guarded.on_log(None, None, None, logs=number) is None
    assert told == [0, 1] and guarded.on_step_end(None, None, None) is None
