"""Facts about languages: their Opus-MT codes, their scripts, and their function words."""

import unicodedata
from functools import cache

from hbdist.models.language_codes import flores_code, parse_table

OPUS = parse_table("""
    ar=ara az=aze et=est fa=fas lv=lav mg=mlg mn=mon ms=msa ne=nep no=nor or=ori ps=pus sq=sqi sw=swa uz=uzb yi=yid
    zh=cmn_Hans zh_Hans=cmn_Hans zh_Hant=cmn_Hant
""")
"""hbdist code → Opus-MT code, where that is neither hbdist's nor FLORES-200's."""

SCRIPTS = {
    script: frozenset(names.split("|"))
    for script, names in parse_table("""
        Arab=ARABIC Armn=ARMENIAN Beng=BENGALI Cyrl=CYRILLIC Deva=DEVANAGARI Ethi=ETHIOPIC Geor=GEORGIAN Grek=GREEK
        Gujr=GUJARATI Guru=GURMUKHI Hang=HANGUL Hans=CJK Hant=CJK Hebr=HEBREW Jpan=HIRAGANA|KATAKANA|CJK Khmr=KHMER
        Knda=KANNADA Laoo=LAO Latn=LATIN Mlym=MALAYALAM Mymr=MYANMAR Orya=ORIYA Sinh=SINHALA Taml=TAMIL Telu=TELUGU
        Thai=THAI Tibt=TIBETAN
    """).items()
}
"""Script of a FLORES-200 code → scripts of its letters in Unicode, by the first word of a letter's Unicode name."""

UNICODE_SCRIPTS = frozenset().union(*SCRIPTS.values())

UNSPACED = frozenset({"Hans", "Hant", "Jpan"})
"""Scripts that put no space between sentences."""

FUNCTION_WORDS: dict[str, frozenset[str]] = {
    language: frozenset(words.split())
    for language, words in {
        "af": "die het n en van in is te wat nie dat om vir met op sy",
        "bs": "je u da na se su za od koji što sa nije ali bi",
        "ca": "de la que el i va els les una amb del per és no",
        "cs": "a v na se že je z ve pro ale jako by který do",
        "da": "at i og en af på for til det er som med der ikke den et har",
        "de": "der die und in zu den von das mit für ist dem ein im nicht",
        "en": "the of and to in a that is for was with it on by as",
        "es": "de la que el en y los un una las por con para su se",
        "et": "ja on et ei kui ta oli see mis oma ka kuid ning ma",
        "fi": "ja on että oli ei hän joka mutta kun se sen myös ovat kanssa",
        "fr": "de la le les et des en un une que est dans du pour qui",
        "ha": "da a na ya ta ba cikin wani kuma ne mai yi ga shi",
        "hr": "je u da na se su za od koji što s nije ali bi",
        "hu": "a az és hogy egy nem is volt meg azt ez mint de el",
        "id": "yang dan di untuk pada dengan dari ini dalam akan tidak itu adalah oleh",
        "ig": "na n nke ndị ahụ ọ ya ka onye bụ maka dị ga ihe",
        "is": "að og í á sem til við er um fyrir var ekki það með",
        "it": "di che il la e un in per è del una della non sono con",
        "lt": "ir kad į buvo iš su jis tai kaip dėl savo yra nuo bet",
        "lv": "un ir ka par ar no bija kas uz lai arī tika kā pēc",
        "ms": "yang dan di untuk dengan dalam pada ini akan tidak itu telah kepada oleh",
        "nb": "i og å en som for på til av at det er med ikke",
        "nl": "de van het een in en dat te op zijn voor is met niet",
        "nn": "i og å på som til for av at det er ein ikkje eit",
        "no": "i og å en som for på til av at det er med ikke",
        "pl": "w i na z się że do nie jest to jak przez od był",
        "pt": "de a que o e do da em um uma para os com não se",
        "ro": "de a în și la că din un care pentru cu nu este fost",
        "sk": "v a na sa že je ako s z do by aby ale pre",
        "sl": "je v in da na za se ki so bi s po bil ne",
        "so": "oo ee ka ah ku ay u iyo in waa soo la uu waxay",
        "sq": "të e në i një dhe për se që me nga është më nuk",
        "sv": "att och i en som för på av det är till med har inte",
        "sw": "ya na wa katika kwa kuwa la za ni cha kama ili lakini yake",
        "tr": "bir ve bu için da de ile olarak daha olan çok sonra göre en",
        "vi": "của và một đã các trong có cho là không với được người những",
        "yo": "àwọn ti ní ó tí ni kan láti tó fún ọ náà wọ àti",
    }.items()
}
"""Frequent words of texts on any subject, for languages in the Latin script."""


def script_of(language: str) -> str | None:
    """Return the script that a language is written in (`Latn`), or None if SCRIPTS does not have it."""
    script = flores_code(language).rpartition("_")[2]
    return script if script in SCRIPTS else None


@cache
def unicode_script(character: str) -> str:
    """Return the Unicode script of a letter (`CYRILLIC`); empty for other characters and other scripts."""
    if not character.isalpha():
        return ""
    words = unicodedata.name(character, "").replace("-", " ").split()
    return next((word for word in words[:2] if word in UNICODE_SCRIPTS), "")
