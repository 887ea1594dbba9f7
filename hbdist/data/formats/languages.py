"""Language codes, as hbdist writes them."""


def language_code(name: str) -> str:
    """Return the code of a language that a file, a folder or a column is named after: `pt_BR` for `pt-BR`.

    A `-` separates the two languages of a pair, as in `en-pt_BR`, so that no code has one.
    """
    return name.strip().replace("-", "_")
