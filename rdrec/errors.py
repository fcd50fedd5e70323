"""The one error of the data package. Raised with a single line that names the file, row or key and the mend."""


class DatasetError(ValueError):
    """Input that cannot become a dataset, or a folder that is not one; the message is one line for the user."""
