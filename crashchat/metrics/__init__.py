"""Scores of prediction records. Pure functions; each returns what it counted and what it could not.

Two protocols side by side, in the same dict. Plain keys are the released scripts' numbers, under the released
scripts' names: records that do not parse are dropped. Keys with `strict_` in front are over every question: an answer
that does not parse, or a video that could not be read, counts as wrong.

Every task also counts num_records = num_scored + num_unparsed (an answer that is none) + num_failed (no answer: the
record carries an `error`) + num_no_truth (nothing annotated to hold it against) and, for pre-crash localization,
+ missing_video_count + bad_gt_tta_count. A figure with nothing to average is None ('not computed'), never 0.
"""
