"""The errors that a user can mend. Raised with a single line that names the file, row or key and the mend."""


class UserError(ValueError):
    """Something that the user can mend; the message is one line that names the file, flag or key and the mend."""


class DatasetError(UserError):
    """Input that cannot become a dataset, or a folder that is not one."""
