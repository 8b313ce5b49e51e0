import pytest

from sharpen.sdg.llm.messages import Answer
from sharpen.sdg.llm.thoughts import MARKS, without_thoughts

QUERY = "how to descale a kettle"


@pytest.mark.parametrize(
    "text",
    [
        "<think>They want one.</think>how to descale a kettle",
        "<think>\nThey want\n\n- one query\n</think>\n\nhow to descale a kettle",
        "<think></think>\n\nhow to descale a kettle",
        "They want one query.\nSo be it.\n</think>\n\nhow to descale a kettle",
        "They want one query.</think>how to descale a kettle",
        "<think>a</think>\n<think>b</think>how to descale a kettle",
        "<|channel|>analysis<|message|>One.<|end|><|start|>assistant<|channel|>final<|message|>how to descale a kettle"
        "<|return|>",
        "<|channel|>final <|constrain|>json<|message|>how to descale a kettle",
        "analysisThey want one.assistantfinalhow to descale a kettle",
        *(f"{opening}They want one.\n{closing}\nhow to descale a kettle" for opening, closing in MARKS),
    ],
)
def test_thoughts_are_no_part_of_the_answer(text: str):
    assert (without_thoughts(text)[0].strip(), without_thoughts(text)[1]) == (QUERY, True)


@pytest.mark.parametrize(
    "text", ["<think>They want", "\n<think>\nThey\nwant", "[THINK]Well", "<|channel|>analysis<|message|>They want"]
)
def test_thoughts_that_took_all_there_was_leave_no_answer(text: str):
    answer = Answer(text, "stop").readable()
    assert answer.text == "" and answer.ate_budget and not answer.is_empty


@pytest.mark.parametrize(
    "text",
    [
        "what does <think> mean in the output",
        "why is there a </think> in the answer",
        '{"queries": ["why is there a </think>in it"]}',
        "analysis of variance",
        "  how to descale a kettle\n",
        "",
    ],
)
def test_what_is_no_thought_stays(text: str):
    assert without_thoughts(text) == (text, True) and Answer(text).readable() == Answer(text)
