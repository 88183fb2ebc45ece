"""Tables of a comparison by the values of a column of the annotations: ego or not, day or night."""

from crashchat.evaluation.strata import FEWEST, MOST_VALUES, column_values, grouped
from crashchat.reporting.comparison import Comparison
from crashchat.reporting.tables import TOO_FEW, Table, breakdown_tables

COLUMN_NOTE = f"{TOO_FEW}: fewer than {FEWEST} videos have the value"


def column_tables(comparison: Comparison, column: str) -> list[Table]:
    """The main figure of each task by the values of a column, as `score --by` groups them.

    Raises PredictionError where no question has it, or where its values are no groups.
    """
    tables = []
    for task, file in comparison.asked.items():
        found = grouped(column_values(file, column), column)
        groups = {video: value for value, videos in found.items() for video in videos}
        rows = {name: {task: row[task]} for name, row in comparison.sums.items() if task in row}
        tables += breakdown_tables(rows, groups, column, limit=MOST_VALUES + 1, fewest=FEWEST)
    return tables
