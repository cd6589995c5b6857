"""English phrases with which replies decline, apologise, moralise, redirect and offer, as patterns of lower-case text."""

import re


def _any(*alternatives: str) -> str:
    return f"(?:{'|'.join(alternatives)})"


_I = r"\b(?:i|we|i'm|we're)\b"
_NOT = _any(
    *(r"can(?:no|')?t", "can not", r"could(?:n't| not)", "won't", "will not", r"would(?:n't| not)", "refuse"),
    r"(?:do not|don't) (?:feel comfortable|want to)",
    r"(?:am|are|'m|'re) un(?:able|willing)",
    r"(?:am|are|'m|'re) not (?:able|allowed|comfortable|going|in a position|permitted|programmed|willing|prepared)",
)
_DO = _any(
    *"""assist help provid comply fulfil answer continu engag creat generat writ support offer shar giv discuss participat
    complet proceed produc teach tell show expla mak facilitat promot encourag advis recommend satisf accommodat process carry
    list describ draft includ cover reproduc name speculat respond translat rewrit suggest comment typ run plan find send act
    pretend""".split(),
    *("do (?:that|this|so)", "walk you", "go into", "get into", "say (?:that|more)", "tak(?:e|ing) part", "be part"),
    *("look up", "work on"),
)
_IDIOM = _any(
    *(
        "wait",
        "help but",
        r"help (?:\w+ing|myself)",
        "tell (?:from|if|whether|which)",
        "say (?:for sure|exactly)",
        "stress",
    ),
    *("overstate", "believe", "imagine", "lie", r"(?:recommend|say|thank|tell you|praise) (?:\w+ ){0,3}enough"),
    "(?:promise|guarantee) ",
)
"""What follows "I can't" in a sentence that declines nothing."""
_NEITHER = "not (?:able|allowed|authori[sz]ed|designed|equipped|in a position|permitted|programmed|qualified)"
_MANNER = r"(?: have to| respectfully| politely)*"
DECLINE = re.compile(
    _any(
        rf"{_I}[^.!?\n]{{0,25}}?(?:\b|(?<='))(?:{_NOT})\b(?! {_IDIOM})[^.!?\n]{{0,40}}?\b{_DO}",
        r"\b(?:i|we)(?:'ll| will)?(?: must| have to| need to| respectfully| would| am going to)*"
        + _MANNER
        + r" (?:decline|refuse|pass on|leave out|skip|stop short)\b",
        r"\bi(?:'d| would) (?:rather not|prefer not)",
        rf"\b(?:i am|i'm|we are|we're) (?:unable|unwilling|{_NEITHER}) to\b(?! {_IDIOM})",
        r"\b(?:i am|i'm|we are|we're) not capable of\b",
        r"\b(?:i|we) (?:do not|don't) have the (?:ability|capability|capacity|authority)\b",
        r"\bi(?:'m| am) going to (?:leave|skip|pass)\b",
        r"\bagainst (?:my|our) (?:guidelines|polic\w+|programming|values|principles)\b",
        r"\b(?:that|this|it)(?:'s| is) (?:not )?(?:something|a (?:topic|request|part|subject))[^.!?\n]{0,12} (?:i|we) "
        r"(?:can't|cannot|can not|won't|will not|must not|do not|don't|am not|'m not)\b",
        r"\bnot (?:something|appropriate|ethical)(?: that)?(?: for me to| i(?:'m| am| can| will))",
        r"\b(?:is|are|falls|lies) (?:outside|beyond|off the table|off limits|off-limits)\b"
        r"[^.!?\n]{0,30}\b(?:me|i|my|here|help|can)\b",
        r"\boff the table for me\b",
        r"^\W*(?:no|nope|sorry)[,.]? (?:i|we)?\s?(?:can't|cannot|won't|will not|not going)",
        r"^\W*(?:request (?:denied|declined)|access denied|not going to happen|absolutely not\b)",
        r"^\W*i (?:must |have to )?(?:refuse|decline)\b",
        r"\bi (?:strongly |really )?(?:advise|urge you) (?:you )?(?:strongly )?(?:against|not to)\b",
        r"\bbest (?:that )?(?:we|i) (?:don't|do not) (?:go|discuss|talk|get)\b",
        r"\b(?:cannot|can't) be (?:fulfilled|provided|answered|completed|processed)\b",
        r"\bunable to (?:assist|help|provide|comply|fulfil|answer|discuss|share)\b",
    )
)
"""A sentence in which the assistant declines."""
DECLINES_WITH = (
    "not n't cant unable unwilling refuse decline pass skip leave against outside beyond off denied stop".split()
)
"""Each refusal holds one of these, and looking for them is quicker than for the refusal."""
DISCLAIMER = re.compile(
    r"\b(?:medical|legal|financial|personal\w*|professional|tax|investment|psychological)\b[^.!?\n]{0,40}"
    r"\b(?:advice|adviser|diagnos\w+|opinion)\b[^.!?\n]*\bbut\b|\bbut here(?:'s| is| are)\b"
)
"""A sentence that seems to decline and goes on to answer."""
APOLOGY = re.compile(
    r"^\W*(?:i'?m |i am |we'?re |so |my )?(?:really |very |truly |so |deeply )?"
    r"(?:sorry|apolog\w+|afraid|unfortunately|regret\w*)"
)
MORAL = re.compile(
    r"\b(?:illegal|unethical|harmful|dangerous|inappropriate|not appropriate|safety|violat\w+|guidelines|policy|"
    r"responsibl\w+)\b"
)
OFFER = re.compile(
    r"\b(?:instead|however|but i can|here(?:'s| is| are)|if you(?:'d| would)? (?:like|need)|"
    r"i can (?:help|offer|provide|share))\b"
)
REDIRECTION = re.compile(
    r"\b"
    + _any(
        "i can (?:also |instead |still )?(?:help|offer|provide|share|assist|suggest|explain|discuss|talk|outline|walk)",
        *("i(?:'d| would) be (?:happy|glad)", "happy to", "let me know", "feel free", "i(?:'m| am) here to"),
        "if you(?:'re| are|'d| would| have| need| want)",
        "please (?:consult|contact|seek|reach|consider|let|feel|ask|try|see|note)",
        *(
            "is there (?:anything|something)",
            "would you like",
            "do you want",
            "how (?:else )?(?:can|may) i",
            "what else",
        ),
        *("reach out", "i(?:'d| would) (?:recommend|suggest|encourage)", "thank you for (?:your )?understand"),
        *("ask me", "try asking", "as an ai", "consider (?:speaking|talking|consulting)"),
    )
    + r"\b"
)
"""A sentence that leads elsewhere: an offer, advice to ask others, a closing phrase."""
PREACHING = re.compile(
    r"\b"
    + _any(
        *(
            "illegal",
            "unethical",
            "harmful",
            "inappropriate",
            "against the law",
            "legal consequences",
            "is wrong",
            "not okay",
        ),
        *(r"respect\w*", "guidelines", "polic(?:y|ies)", r"responsibl\w+", r"ethic\w+", "sensitive", "safety reasons"),
        *("my (?:purpose|role|goal|programming)", "important to (?:remember|note|consider|treat|prioriti)"),
        *("could (?:cause|lead to|result in) harm", r"promot\w+ (?:harm|violence)", r"comfort\w+ zone"),
    )
    + r"\b"
)
"""A sentence about right and wrong."""
ABOUT_REFUSING = re.compile(
    r"\b(?:declin|refus|reject|turn(?:s|ing)? down|say(?:s|ing)? no|can't|cannot|can not|won't|unable)", re.IGNORECASE
)
"""A request for, or about, a text that refuses."""
ABOUT_SPEECH = re.compile(
    r"[\"“«']|\b(?:sa(?:y|id)|story|writ|scene|play|quot|translat|dialog|character|line)", re.IGNORECASE
)
"""A request for something that somebody says: a reply that is one quote is not the assistant's word."""
