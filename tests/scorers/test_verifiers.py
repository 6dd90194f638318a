import threading

import pytest

from tts_kernels.scorers.instructions import INSTRUCTIONS, follows
from tts_kernels.scorers.verifiers import VERIFIERS, MathJudge, strip_thinking

GSM8K = [
    ("She sells 16 - 3 - 4 = <<16-3-4=9>>9 eggs, so she earns $<<9*2=18>>18 a day.\n#### 18", "18", 1.0),
    ("The house costs $1,250,000.", "#### 1,250,000", 1.0),
    ("It takes 2+1=<<2+1=3>>3 bolts", "2/2=<<2/2=1>>1\n2+1=3\n#### 3", 1.0),
    ("The answer is 42.", 42, 1.0),
    ("The answer is 42.", 42.0, 1.0),
    ("The answer is 0.75", 0.75, 1.0),
    ("They lost money: -12", "-12", 1.0),
    ("They lost money: -12", "12", 0.0),
    ("It grew by +7", "7", 0.0),
    ("Half of it is .5", ".5", 1.0),
    ("That makes 18.0", "18", 0.0),
    ("That makes 18, out of 20", "18", 0.0),
    ("So 7, and then 9", "9", 1.0),
    ("1,2,3", "123", 1.0),
    ("No number", "5", 0.0),
    ("None", "none", 1.0),
    ("", "5", 0.0),
    ("Es kostet 5 €, 価格は 6 円", " 6 ", 1.0),
    ("<think>It is 5</think>It is 6", "6", 1.0),
    ("<answer>6</answer> I checked it 3 times", "6", 1.0),
]

MATH = [
    (r"Thus $x = \boxed{\frac{1}{2}}.$", r"\frac{1}{2}", 1.0),
    (r"\boxed{\dfrac12}", r"\frac{1}{2}", 1.0),
    (r"\boxed{0.5}", "1/2", 1.0),
    (r"\boxed{\frac{2}{4}.}", "0.5", 1.0),
    (r"We get $\boxed{3}$, no: $\boxed{4}$", "4", 1.0),
    (r"We get $\boxed{3}$, no: $\boxed{4}$", "3", 0.0),
    (r"\boxed{\left( 3, \frac{\pi}{2} \right)}", r"(3,\frac{\pi}{2})", 1.0),
    (r"\boxed{\text{an odd } \boxed{7}}", "7", 1.0),
    (r"\boxed{(x+1)^2}", "x^2+2x+1", 1.0),
    (r"\boxed{x^2+1}", "x^2+2x+1", 0.0),
    (r"The area is \boxed{12\text{ cm}^2}", "12", 1.0),
    (r"\boxed{1,000}", "1000", 1.0),
    (r"\boxed{-\sqrt2}", r"-\sqrt{2}", 1.0),
    (r"\boxed{90^\circ}", "90", 1.0),
    (r"\boxed{\text{Evelyn}}", "Evelyn", 1.0),
    (r"\boxed{(2,1)}", "(1,2)", 0.0),
    (r"\boxed{5}", "x=5", 1.0),
    (r"\boxed{5}", 5, 1.0),
    (r"\boxed{5}", r"We add to get $2+3=\boxed{5}.$", 1.0),
    ("Final Answer: The final answer is $2^2$. I hope it is correct.", "4", 1.0),
    ("The final answer is 3. No, the final answer is 4. I hope it is correct.", "4", 1.0),
    ("The final answer is 3. No, the final answer is 4. I hope it is correct.", "3", 0.0),
    (r"\boxed{3}. The final answer is 4. I hope so.", "3", 1.0),
    ("It costs \\$5, hence $y=6$ and $x=7$.", "7", 1.0),
    ("It costs \\$5, hence $y=6$ and $x=7$.", "6", 0.0),
    ("$$ 7 $$", "7", 1.0),
    ("-3", "-3", 1.0),
    ("After " + "many words and " * 5000 + "the answer is 8", "8", 1.0),
    ("", "5", 0.0),
    (r"\boxed{}", "5", 0.0),
    (r"\boxed{\frac{1}{", "1", 0.0),
    (r"\boxed{}{\frac{{\sqrt}^_&\\}", "1", 0.0),
    ("\ud800 数学 \x00", "1", 0.0),
    (r"<think>\boxed{1}</think> hence \boxed{2}", "2", 1.0),
]

TWO, AT_LEAST, LESS = {"num_words": 2}, {"relation": "at least"}, {"relation": "less than"}
PARAGRAPHS = 'One.\n\nTwo, too.\n \n"It\'s" three.'
FOLLOWED = [
    ("keywords:existence", {"keywords": ["Tree", "c++"]}, ["TREES in C++", "c++ tree"], ["a tree in C", "c++"]),
    ("keywords:frequency", {"keyword": "a.b", "frequency": 2, **AT_LEAST}, ["a.b A.B"], ["a.b axb"]),
    ("keywords:frequency", {"keyword": "ab", "frequency": 2, **LESS}, ["ab", "x"], ["ab ab"]),
    ("keywords:forbidden_words", {"forbidden_words": ["cat", "C++"]}, ["concatenate"], ["The Cat sat", "in c++."]),
    ("keywords:letter_frequency", {"letter": "É", "let_frequency": 2, "let_relation": "at least"}, ["été"], ["et"]),
    ("keywords:letter_frequency", {"letter": "#", "let_frequency": 1, "let_relation": "less than"}, ["a"], ["#a"]),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, **AT_LEAST},
        ["One. Two! Three?", "A... (b.) c", "1. One.\n2. Two.\n3. Three", "一。二\uff01三\uff1f"],
        ["Dr. A. Smith paid 3.50. Twice", "...", "1. One.\n2. Two."],
    ),
    ("length_constraints:number_sentences", {"num_sentences": 2, **LESS}, ["e.g. Mr. X", "3.5"], ["Yes. No."]),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["a\n***\nb", "***a***b", "a *** b ***"],
        ["a", "a***b***c", "a *** *** b"],
    ),
    ("length_constraints:number_words", {**TWO, **AT_LEAST}, ["naïve 数学", "a-b"], ["one", "one!"]),
    ("length_constraints:number_words", {**TWO, **LESS}, ["one!"], ["one two"]),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 3, "nth_paragraph": 3, "first_word": "IT'S"},
        [PARAGRAPHS],
        ["It's\n\nIt's", PARAGRAPHS + "\n\nfour", PARAGRAPHS.replace("It's", "It")],
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[a] [b c]", "[[a] [b]]"], ["[a] []", "[a"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["Bye\nP.S. more", "p. s. x"], ["PS", "p.score"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["P.P.S. x", "p. p.s"], ["P.S. x"]),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["Two:\n* a\n  - b", "- a\n* **b**"],
        ["* a", "* a\n* b\n* c", "* a\n---\n*b*\n*"],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["My answer is no.", "Well. My answer is maybe."],
        ["No.", "My answer"],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a* **b c**", "* x *a* *b*"],
        ["*a*", "** ** * *", "* a\n* b", "*a\n* **b**", "2 * 3 * 4 * 5"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        ["Section 1\na\nSection 2\nb", "Section1 Section2 Section3"],
        ["Section 1", "Section one Section two"],
    ),
    (
        "detectable_format:json_format",
        {},
        ['{"a": [1]}', "```json\n[]\n```", "```\n{}```"],
        ["{a: 1}", "x {}", "[" * 99999],
    ),
    ("detectable_format:title", {}, ["<<joy>>\nx", "a << b >>"], ["<joy>", "<<>>", "<< >>", "<<a\nb>>", ">>a<<"]),
    (
        "combination:two_responses",
        {},
        ["a******b", "******a\n******\nb"],
        ["a", "a******a", "a************b", "a******b******c"],
    ),
    ("combination:repeat_prompt", {"prompt_to_repeat": " Say hi "}, ["say hi\nhi"], ["Hi! Say hi", "Say"]),
    ("startend:end_checker", {"end_phrase": "The End."}, ["x the end.\n", '"the end."'], ["The end", "The end. Bye"]),
    ("startend:quotation", {}, ['"a"', ' "a "b" c"\n'], ['"a', '"', "'a'"]),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["STOP AND go", "I'm NEW", "ÄÖ-Ü X"],
        ["STOP", "Stop And", "STATE-OF-THE-ART"],
    ),
    ("change_case:capital_word_frequency", {"capital_frequency": 1, "capital_relation": "less than"}, ["a 1"], ["A"]),
    ("change_case:english_capital", {}, ["ALL 3 CAPS!"], ["NOT All", "123"]),
    ("change_case:english_lowercase", {}, ["all 3 low!"], ["not All", "123"]),
    ("punctuation:no_comma", {}, ["a; b"], ["a, b"]),
]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("5", "5"),
        ("<think>4</think>\n5 ", "5"),
        ("<think>a</think>4<think>b</think>5", "5"),
        ("<think>\n<answer>4</answer></think>5", "5"),
        ("4 <answer> 5\n</answer> 6", "5"),
        ("<answer>4</answer><answer>5</answer>", "5"),
        ("4 <answer>5", "4 <answer>5"),
        ("<think>4", "<think>4"),
        ("", ""),
    ],
)
def test_strip_thinking(text, wanted):
    assert strip_thinking(text) == wanted


@pytest.mark.parametrize(("text", "label", "score"), GSM8K)
def test_gsm8k(text, label, score):
    assert VERIFIERS["gsm8k"](text, label) == score


@pytest.mark.parametrize(("text", "label", "score"), MATH)
def test_math(text, label, score):
    assert VERIFIERS["math"](text, label) == score


def test_math_works_in_any_thread():
    scores = {}

    def verify(number):
        scores[number] = VERIFIERS["math"](rf"\boxed{{{number}+2^2}}", str(number // 2 * 2 + 4))

    threads = [threading.Thread(target=verify, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scores == {number: float(number % 2 == 0) for number in range(6)}


def test_an_answer_that_takes_too_long_is_wrong_and_harms_no_other():
    judge = MathJudge(cpu_seconds=0.7)
    try:
        assert judge.same("2/4", "1/2")
        assert not judge.same("(" * 500, "5")
        assert judge.same("2/4", "1/2")
        assert not judge.same("2/5", "1/2")
    finally:
        judge.close()


@pytest.mark.parametrize(
    ("instruction_id", "kwargs", "good", "bad"), FOLLOWED, ids=[f"{n}-{case[0]}" for n, case in enumerate(FOLLOWED)]
)
def test_instructions(instruction_id, kwargs, good, bad):
    for text in good:
        assert follows(text, instruction_id, **kwargs, other=None), text
    for text in ["", " \n", *bad]:
        assert not follows(text, instruction_id, **kwargs), text


def test_every_instruction_is_tested():
    assert {case[0] for case in FOLLOWED} == set(INSTRUCTIONS)
    assert len(INSTRUCTIONS) == 24


def test_ifeval_is_the_fraction_that_holds():
    ids = [
        "length_constraints:number_words",
        "punctuation:no_comma",
        "startend:quotation",
        "change_case:english_capital",
    ]
    kwargs = [{"num_words": 3, "relation": "less than", "letter": None}, {}, None, {"num_words": None}]
    theirs = {"instruction_id_list": ids, "kwargs": kwargs, "key": 1000}
    ours = [{"id": name, **(given or {})} for name, given in zip(ids, kwargs, strict=True)]
    for label in (theirs, ours):
        assert VERIFIERS["ifeval"]("two words", label) == 0.5
        assert VERIFIERS["ifeval"]('<think>a, b, c, d</think>"TWO WORDS"', label) == 1.0
        assert VERIFIERS["ifeval"]("", label) == 0.0


@pytest.mark.parametrize(
    ("name", "label", "error", "words"),
    [
        ("gsm8k", None, TypeError, "gsm8k: label must be a str or number, got NoneType"),
        ("gsm8k", True, TypeError, "got bool"),
        ("gsm8k", " ", ValueError, "gsm8k: label must not be empty"),
        ("math", ["5"], TypeError, "math: label must be a str or number, got list"),
        ("math", "", ValueError, "math: label must not be empty"),
        ("ifeval", "no_comma", TypeError, "ifeval: label must be a list of dicts"),
        ("ifeval", [], ValueError, "ifeval: label must hold constraints"),
        ("ifeval", [{"num_words": 3}], ValueError, "with an id each"),
        ("ifeval", {"id": "punctuation:no_comma"}, ValueError, "must have instruction_id_list and kwargs"),
        ("ifeval", {"instruction_id_list": ["punctuation:no_comma"], "kwargs": []}, ValueError, "each of 1 ids, got 0"),
        (
            "ifeval",
            [{"id": "language:response_language", "language": "de"}],
            ValueError,
            "no_comma, got 'language:resp",
        ),
    ],
)
def test_bad_labels_raise(name, label, error, words):
    with pytest.raises(error, match=words):
        VERIFIERS[name]("text", label)


@pytest.mark.parametrize(
    ("instruction_id", "kwargs", "error", "words"),
    [
        ("punctuation:no_comma", {"letter": "a"}, ValueError, "no_comma must be none, got letter"),
        ("length_constraints:number_words", {"num_words": 3}, ValueError, "must be num_words, relation, got num_words"),
        ("length_constraints:number_words", {**TWO, "relation": "more"}, ValueError, "'at least', got 'more'"),
        ("length_constraints:number_words", {**AT_LEAST, "num_words": "3"}, TypeError, "must be an int, got str"),
        ("length_constraints:number_words", {**AT_LEAST, "num_words": -1}, ValueError, "must be at least 0, got -1"),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 1, "nth_paragraph": 0, "first_word": "a"},
            ValueError,
            "must be at least 1, got 0",
        ),
        ("keywords:existence", {"keywords": "tree"}, TypeError, "must be a list of str"),
        ("keywords:existence", {"keywords": []}, ValueError, "must hold words"),
        ("startend:end_checker", {"end_phrase": " "}, ValueError, "must be not empty"),
        ("startend:end_checker", {"end_phrase": 3}, TypeError, "must be a str, got int"),
        (
            "keywords:letter_frequency",
            {"letter": "ab", "let_frequency": 1, "let_relation": "at least"},
            ValueError,
            "must be one character",
        ),
    ],
)
def test_bad_arguments_raise(instruction_id, kwargs, error, words):
    with pytest.raises(error, match=words):
        follows("text", instruction_id, **kwargs)


def test_other_bad_input_raises():
    for name, label in (("gsm8k", "5"), ("math", "5"), ("ifeval", [{"id": "punctuation:no_comma"}])):
        with pytest.raises(TypeError, match="text must be a str, got NoneType"):
            VERIFIERS[name](None, label)
    with pytest.raises(ValueError, match="cpu_seconds must be more than 0"):
        MathJudge(0)
