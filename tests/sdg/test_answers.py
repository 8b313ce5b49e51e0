import pytest

from sharpen.sdg.answers import clean, format_example, held_to_schema, instruction, parse_answer, queries_schema


@pytest.mark.parametrize(
    ("answer", "query"),
    [
        (' "how long to knead" \n\nDocument 8:', "how long to knead"),
        ("Query 7: how long to knead?", "how long to knead?"),
        ("1. how long to knead\n2. other", "how long to knead"),
        ("Search query: knead time", "knead time"),
        ("- knead time", "knead time"),
        ("- Query: knead time", "knead time"),
        ("“knead time”", "knead time"),
        ("3 hours of kneading", "3 hours of kneading"),
        ("1. how long to knead", "how long to knead"),
        ("2. Weltkrieg Ursachen", "2. Weltkrieg Ursachen"),
        ("- 30. Januar 1933 Folgen", "30. Januar 1933 Folgen"),
        ("2. Weltkrieg Ursachen\nDas ist eine Suchanfrage.", "2. Weltkrieg Ursachen"),
        ("4. how long to knead\n5. other", "how long to knead"),
        ("`git rebase` vs `git merge`", "`git rebase` vs `git merge`"),
        ('"to be" or "not to be"', '"to be" or "not to be"'),
        ("`git rebase`", "git rebase"),
        ("Q. how long to knead", "how long to knead"),
        ("q.e.d. in proofs", "q.e.d. in proofs"),
        ("", ""),
    ],
)
def test_clean(answer: str, query: str):
    assert clean(answer) == query


@pytest.mark.parametrize(
    ("text", "queries"),
    [
        ('{"queries": ["a b", "c d"]}', ["a b", "c d"]),
        ('Here you are:\n```json\n{"queries": ["a b", "c d"]}\n```', ["a b", "c d"]),
        ('{"queries": ["a b", "c d', ["a b", "c d"]),
        ("{'queries': ['a b', 'c d'],}", ["a b", "c d"]),
        ('["a b", "c d", "e f"]', ["a b", "c d"]),
        ('{"queries": [{"query": " a b ", "answer": "x"}]}', ["a b"]),
    ],
)
def test_json_is_read_as_models_write_it(text: str, queries: list[str]):
    assert [item.query for item in parse_answer(text, "json", 2).queries] == queries


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot do that.",
        "{}",
        '{"queries": []}',
        '{"queries": "a b"}',
        '{"queries": [7, null]}',
        '{"queries": [{"question": "a"}]}',
        "[" * 5000,
    ],
)
def test_what_is_no_list_of_queries_is_an_error(text: str):
    answer = parse_answer(text, "json", 2)
    assert answer.error and not answer.queries


def test_lists_are_read_with_and_without_answers():
    assert [i.query for i in parse_answer("- a b\n\n2. c d\n* e f", "list", 2).queries] == ["a b", "c d"]
    pairs = parse_answer(
        "- Query: who wrote it Answer: Ada\n- Query: nobody\n- when Answer: 1843", "list", 3, answers=True
    ).queries
    assert [(i.query, i.answer) for i in pairs] == [("who wrote it", "Ada"), ("when", "1843")]
    assert parse_answer(" \n", "list", 2).error


@pytest.mark.parametrize("form", ["line", "list", "json"])
@pytest.mark.parametrize("answers", [False, True])
def test_what_examples_show_can_be_read_back(form, answers):
    queries, replies = ("who, then?", 'the "other" one'), ("Ada", "Bob") if answers else ()
    parsed = parse_answer(format_example(form, queries, replies), form, 2, answers).queries
    if form == "line":
        assert [i.query for i in parsed] == ["who, then?"]
    else:
        assert [i.query for i in parsed] == list(queries)
        assert [i.answer for i in parsed] == (list(replies) if answers else ["", ""])


def test_only_chat_models_are_told_the_form_and_each_is_held_to_a_schema_in_its_own_way():
    assert "3 different queries" in instruction("list", 3, False, chat=True) and not instruction(
        "list", 3, False, chat=False
    )
    schema = held_to_schema({}, "queries", queries_schema(2, True), chat=True)["response_format"]["json_schema"][
        "schema"
    ]
    assert schema["properties"]["queries"]["maxItems"] == 2 and schema["properties"]["queries"]["items"][
        "required"
    ] == ["query", "answer"]
    given = {"seed": 1, "extra_body": {"min_p": 0.1}}
    asked = held_to_schema(given, "queries", queries_schema(2, False), chat=False)
    assert asked["extra_body"]["json_schema"]["properties"]["queries"]["items"] == {"type": "string"}
    assert asked["extra_body"]["min_p"] == 0.1 and asked["seed"] == 1 and given["extra_body"] == {"min_p": 0.1}


QUERY = "how to descale a kettle"


@pytest.mark.parametrize(
    "answer",
    [
        "Sure! Here is a query:\n\nhow to descale a kettle",
        "Sure! Here is a query: how to descale a kettle",
        "Here's a search query for the last document: how to descale a kettle",
        "Sure!\n\nHere is a search query based on the document.\n\nhow to descale a kettle",
        "Of course.\nThe query a user may type:\n```\nhow to descale a kettle\n```",
        "```text\nhow to descale a kettle\n```",
        "**Query:** how to descale a kettle",
        "**Query**: how to descale a kettle",
        "**Query:**\nhow to descale a kettle",
        "### Query\n\nhow to descale a kettle",
        "Query: **how to descale a kettle**",
        "**how to descale a kettle**",
        "**Here is the query:**\n\n> \nhow to descale a kettle".replace("> \n", ""),
        "Hier ist eine Suchanfrage: how to descale a kettle",
        "Natürlich! Hier ist eine mögliche Frage:\n„how to descale a kettle“",
        "Voici une requête possible :\n« how to descale a kettle »",
        "Aquí tienes una consulta:\nhow to descale a kettle",
        "Zde je dotaz:\nhow to descale a kettle",
        "Вот запрос: how to descale a kettle",
        "以下是一个查询：how to descale a kettle",
        "はい、こちらが質問です：\n「how to descale a kettle」",
        "यह रहा एक प्रश्न:\nhow to descale a kettle",
        "Frage: how to descale a kettle",
        "問題：how to descale a kettle",
    ],
)
@pytest.mark.parametrize("form", ["line", "list"])
def test_a_sentence_that_announces_the_query_is_no_part_of_it(answer: str, form):
    assert [item.query for item in parse_answer(answer, form, 1).queries] == [QUERY]


@pytest.mark.parametrize(
    "query",
    [
        "what is missing in this sentence:",
        "python error: list index out of range",
        "SQL query: how to join three tables",
        "here comes the sun: who wrote it",
        "what is the question: a poll or a survey",
        "great interview questions",
        "yes or no questions for kids",
        "__init__ method in python",
        "**kwargs and **args",
        "search: how to find in vim",
        "ok google stops listening: why",
    ],
)
@pytest.mark.parametrize("form", ["line", "list"])
def test_a_bare_query_stays_as_it_is(query: str, form):
    assert [item.query for item in parse_answer(query, form, 1).queries] == [query]
    if not query.endswith(":"):
        assert parse_answer(f"{query}\nsomething else", form, 2).queries[0].query == query


def test_announced_lists_keep_their_queries_alone():
    answer = (
        "Here are three questions that the document answers:\n\n1. what is kiln firing:\n2. **how hot is it**\n"
        "3. who opens it\n\nLet me know if you need more!"
    )
    expected = ["what is kiln firing:", "how hot is it", "who opens it"]
    assert [i.query for i in parse_answer(answer, "list", 3).queries] == expected
    pairs = parse_answer("Here are the pairs:\n- Query: who wrote it Answer: Ada", "list", 2, answers=True).queries
    assert [(i.query, i.answer) for i in pairs] == [("who wrote it", "Ada")]
