"""Scores of prediction records. Pure functions; each returns what it counted and what it could not.

Two protocols. `strict`, the default: every question counts, and an answer that does not parse or a video that
could not be read is wrong. `released`: what the released scripts do, which leave such records out; the
figures then agree with theirs.

Every task also counts num_records = num_scored + num_unparsed (an answer that is none) + num_failed (no
answer: the record carries an `error`) + num_no_truth (nothing annotated to hold it against) and, for
pre-crash localization, + missing_video_count + bad_gt_tta_count. A figure with nothing to average is None
('not computed'), never 0.
"""
