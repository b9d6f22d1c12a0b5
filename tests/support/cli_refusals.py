"""How the command line says no."""


def refused(result, code, *texts):
    """One line on standard error, nothing else, and the code."""
    assert result[0] == code
    assert result[1] == ""
    assert result[2].startswith("normserve: ")
    assert result[2].count("\n") == 1
    for text in texts:
        assert text in result[2]
