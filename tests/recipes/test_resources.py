"""What a stage tells the person."""

import io

from rich.console import Console

from sharpen.recipes.resources import show_progress


def test_an_answer_in_the_progress_bar_is_text_whatever_it_looks_like():
    written = io.StringIO()
    with show_progress(Console(file=written, force_terminal=True, width=150), "writing queries", 3) as advance:
        for note in ("[bold]What[/] is it? [/INST]", "edit [/etc/hosts]", "\x1b]0;title\x07 ice [/"):
            advance(note=note)
    shown = written.getvalue()
    assert "ice [/" in shown and "\x1b]0;" not in shown
