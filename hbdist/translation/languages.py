"""What is known of languages before any model: their FLORES-200 codes, their scripts, and their function words."""

import unicodedata
from functools import cache

from hbdist.models.language_codes import _table, flores_code

OPUS = _table("""
    ar=ara az=aze et=est fa=fas lv=lav mg=mlg mn=mon ms=msa ne=nep no=nor or=ori ps=pus sq=sqi sw=swa uz=uzb yi=yid
    zh=cmn_Hans zh_Hans=cmn_Hans zh_Hant=cmn_Hant
""")
"""Our code → Opus-MT's, where it is neither ours nor that of FLORES-200."""

SCRIPTS: dict[str, frozenset[str]] = {
    "Arab": frozenset({"ARABIC"}),
    "Armn": frozenset({"ARMENIAN"}),
    "Beng": frozenset({"BENGALI"}),
    "Cyrl": frozenset({"CYRILLIC"}),
    "Deva": frozenset({"DEVANAGARI"}),
    "Ethi": frozenset({"ETHIOPIC"}),
    "Geor": frozenset({"GEORGIAN"}),
    "Grek": frozenset({"GREEK"}),
    "Gujr": frozenset({"GUJARATI"}),
    "Guru": frozenset({"GURMUKHI"}),
    "Hang": frozenset({"HANGUL"}),
    "Hans": frozenset({"CJK"}),
    "Hant": frozenset({"CJK"}),
    "Hebr": frozenset({"HEBREW"}),
    "Jpan": frozenset({"HIRAGANA", "KATAKANA", "CJK"}),
    "Khmr": frozenset({"KHMER"}),
    "Knda": frozenset({"KANNADA"}),
    "Laoo": frozenset({"LAO"}),
    "Latn": frozenset({"LATIN"}),
    "Mlym": frozenset({"MALAYALAM"}),
    "Mymr": frozenset({"MYANMAR"}),
    "Orya": frozenset({"ORIYA"}),
    "Sinh": frozenset({"SINHALA"}),
    "Taml": frozenset({"TAMIL"}),
    "Telu": frozenset({"TELUGU"}),
    "Thai": frozenset({"THAI"}),
    "Tibt": frozenset({"TIBETAN"}),
}
"""Script of a code → the first words that Unicode names of its letters have."""

NAMED = frozenset().union(*SCRIPTS.values())

UNSPACED = frozenset({"Hans", "Hant", "Jpan"})
"""Scripts that put nothing between sentences."""

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
"""Words that texts of any subject are full of, for languages of the Latin script."""


def script_of(language: str) -> str | None:
    """The script of a language's texts (`Latn`), or None if it is not known here."""
    written = flores_code(language).rpartition("_")[2]
    return written if written in SCRIPTS else None


@cache
def unicode_script(character: str) -> str:
    """The script a letter belongs to, by its Unicode name (`CYRILLIC`); empty for all that is not a letter of one."""
    if not character.isalpha():
        return ""
    words = unicodedata.name(character, "").replace("-", " ").split()
    return next((word for word in words[:2] if word in NAMED), "")
