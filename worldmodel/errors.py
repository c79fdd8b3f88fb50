"""The one error that is meant for the person at the keyboard."""


def one_line(said: object) -> str:
    """What an error or a command says, without line breaks and indents."""
    return " ".join(str(said).split())


class InputError(ValueError):
    """Something a person gave cannot be used: a file, a folder, a setting.

    The message says what was wrong, what was found and what to do about it. The command line prints
    it as one line and ends with exit code 2; any other exception is a defect of ours and keeps its
    traceback.
    """
