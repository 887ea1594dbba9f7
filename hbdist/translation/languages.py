"""What is known of languages before any model: their FLORES-200 codes, their scripts, and their function words."""

import unicodedata
from functools import cache


def _table(entries: str) -> dict[str, str]:
    return dict(entry.split("=") for entry in entries.split())


FLORES = _table("""
    af=afr_Latn am=amh_Ethi ar=arb_Arab as=asm_Beng ast=ast_Latn ay=ayr_Latn az=azj_Latn ba=bak_Cyrl be=bel_Cyrl
    bem=bem_Latn bg=bul_Cyrl bn=ben_Beng bo=bod_Tibt bs=bos_Latn ca=cat_Latn ceb=ceb_Latn cs=ces_Latn cy=cym_Latn
    da=dan_Latn de=deu_Latn ee=ewe_Latn el=ell_Grek en=eng_Latn eo=epo_Latn es=spa_Latn et=est_Latn eu=eus_Latn
    fa=pes_Arab ff=fuv_Latn fi=fin_Latn fil=tgl_Latn fj=fij_Latn fo=fao_Latn fon=fon_Latn fr=fra_Latn ga=gle_Latn
    gd=gla_Latn gl=glg_Latn gn=grn_Latn gu=guj_Gujr ha=hau_Latn he=heb_Hebr hi=hin_Deva hr=hrv_Latn ht=hat_Latn
    hu=hun_Latn hy=hye_Armn id=ind_Latn ig=ibo_Latn ilo=ilo_Latn is=isl_Latn it=ita_Latn ja=jpn_Jpan jv=jav_Latn
    ka=kat_Geor kk=kaz_Cyrl km=khm_Khmr kn=kan_Knda ko=kor_Hang ku=kmr_Latn ky=kir_Cyrl lb=ltz_Latn lg=lug_Latn
    ln=lin_Latn lo=lao_Laoo lt=lit_Latn lv=lvs_Latn mg=plt_Latn mi=mri_Latn mk=mkd_Cyrl ml=mal_Mlym mn=khk_Cyrl
    mr=mar_Deva ms=zsm_Latn mt=mlt_Latn my=mya_Mymr nb=nob_Latn ne=npi_Deva nl=nld_Latn nn=nno_Latn no=nob_Latn
    ns=nso_Latn ny=nya_Latn oc=oci_Latn om=gaz_Latn or=ory_Orya pa=pan_Guru pl=pol_Latn ps=pbt_Arab pt=por_Latn
    qu=quy_Latn ro=ron_Latn ru=rus_Cyrl rw=kin_Latn sd=snd_Arab si=sin_Sinh sk=slk_Latn sl=slv_Latn sm=smo_Latn
    sn=sna_Latn so=som_Latn sq=als_Latn sr=srp_Cyrl ss=ssw_Latn st=sot_Latn su=sun_Latn sv=swe_Latn sw=swh_Latn
    ta=tam_Taml te=tel_Telu tg=tgk_Cyrl th=tha_Thai ti=tir_Ethi tk=tuk_Latn tl=tgl_Latn tn=tsn_Latn tr=tur_Latn
    tt=tat_Cyrl tw=twi_Latn ug=uig_Arab uk=ukr_Cyrl ur=urd_Arab uz=uzn_Latn vi=vie_Latn wo=wol_Latn xh=xho_Latn
    yi=ydd_Hebr yo=yor_Latn yue=yue_Hant zh=zho_Hans zh_Hans=zho_Hans zh_Hant=zho_Hant zu=zul_Latn
""")
"""Our code → that of FLORES-200 and NLLB-200, language_Script (arXiv 2207.04672, table 1)."""

M2M100 = _table("fil=tl nb=no zh_Hans=zh")
"""Our code → M2M100's, where they differ (arXiv 2010.11125)."""

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


def flores_code(language: str) -> str:
    """The FLORES-200 code of one of ours; a code that has none stands for itself."""
    return FLORES.get(language, language)


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
